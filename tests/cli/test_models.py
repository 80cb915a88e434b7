"""decrypt-model, rekey, make-rekey-update and apply-rekey-update: the models they write, and what they refuse."""

import json
import os
import stat

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers.leaks import assert_no_secret
from helpers.workplace import processor
from hf_privseg import RekeyUpdate, SecretKey, SetrForSemanticSegmentation, SetrImageProcessor

PERMUTATION = pytest.mark.parametrize("place", ["permutation"], indirect=True)


@pytest.fixture
def new_key(place):
    """A key of another family, in new.key."""
    key = SecretKey.generate("signed_permutation")
    key.to_file(place.folder / "new.key")
    return key


def weights(folder):
    return SetrForSemanticSegmentation.from_pretrained(folder).state_dict()


def assert_same_weights(found, expected, tolerance):
    expected = weights(expected)
    for name, value in weights(found).items():
        torch.testing.assert_close(value, expected[name], rtol=tolerance, atol=tolerance)


def encryption_of(folder):
    return json.loads((folder / "config.json").read_text()).get("encryption")


def facts_of(key):
    return {"family": key.family, "version": 1, "fingerprint": key.fingerprint}


@pytest.mark.parametrize(
    ("place", "tolerance"),
    [("permutation", 0), ("orthogonal", 1e-6)],
    ids=["bit-for-bit", "rounding"],
    indirect=["place"],
)
def test_decrypt_model_undoes_encrypt_model_in_a_folder_for_its_owner(place, tolerance):
    output = place.folder / "plain_again"
    facts = place.run_json("decrypt-model", place.encrypted_model(), output, "-k", place.key_file)
    assert facts == {"path": str(output), "encryption": None}
    assert encryption_of(output) is None
    assert_same_weights(output, place.folder / "model", tolerance)
    assert SetrImageProcessor.from_pretrained(output).patch_size == 4
    assert (output / "LICENSE.md").read_text() == "terms"
    assert stat.S_IMODE(output.stat().st_mode) == 0o700 or os.name != "posix"
    assert not np.array_equal(*(weights(each)[PROJECTION] for each in (output, place.folder / "encrypted_model")))


PROJECTION = "setr.embeddings.patch_embeddings.projection.weight"


def test_decrypt_model_refuses_another_key_and_a_plain_model(place, new_key):
    model, output = place.encrypted_model(), place.folder / "out"
    message = place.fail("decrypt-model", model, output, "-k", place.folder / "new.key")
    assert f"the secret key (key fingerprint {new_key.fingerprint}" in message
    assert f"(key fingerprint {place.key.fingerprint}" in message
    message = place.fail("decrypt-model", place.folder / "model", output, "-k", place.key_file)
    assert f"the model {place.folder / 'model'} is plain" in message
    assert not output.exists()


def test_rekey_gives_the_model_that_the_new_key_encrypts(place, new_key):
    output, expected = place.folder / "out", place.folder / "expected"
    arguments = ("rekey", place.encrypted_model(), output, "-k", place.key_file, "-n", place.folder / "new.key")
    assert place.run_json(*arguments) == {"path": str(output), "encryption": facts_of(new_key)}
    place.succeed("encrypt-model", place.folder / "model", expected, "-k", place.folder / "new.key")
    assert encryption_of(output) == facts_of(new_key)
    assert_same_weights(output, expected, 1e-6)
    assert f"{output} exists; choose another folder" in place.fail(*arguments)
    for path in output.rglob("*"):
        for key in (place.key, new_key):
            assert_no_secret(path.read_bytes(), key)


def test_rekey_in_place_if_forced(place, new_key):
    model = place.encrypted_model()
    place.succeed("rekey", model, model, "-k", place.key_file, "-n", place.folder / "new.key", "--force")
    assert encryption_of(model) == facts_of(new_key)
    assert not list(place.folder.glob(".*"))


@pytest.mark.parametrize("command", ["rekey", "make-rekey-update"])
def test_twice_the_same_key_is_refused(place, command):
    paths = {"rekey": [place.folder / "model", place.folder / "out"], "make-rekey-update": [place.folder / "out"]}
    message = place.fail(command, *paths[command], "-k", place.key_file, "-n", place.key_file)
    assert (
        f"expected two different keys, got twice the one of fingerprint {place.key.fingerprint} (orthogonal)"
        in message
    )
    assert not (place.folder / "out").exists()


def test_rekey_refuses_an_old_key_that_is_not_the_model_s(place, new_key):
    message = place.fail(
        "rekey", place.encrypted_model(), place.folder / "out", "-k", place.folder / "new.key", "-n", place.key_file
    )
    assert f"the secret key (key fingerprint {new_key.fingerprint}" in message


def test_an_update_changes_a_key_without_any_key(place, new_key, monkeypatch):
    model, update = place.encrypted_model(), place.folder / "next.rekey"
    monkeypatch.setenv("PRIVSEG_KEY", place.key.to_text())
    facts = place.run_json("make-rekey-update", update, "-n", place.folder / "new.key", "--model", model)
    assert facts["old"] == facts_of(place.key)
    assert facts["new"] == facts_of(new_key)
    assert facts["patch_size"] == RekeyUpdate.from_file(update).patch_size == 4
    assert stat.S_IMODE(update.stat().st_mode) == 0o600 or os.name != "posix"
    assert_no_secret(update.read_bytes(), new_key)

    monkeypatch.delenv("PRIVSEG_KEY")
    rekeyed = place.folder / "rekeyed"
    place.succeed("rekey", model, rekeyed, "-k", place.key_file, "-n", place.folder / "new.key")
    for key_file in (place.key_file, place.folder / "new.key"):
        key_file.unlink()
    applied = place.run_json("apply-rekey-update", model, update, place.folder / "out")
    assert applied == {"path": str(place.folder / "out"), "encryption": facts_of(new_key)}
    assert_same_weights(place.folder / "out", rekeyed, 1e-6)


def test_an_update_without_a_model_is_for_patches_of_16(place, new_key):
    update = place.folder / "next.rekey"
    place.succeed("make-rekey-update", update, "-k", place.key_file, "-n", place.folder / "new.key")
    assert RekeyUpdate.from_file(update).patch_size == 16
    message = place.fail("apply-rekey-update", place.encrypted_model(), update, place.folder / "out")
    assert "the update is for a weight of shape (hidden_size, 3, 16, 16)" in message
    assert not (place.folder / "out").exists()


def test_make_rekey_update_refuses_a_file_that_exists_and_another_key(place, new_key):
    model, update = place.encrypted_model(), place.folder / "next.rekey"
    update.touch()
    arguments = ("make-rekey-update", update, "-k", place.key_file, "-n", place.folder / "new.key", "--model", model)
    assert f"{update} exists, and the model that the rekey update in it is for would lose it; choose" in (
        message := place.fail(*arguments)
    )
    assert message.endswith("or overwrite it with --force")
    assert update.stat().st_size == 0
    place.succeed(*arguments, "--force")
    swapped = ("-k", place.folder / "new.key", "-n", place.key_file)
    message = place.fail("make-rekey-update", place.folder / "x.rekey", *swapped, "--model", model)
    assert f"the secret key (key fingerprint {new_key.fingerprint}" in message


def test_apply_rekey_update_refuses_what_does_not_fit(place, new_key):
    model, update = place.encrypted_model(), place.folder / "next.rekey"
    RekeyUpdate.between(new_key, place.key, patch_size=4).to_file(update)
    message = place.fail("apply-rekey-update", model, update, place.folder / "out")
    assert f"the old key of the update (key fingerprint {new_key.fingerprint}" in message
    update.write_bytes(b"no update")
    message = place.fail("apply-rekey-update", model, update, place.folder / "out")
    assert f"{update}: expected a file that RekeyUpdate.to_file wrote" in message


@PERMUTATION
def test_every_command_prints_json_alone(place):
    """Those that no other test has: the whole way of a image."""
    key_file, output = place.folder / "k.key", place.folder / "out"
    made = place.run_json("keygen", key_file, "--family", "permutation")
    key = SecretKey.from_file(key_file)
    assert made == {"path": str(key_file), **facts_of(key)}
    model = place.folder / "encrypted"
    written = place.run_json("encrypt-model", place.folder / "model", model, "-k", key_file)
    assert written == {"path": str(model), "encryption": facts_of(key)}
    image, ciphertext = place.folder / "image.png", output / "image.encrypted.png"
    encrypted = place.run_json("encrypt", image, "--model", model, "-o", output, "-k", key_file)
    assert encrypted == {
        **facts_of(key),
        "patch_size": processor().patch_size,
        "images": [{"image": str(image), "encrypted": str(ciphertext), "skipped": False}],
    }
    found = place.run_json("segment", "--model", model, ciphertext, "-o", output, "--overlay", "-k", key_file)
    assert (found["model"], found["encryption"]) == (str(model), facts_of(key))
    (image,) = found["images"]
    labels = place.label_map("out/image.segmentation.png")
    assert (image["height"], image["width"]) == labels.shape
    assert image["segmentation"] == str(output / "image.segmentation.png")
    assert image["overlay"] == str(output / "image.overlay.png")
    names = {0: "sky", 1: "road", 2: "tree"}
    shares = {entry["label"]: entry["share"] for entry in image["shares"]}
    assert shares == {names[i]: pytest.approx((labels == i).mean()) for i in np.unique(labels)}
    assert sorted(shares.values(), reverse=True) == list(shares.values())


def test_a_client_embedding_has_no_rekey_update(place):
    path = place.folder / "client.bin"
    place.succeed("make-client-embedding", place.folder / "model", path)
    message = place.fail("make-rekey-update", place.folder / "next.rekey", "-k", place.key_file, "-n", path)
    assert "ClientEmbedding" in message


def dtypes(folder):
    return {name: value.dtype for name, value in load_file(folder / "model.safetensors").items()}


def test_what_is_stored_in_half_precision_stays_so_but_for_the_encrypted_weight(place):
    plain = SetrForSemanticSegmentation.from_pretrained(place.folder / "model")
    halves = {name: v.half() if v.is_floating_point() else v for name, v in plain.state_dict().items()}
    plain.save_pretrained(place.folder / "half", state_dict=halves)
    processor().save_pretrained(place.folder / "half")
    place.succeed("encrypt-model", place.folder / "half", place.folder / "encrypted", "-k", place.key_file)
    stored, expected = dtypes(place.folder / "encrypted"), dtypes(place.folder / "half")
    (encrypted,) = (name for name in stored if name.endswith("patch_embeddings.projection.weight"))
    permuted = place.key.family in ("permutation", "signed_permutation")
    assert stored == expected | ({} if permuted else {encrypted: torch.float32})
    found, half = weights(place.folder / "encrypted"), weights(place.folder / "half")
    assert all(torch.equal(value, half[name]) for name, value in found.items() if name != encrypted)
    place.succeed("decrypt-model", place.folder / "encrypted", place.folder / "decrypted", "-k", place.key_file)
    assert_same_weights(place.folder / "decrypted", place.folder / "half", 0 if permuted else 1e-6)


@PERMUTATION
def test_a_permuted_weight_stays_in_half_precision_too(place):
    test_what_is_stored_in_half_precision_stays_so_but_for_the_encrypted_weight(place)
