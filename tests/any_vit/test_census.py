"""Every class of transformers that is said to work, encrypted: outputs as before with the key, others without it."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers

from helpers import preloaded
from helpers.tiny_setr import make_key
from hf_privseg.any_vit.model_encryption import decrypt_model, encrypt_model
from hf_privseg.any_vit.model_facts import ModelFacts
from hf_privseg.any_vit.proof import difference, outputs_of
from hf_privseg.any_vit.support import refusal, untested
from hf_privseg.any_vit.tested_classes import TESTED_CLASSES
from hf_privseg.setr.public_facts import FAMILIES
from tiny_vision import CASES, REFUSED, randomize
from tiny_vision.measuring import classes_around, encrypted_inputs, measure, relatives
from tiny_vision.model_folders import REFUSED_FOLDERS, TESTED_FOLDERS, UNTESTED_FOLDERS

pytestmark = pytest.mark.filterwarnings("ignore:the blocks of:UserWarning")

# float32 sums in another order differ by some 1e-6; the deepest of these models make 1e-5 of that.
ROUNDING = 1e-4
OTHER = 0.02


@cache
def built(name):
    """A case with random weights, built once; tests leave its model decrypted, equal up to rounding."""
    case = CASES[name]()
    randomize(case.model)
    return case


@cache
def related(name):
    """Cases of other classes with the same configuration."""
    return tuple(relatives(built(name)))


KEYS = {family: (make_key(family), make_key(family, first_byte=7)) for family in FAMILIES}  # with their ciphers


def assert_encryption_cancels(case, families):
    measured = list(measure(case, [KEYS[family] for family in families]))
    assert [each.family for each in measured] == list(families)
    for each in measured:
        assert each.encrypted < ROUNDING, each
        assert each.after_decryption < ROUNDING, each
        assert each.without_key > OTHER, each
        assert each.wrong_key > OTHER, each


@pytest.mark.parametrize("name", CASES)
def test_outputs_stay_with_the_key_and_change_without_it(name):
    assert_encryption_cancels(built(name), FAMILIES)


@pytest.mark.parametrize("name", CASES)
def test_so_they_do_in_other_classes_of_the_same_configuration(name):
    for relative in related(name):
        assert_encryption_cancels(relative, ["orthogonal"])


@pytest.mark.parametrize("name", CASES)
def test_saved_and_loaded_it_says_the_same_of_itself_and_computes_the_same(name, tmp_path):
    case, key = built(name), KEYS["orthogonal"][0]
    plain = outputs_of(*case)
    encrypt_model(case.model, key)
    try:
        case.model.save_pretrained(tmp_path)
        loaded = type(case.model).from_pretrained(tmp_path)
        assert ModelFacts.of(loaded) == ModelFacts.of(case.model)
        after = outputs_of(loaded, encrypted_inputs(case, key))
    finally:
        decrypt_model(case.model, key)
    assert max(difference(*pair) for pair in zip(after, plain, strict=True)) < ROUNDING


@cache
def refused(name):
    return REFUSED[name][0]()


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_cannot_be_encrypted_is_refused_with_the_reason(name):
    model, reason = refused(name), REFUSED[name][1]
    with pytest.raises(
        ValueError, match=f"^{type(model).__name__} cannot be encrypted.*{re.escape(reason)}"
    ) as raised:
        encrypt_model(model, make_key(), unverified=True)
    assert "\n" not in str(raised.value)
    assert ModelFacts.of(model) is None


def test_the_list_of_tested_classes_is_what_these_tests_encrypt():
    found = set()
    for name in CASES:
        for case in (built(name), *related(name)):
            found.update(classes_around(case.model))
    assert found == TESTED_CLASSES


def test_a_class_beside_the_list_and_one_that_is_refused_are_told_apart():
    assert untested(["ViTModel", "PaperViT"]) == ["PaperViT"]
    assert refusal("ViTModel", ["ViTModel", "Linear"]) is None
    assert "its head is trained" in str(refusal("SwinForMaskedImageModeling", []))
    assert "it adds prompts to them" in str(refusal("A", ["TvpVisionModel"]))


# ------------------------------------------------------------------------------ what a later transformers may add


def folders_that_read_pixels():
    """Names of all models of the installed transformers whose forward pass takes pixels."""
    models = Path(transformers.__file__).parent / "models"
    takes_pixels = re.compile(r"def forward\([^)]*\bpixel_values\w*:", re.DOTALL)
    return {
        path.parent.name
        for path in models.glob("*/modeling_*.py")
        if takes_pixels.search(path.read_text(encoding="utf-8"))
    }


def test_every_model_of_transformers_that_reads_pixels_has_been_looked_at():
    known = TESTED_FOLDERS | REFUSED_FOLDERS | UNTESTED_FOLDERS
    new = sorted(folders_that_read_pixels() - known)
    assert not new, (
        f"transformers {transformers.__version__} has models that nobody has looked at: {', '.join(new)}. Build a "
        "tiny one in benchmarks/tiny_vision, and add the folder to benchmarks/tiny_vision/model_folders.py"
    )


def test_the_folders_of_tested_and_refused_models_are_those_of_the_tiny_models():
    def folder(model):
        return type(model).__module__.split(".")[-2]

    ours = {"setr", "maskformer"}
    assert {folder(built(name).model) for name in CASES} - ours == TESTED_FOLDERS - ours
    assert {folder(refused(name)) for name in REFUSED} <= REFUSED_FOLDERS | TESTED_FOLDERS


# ------------------------------------------------------------------------------ a server with transformers alone

SERVER = """
import sys, torch, transformers
sys.modules["hf_privseg"] = None  # whoever imports it fails
model = transformers.AutoModel.from_pretrained(sys.argv[1])
inputs = torch.load(sys.argv[2], weights_only=True)
with torch.no_grad():
    torch.save(model(**inputs).last_hidden_state, sys.argv[3])
print(model.config.encryption["fingerprint"])
"""


def test_a_server_runs_the_encrypted_model_without_this_package(tmp_path):
    case = built("vit")
    model = randomize(transformers.ViTModel(case.model.config))
    plain = outputs_of(model, case.inputs)[0]
    encrypt_model(model, make_key()).save_pretrained(tmp_path / "model")
    torch.save(encrypted_inputs(case._replace(model=model), make_key()), tmp_path / "inputs.pt")
    arguments = [tmp_path / "model", tmp_path / "inputs.pt", tmp_path / "outputs.pt"]
    done = preloaded.run("transformers", "-c", SERVER, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == make_key().fingerprint
    assert difference(torch.load(tmp_path / "outputs.pt", weights_only=True), plain) < ROUNDING
