"""Checkpoints with code: saved here, loaded by a process that cannot import this package."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import preloaded
from helpers.paths import ROOT
from helpers.tiny_setr import make_key, tiny_model
from hf_privseg import SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor, SetrModel
from hf_privseg.storage.remote_code import register_remote_code

CLASSES = (SetrConfig, SetrModel, SetrForSemanticSegmentation, SetrImageProcessor)

ELSEWHERE = """
import shutil
import sys

sys.modules["hf_privseg"] = None  # importing it fails, installed or not

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation
from transformers.dynamic_module_utils import get_class_from_dynamic_module

folder, key_text = sys.argv[1], sys.stdin.read()
model = AutoModelForSemanticSegmentation.from_pretrained(folder, trust_remote_code=True).eval()
encoder = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules"), type(model)
assert (type(encoder).__name__, type(processor).__name__) == ("SetrModel", "SetrImageProcessor")

image = Image.open(folder + "/image.tif")
with torch.no_grad():
    plain = model(**processor(image, return_tensors="pt")).logits
    assert torch.equal(plain, torch.from_numpy(np.load(folder + "/logits.npy")))
    assert torch.equal(
        encoder(**processor(image, return_tensors="pt"))[0], model.setr(**processor(image, return_tensors="pt"))[0]
    )

    # a key of another copy of the module, which is another class
    other = shutil.copytree(folder, folder + "_copy")
    key = get_class_from_dynamic_module("keys.SecretKey", other).from_text(key_text)
    model.encrypt_model(key)
    encrypted = model(**processor(image, secret_key=key, return_tensors="pt")).logits
    torch.testing.assert_close(encrypted, plain, rtol=1e-4, atol=1e-5)
    # an encrypted image of another copy, and a key as bytes
    ciphertext = AutoImageProcessor.from_pretrained(other, trust_remote_code=True).encrypt(image, key)
    received = model(**processor(ciphertext, return_tensors="pt")).logits
    torch.testing.assert_close(received, plain, rtol=1e-4, atol=1e-5)
    ciphertext.to_file(folder + "/x" + ciphertext.suffix)
    foreign = get_class_from_dynamic_module("encrypted_image.EncryptedImage", other)
    from_disk = foreign.from_file(folder + "/x" + ciphertext.suffix)
    assert type(from_disk) is not get_class_from_dynamic_module("encrypted_image.EncryptedImage", folder)
    again = model(**processor(from_disk, return_tensors="pt")).logits
    torch.testing.assert_close(again, plain, rtol=1e-3, atol=1e-3)  # its file has 16 bits a value
    model.decrypt_model(bytes(range(32)))
    assert model.config.encryption is None
    # a client embedding of another copy of the module
    embedding = get_class_from_dynamic_module("client_embedding.ClientEmbedding", other).generate(model)
    model.encrypt_model(embedding)
    assert type(embedding) is not get_class_from_dynamic_module("client_embedding.ClientEmbedding", folder)
    encrypted = model(**processor(image, secret_key=embedding, return_tensors="pt")).logits
    torch.testing.assert_close(encrypted, plain, rtol=1e-4, atol=1e-5)
    received = model(**processor(processor.encrypt(image, embedding), return_tensors="pt")).logits
    torch.testing.assert_close(received, plain, rtol=1e-4, atol=1e-5)
    model.decrypt_model(embedding)

model.encrypt_model(key).save_pretrained(folder + "_again")
again = AutoModelForSemanticSegmentation.from_pretrained(folder + "_again", trust_remote_code=True)
assert again.config.encryption["fingerprint"] == key.fingerprint
assert "modeling_setr.SetrModel" in again.config.auto_map["AutoModel"]
print("loaded without the package")
"""


@pytest.fixture
def remote_code():
    register_remote_code()
    yield
    for cls in CLASSES:
        cls._auto_class = None


def test_all_files_of_setr_are_saved_and_nothing_else(remote_code, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    SetrImageProcessor(patch_size=4).save_pretrained(tmp_path)
    room = ROOT / "hf_privseg" / "setr"
    shipped = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.py")}
    assert shipped == {
        path.name: path.read_text(encoding="utf-8") for path in room.glob("*.py") if path.stem != "__init__"
    }
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_without_the_call_no_code_is_saved(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    SetrImageProcessor(patch_size=4).save_pretrained(tmp_path)
    assert list(tmp_path.glob("*.py")) == []
    assert "auto_map" not in (tmp_path / "config.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("num_channels", [3, 5])
def test_a_process_without_the_package_loads_encrypts_and_segments(remote_code, num_channels, tmp_path):
    model = tiny_model("mla", num_channels=num_channels)
    processor = SetrImageProcessor(patch_size=4, num_channels=num_channels)
    levels = np.random.default_rng(0).integers(0, 256, (num_channels, 18, 26), dtype=np.uint8)
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    with torch.no_grad():
        np.save(folder / "logits.npy", model(**processor(levels, return_tensors="pt")).logits.numpy())
    first, *others = [Image.fromarray(channel) for channel in levels]
    first.save(folder / "image.tif", save_all=True, append_images=others)
    assert json.loads((folder / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_setr.SetrConfig",
        "AutoModel": "modeling_setr.SetrModel",
        "AutoModelForSemanticSegmentation": "modeling_setr.SetrForSemanticSegmentation",
    }
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    result = preloaded.run(
        "transformers", "-c", ELSEWHERE, folder, cwd=tmp_path, env=environment, input=make_key().to_text()
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "loaded without the package" in result.stdout


def test_with_the_package_installed_its_own_classes_are_used(remote_code, tmp_path):
    from transformers import AutoModelForSemanticSegmentation

    tiny_model().save_pretrained(tmp_path)
    assert (tmp_path / "modeling_setr.py").exists()
    assert type(AutoModelForSemanticSegmentation.from_pretrained(tmp_path)) is SetrForSemanticSegmentation
