"""Training on ciphertexts, as an owner and a server do it: what it has in common with plain training, and the result.

A permutation, signed or not, commutes with every update of SGD and of Adam; a rotation with those of SGD alone, since
Adam scales each number of a weight by itself.
"""

import json

import pytest
import torch
from PIL import Image

pytest.importorskip("accelerate", reason="the train extra is not installed")

from helpers.example_runs import run_here
from hf_privseg import EncryptedImage, SecretKey, SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.cli.app import main

UPDATES = 4
SETTINGS = {
    "--crop_size": 32, "--max_steps": UPDATES, "--batch_size": 4, "--warmup_steps": 1, "--num_workers": 0,
    "--learning_rate": 1e-2, "--eval_every": 99, "--drop_path_rate": 0.5, "--checkpoint_every": 99,
}  # fmt: skip


def privseg(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert not ended.value.code


def train(data, start, output, *extra):
    given = [part for option in SETTINGS.items() for part in option]
    paths = ("--dataset", data, "--checkpoint", start, "--output_dir", output)
    return run_here("train_setr.py", *paths, *given, "--cpu", "--no_half_weights", *extra)


def losses(data, start, output, *extra):
    done = train(data, start, output, *extra)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return torch.tensor([row["loss"] for row in rows if "lr" in row])


@pytest.fixture(scope="module")
def workshop(inputs, tmp_path_factory):
    """A plain start, and for each family its key, the encrypted start and the data set of ciphertexts."""
    folder = tmp_path_factory.mktemp("workshop")
    torch.manual_seed(0)
    names = {0: "a", 1: "b", 2: "c"}
    SetrForSemanticSegmentation.from_vit(inputs / "vit", id2label=names).save_pretrained(folder / "plain")
    SetrImageProcessor().save_pretrained(folder / "plain")
    for family in ("permutation", "signed_permutation", "orthogonal"):
        key_file = folder / f"{family}.key"
        SecretKey(bytes(range(32)), family).to_file(key_file)  # always the same: with Adam, rounding differs with keys
        privseg("encrypt-model", folder / "plain", folder / family, "-k", key_file)
        for split in ("train", "val"):
            made = folder / f"{family}_data"
            privseg(
                "encrypt-dataset", inputs / "data", made, "-k", key_file, "--split", split, "--model", folder / family
            )
    return folder


@pytest.fixture(scope="module")
def plain_losses(inputs, workshop):
    """{optimizer: losses of plain training with crops on the patch grid alone}."""
    return {
        name: losses(inputs / "data", workshop / "plain", workshop / f"by_{name}", "--grid_crops", "--optimizer", name)
        for name in ("adamw", "sgd")
    }


@pytest.mark.parametrize(
    ("family", "optimizer"), [("permutation", "adamw"), ("signed_permutation", "adamw"), ("orthogonal", "sgd")]
)
def test_training_on_ciphertexts_is_training_on_plain_images(workshop, plain_losses, tmp_path, family, optimizer):
    found = losses(workshop / f"{family}_data", workshop / family, tmp_path, "--optimizer", optimizer)
    assert len(found) == UPDATES
    torch.testing.assert_close(found[:2], plain_losses[optimizer][:2], rtol=1e-3, atol=0)
    torch.testing.assert_close(found, plain_losses[optimizer], rtol=1e-2, atol=0)  # Adam makes rounding larger
    assert distance(workshop, tmp_path, family, optimizer) < 0.1


def distance(workshop, output, family, optimizer):
    """How far the decrypted patch embedding is from that of plain training, relative to the way that this went."""
    key = SecretKey.from_file(workshop / f"{family}.key")
    trained = SetrForSemanticSegmentation.from_pretrained(output)
    assert trained.config.key_facts == key.facts
    plain = SetrForSemanticSegmentation.from_pretrained(workshop / f"by_{optimizer}")
    models = (trained.decrypt_model(key), plain, SetrForSemanticSegmentation.from_pretrained(workshop / "plain"))
    found, expected, start = (model.patch_projection.weight for model in models)
    moved = (expected - start).norm()
    assert moved > 1e-3 * start.norm()
    return float((found - expected).norm() / moved)


@pytest.fixture(scope="module")
def trained_by_adam(workshop):
    """A model that was trained on ciphertexts of an orthogonal key, and its losses."""
    output = workshop / "orthogonal_by_adamw"
    return output, losses(workshop / "orthogonal_data", workshop / "orthogonal", output, "--optimizer", "adamw")


def test_adam_does_not_commute_with_a_rotation(workshop, plain_losses, trained_by_adam):
    output, found = trained_by_adam
    torch.testing.assert_close(found[0], plain_losses["adamw"][0], rtol=1e-3, atol=0)  # before any update
    assert distance(workshop, output, "orthogonal", "adamw") > 0.5


def test_the_result_serves_ciphertexts_and_after_decryption_plain_images(inputs, workshop, trained_by_adam):
    model = SetrForSemanticSegmentation.from_pretrained(trained_by_adam[0]).eval()
    processor = SetrImageProcessor.from_pretrained(trained_by_adam[0])
    key = SecretKey.from_file(workshop / "orthogonal.key")
    ciphertext = EncryptedImage.from_file(workshop / "orthogonal_data/images/val/000000.safetensors")
    plain = processor(Image.open(inputs / "data/images/val/0.png"), return_tensors="pt")
    with torch.inference_mode():
        encrypted_logits = model(**processor(ciphertext, return_tensors="pt")).logits
        undecrypted = model(**plain).logits
    model.decrypt_model(key)
    with torch.inference_mode():
        plain_logits = model(**plain).logits
    torch.testing.assert_close(encrypted_logits, plain_logits, rtol=1e-3, atol=2e-3)  # a file rounds to 16 bits
    assert (undecrypted - plain_logits).abs().max() > 0.1


def test_model_and_data_of_different_keys_are_refused_before_training(inputs, workshop, tmp_path):
    cases = [
        (inputs / "data", "permutation", "plain, but the model is encrypted"),
        (workshop / "permutation_data", "plain", "but the model is plain"),
        (workshop / "permutation_data", "orthogonal", "do not belong together"),
    ]
    for data, start, message in cases:
        done = train(data, workshop / start, tmp_path / start)
        assert done.returncode == 1
        assert message in done.stderr
        assert not (tmp_path / start / "checkpoints").exists()
