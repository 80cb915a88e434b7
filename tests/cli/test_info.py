"""`privseg info`: public facts of models and files, told by what is in them."""

import json

import numpy as np
import pytest
from PIL import Image

from helpers.leaks import assert_no_secret
from helpers.workplace import IMAGE_SIZE
from hf_privseg import (
    ClientEmbedding,
    RekeyUpdate,
    SecretKey,
    SetrConfig,
    SetrForSemanticSegmentation,
    SetrImageProcessor,
)
from hf_privseg.checkpoints import default_checkpoint
from hf_privseg.setr.keys import FAMILIES
from hf_privseg.setr.transform_code import TransformCode

every_family = pytest.mark.parametrize("place", FAMILIES, ids=FAMILIES, indirect=True)


def facts_of(key):
    return {"family": key.family, "version": 1, "fingerprint": key.fingerprint}


@pytest.mark.parametrize("is_encrypted", [False, True], ids=["plain", "encrypted"])
def test_a_model(place, is_encrypted):
    folder = place.encrypted_model() if is_encrypted else place.folder / "model"
    facts = place.run_json("info", folder)
    network = SetrForSemanticSegmentation.from_pretrained(folder)
    assert facts["kind"] == "model"
    assert facts["encryption"] == (facts_of(place.key) if is_encrypted else None)
    assert facts["labels"] == {"0": "sky", "1": "road", "2": "tree"}
    assert (facts["patch_size"], facts["hidden_size"], facts["decoder_type"]) == (4, 32, "naive")
    assert facts["images_are_resized_to"] == {"its own size times": 1.0}
    assert facts["num_parameters"] == sum(value.numel() for value in network.state_dict().values())
    assert "F32" in facts["dtypes"]
    assert facts["num_bytes"] == sum(path.stat().st_size for path in folder.iterdir())


def test_a_model_whose_processor_sets_the_size(place):
    SetrImageProcessor(patch_size=4, size={"shortest_edge": 40}).save_pretrained(place.folder / "model")
    assert place.run_json("info", place.folder / "model")["images_are_resized_to"] == {"shortest_edge": 40}


def test_a_model_in_words(place):
    out = place.succeed("info", place.encrypted_model())
    assert f"encryption family orthogonal, version 1, fingerprint {place.key.fingerprint}" in out
    assert "labels 0 sky, 1 road, 2 tree" in out
    assert "encryption none" in place.succeed("info", place.folder / "model")


def test_the_embedded_model(place):
    config = SetrConfig.from_pretrained(default_checkpoint())
    facts = place.run_json("info", "default")
    assert config.id2label is not None
    assert facts["labels"] == {str(index): label for index, label in config.id2label.items()}


@every_family
def test_a_key_file_whose_secret_is_not_shown(place):
    facts = place.run_json("info", place.key_file)  # fails if the secret is in it
    path = str(place.key_file)
    assert facts == {
        "kind": "secret key",
        **facts_of(place.key),
        "path": path,
        "num_bytes": len(place.key.to_text()) + 1,
    }
    assert f"fingerprint {place.key.fingerprint}" in place.succeed("info", place.key_file)


def test_a_damaged_key_file_is_not_repeated(place):
    place.key_file.write_text(place.key.to_text()[:-1])
    message = place.fail("info", place.key_file)
    assert f"key file {place.key_file}" in message
    assert "has 42 characters in its last part" in message


@every_family
def test_an_encrypted_image_by_its_content(place):
    path = place.encrypted_image().rename(place.folder / "renamed")
    facts = place.run_json("info", path)
    assert facts == {
        "kind": "encrypted image",
        **facts_of(place.key),
        "patch_size": 4,
        "bits": 8 if "permutation" in place.key.family else 16,
        "size": {"height": 24, "width": 32},
        "original_size": {"height": IMAGE_SIZE[0], "width": IMAGE_SIZE[1]},
        "valid_region": {"height": 24, "width": 32},
        "path": str(path),
        "num_bytes": path.stat().st_size,
    }


@pytest.mark.parametrize("new_family", ["permutation", "orthogonal"])
def test_a_rekey_update(place, new_family):
    new_key, path = SecretKey.generate(new_family), place.folder / "next.rekey"
    RekeyUpdate.between(place.key, new_key, patch_size=4).to_file(path)
    facts = place.run_json("info", path)
    assert (facts["kind"], facts["old"], facts["new"]) == ("rekey update", facts_of(place.key), facts_of(new_key))
    assert (facts["patch_size"], facts["num_channels"]) == (4, 3)
    assert_no_secret(place.succeed("info", path), new_key)


def refused_things(folder):
    Image.new("RGB", (8, 8)).save(folder / "image.jpg")
    (folder / "empty").mkdir()
    (folder / "note.txt").write_text("hello")
    damaged = folder / "cut"
    SetrForSemanticSegmentation.from_pretrained(folder / "model").save_pretrained(damaged)
    SetrImageProcessor(patch_size=4).save_pretrained(damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("image.png", "image.png is no key file and no rekey update, and refused as an encrypted image"),
        ("image.jpg", "expected a PNG or safetensors file, got JPEG"),
        ("note.txt", "got unknown content"),
        ("model/model.safetensors", "to see a model, give its folder"),
        ("empty", "empty, which holds no model (no config.json)"),
        ("nowhere", "nowhere, which is no file either"),
        ("cut", "cut/model.safetensors is truncated or damaged"),
    ],
    ids=["picture", "jpeg", "text", "weights", "folder", "absent", "damaged"],
)
def test_other_things_are_refused(place, name, message):
    refused_things(place.folder)
    assert message in place.fail("info", place.folder / name)


def test_info_tells_a_client_embedding_by_its_content_and_shows_no_secret(place):
    path = place.folder / "client.bin"
    written = json.loads(place.succeed("make-client-embedding", place.folder / "model", path, "--json"))
    told = json.loads(place.succeed("info", path, "--json"))
    assert told["kind"] == "client embedding"
    assert (told["block_length"], told["numbers_sent"]) == (48, 32)
    assert told["fingerprint"] == written["fingerprint"]
    assert "matrix" not in str(told)
    assert "bits_per_block" not in told
    embedding = ClientEmbedding.from_file(path)
    code = TransformCode(np.eye(32), np.array([0.5, 1.0]), np.array([99.0, 9.0]))
    embedding.with_code(code).to_file(path, overwrite=True)
    told = json.loads(place.succeed("info", path, "--json"))
    assert told["bits_per_block"] == {"least": 9.0, "most": 99.0}
