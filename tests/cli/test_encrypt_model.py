"""`privseg encrypt-model`: the folder that it writes, and what it refuses."""

import json

import pytest
import torch

from helpers.leaks import assert_no_secret
from hf_privseg import SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.setr.keys import FAMILIES

every_family = pytest.mark.parametrize("place", FAMILIES, ids=FAMILIES, indirect=True)


@every_family
def test_encrypt_model_writes_the_encrypted_model_complete(place):
    output = place.encrypted_model()
    facts = {"family": place.key.family, "version": 1, "fingerprint": place.key.fingerprint}
    assert json.loads((output / "config.json").read_text())["encryption"] == facts
    assert SetrImageProcessor.from_pretrained(output).patch_size == 4
    assert (output / "LICENSE.md").read_text() == "terms"
    expected = SetrForSemanticSegmentation.from_pretrained(place.folder / "model").encrypt_model(place.key)
    found = SetrForSemanticSegmentation.from_pretrained(output).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.state_dict().items())
    for path in output.rglob("*"):
        assert_no_secret(path.read_bytes(), place.key)


def test_encrypt_model_replaces_a_model_only_if_forced(place):
    output = place.encrypted_model()
    arguments = ("encrypt-model", place.folder / "model", output, "-k", place.key_file)
    assert f"{output} exists; choose another folder, or overwrite it with --force" in place.fail(*arguments)
    (output / "stale").touch()
    place.succeed(*arguments, "--force")
    assert not (output / "stale").exists()
    assert not list(place.folder.glob(".*"))


def test_encrypt_model_never_replaces_a_folder_that_holds_no_model(place):
    precious = place.folder / "precious"
    precious.mkdir()
    (precious / "thesis.txt").touch()
    message = place.fail("encrypt-model", place.folder / "model", precious, "-k", place.key_file, "--force")
    assert f"{precious} exists and holds no model" in message
    assert (precious / "thesis.txt").exists()


def test_encrypt_model_leaves_nothing_half_done(place, monkeypatch):
    def disk_full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(SetrImageProcessor, "save_pretrained", disk_full)
    before = sorted(place.folder.iterdir())
    arguments = ("encrypt-model", place.folder / "model", place.folder / "out", "-k", place.key_file)
    assert "No space left" in place.fail(*arguments)
    assert sorted(place.folder.iterdir()) == before


def test_encrypt_model_refuses_an_encrypted_model(place):
    message = place.fail("encrypt-model", place.encrypted_model(), place.folder / "twice", "-k", place.key_file)
    assert f"is encrypted (key fingerprint {place.key.fingerprint}, family orthogonal, version 1)" in message


def test_a_model_that_is_not_there_is_named(place):
    message = place.fail("encrypt-model", place.folder / "nowhere", place.folder / "out", "-k", place.key_file)
    assert f"got {place.folder / 'nowhere'}" in message
