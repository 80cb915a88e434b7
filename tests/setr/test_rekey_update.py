"""Rekey updates: a server without a key gets the model of the new key; what the file holds; every refusal."""

import copy
import json
import os
import pickle
import stat
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch

from helpers.leaks import assert_no_secret
from helpers.tiny_setr import FP32, SECRET, make_key, pixels, projection, tiny_model
from hf_privseg import (
    CiphertextError,
    EncryptedImage,
    EncryptionStateError,
    InvalidKeyError,
    KeyMismatchError,
    RekeyUpdate,
    SecretKey,
    SetrImageProcessor,
)
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.setr.keys import FAMILIES

EXACT = ("permutation", "signed_permutation")
PAIRS = [(old, new) for old in FAMILIES for new in FAMILIES]
every_pair = pytest.mark.parametrize(("old", "new"), PAIRS, ids=["-".join(pair) for pair in PAIRS])


def keys(old="orthogonal", new="orthogonal"):
    return make_key(old), make_key(new, first_byte=9)


def update_between(old="orthogonal", new="orthogonal"):
    return RekeyUpdate.between(*keys(old, new), patch_size=4)


def weight_of(model):
    return projection(model).weight.detach().clone()


# ------------------------------------------------------------------------------------------------ what it does


@every_pair
def test_an_updated_model_is_the_model_of_the_new_key(old, new):
    (old_key, new_key), model, expected = keys(old, new), tiny_model(), tiny_model()
    plain = model(pixels()).logits
    update = RekeyUpdate.from_bytes(update_between(old, new).to_bytes())
    assert model.encrypt_model(old_key).apply_rekey_update(update) is model
    expected.encrypt_model(new_key)
    assert model.config.encryption == expected.config.encryption
    if old in EXACT and new in EXACT:
        assert torch.equal(weight_of(model), weight_of(expected))
    # a float32 weight is rounded twice, and a matrix of condition 10 enlarges the first rounding at most that much
    assert (weight_of(model) - weight_of(expected)).norm() < 1e-6 * weight_of(expected).norm()
    ciphertext = cipher_for(new_key, patch_size=4).encrypt(pixels())
    torch.testing.assert_close(model(ciphertext).logits, plain, **FP32)


@every_pair
def test_in_float64_the_map_is_exact(old, new):
    (old_key, new_key), weight = keys(old, new), weight_of(tiny_model()).double()
    encrypted = cipher_for(old_key, patch_size=4).encrypt_weight(weight)
    expected = cipher_for(new_key, patch_size=4).encrypt_weight(weight)
    torch.testing.assert_close(update_between(old, new).apply_to_weight(encrypted), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_permutations_are_exact_in_half_precision_too(dtype):
    (old_key, new_key), weight = keys(*EXACT), weight_of(tiny_model()).to(dtype)
    ciphers = [cipher_for(key, patch_size=4) for key in (old_key, new_key)]
    updated = update_between(*EXACT).apply_to_weight(ciphers[0].encrypt_weight(weight))
    assert updated.dtype == dtype
    assert torch.equal(updated, ciphers[1].encrypt_weight(weight))


@every_pair
def test_what_is_stored_is_a_signed_permutation_or_a_matrix(old, new):
    tensors = update_between(old, new).tensors
    assert set(tensors) == ({"order", "signs"} if old in EXACT and new in EXACT else {"matrix"})


# ------------------------------------------------------------------------- what the docstring says a server learns


@every_pair
def test_whoever_has_the_update_translates_images_of_either_key_into_the_others(old, new):
    (old_key, new_key), update = keys(old, new), update_between(old, new)
    old_image, new_image = (cipher_for(key, patch_size=4).encrypt(pixels().double()) for key in (old_key, new_key))

    def blocks(image):
        return torch.nn.functional.unfold(image, 4, stride=4).transpose(1, 2)

    as_rows = torch.eye(48, dtype=torch.float64).reshape(48, 3, 4, 4)
    u = update.apply_to_weight(as_rows).reshape(48, 48).T
    torch.testing.assert_close(blocks(new_image) @ u, blocks(old_image))
    torch.testing.assert_close(blocks(old_image) @ torch.linalg.inv(u), blocks(new_image))


def test_a_server_with_both_encrypted_models_has_the_map_without_an_update():
    # hidden_size 64 >= L = 48: any family; the permutation families by comparing columns at any hidden_size
    (old_key, new_key), generator = keys("matrix"), torch.Generator().manual_seed(0)
    weight = torch.randn(64, 3, 4, 4, generator=generator, dtype=torch.float64)
    seen = [cipher_for(key, patch_size=4).encrypt_weight(weight).flatten(1) for key in (old_key, new_key)]
    found = torch.linalg.lstsq(*seen).solution
    np.testing.assert_allclose(found.numpy(), update_between("matrix").tensors["matrix"], rtol=0, atol=1e-9)

    few = weight_of(tiny_model())[:8]
    seen = [cipher_for(key, patch_size=4).encrypt_weight(few).flatten(1) for key in keys(*EXACT)]
    order = torch.cdist(seen[1].T.abs(), seen[0].T.abs()).argmin(dim=1)
    assert np.array_equal(order, update_between(*EXACT).tensors["order"])


# ------------------------------------------------------------------------------------------------- state and refusals


def assert_refused(model, error, message, update):
    weight, facts = weight_of(model), model.config.encryption
    with pytest.raises(error, match=message):
        model.apply_rekey_update(update)
    assert torch.equal(weight_of(model), weight)
    assert model.config.encryption == facts


def test_a_plain_model_is_refused():
    message = rf"the old key of the update \(key fingerprint {make_key().fingerprint}.* the model is plain"
    assert_refused(tiny_model(), EncryptionStateError, message, update_between())


@pytest.mark.parametrize("other", [make_key(first_byte=1), make_key("matrix")], ids=["other_bytes", "other_family"])
def test_the_model_of_another_key_is_refused_and_so_is_an_update_applied_twice(other):
    model, update = tiny_model().encrypt_model(other), update_between()
    message = rf"{make_key().fingerprint}, family orthogonal.*{other.fingerprint}, family {other.family}.*Nothing was"
    assert_refused(model, KeyMismatchError, message, update)
    model = tiny_model().encrypt_model(make_key()).apply_rekey_update(update)
    assert_refused(model, KeyMismatchError, "do not belong together", update)


def test_a_patch_embedding_of_another_shape_is_refused():
    update = RekeyUpdate.between(*keys(), patch_size=2)
    message = r"weight of shape \(hidden_size, 3, 2, 2\), got \(32, 3, 4, 4\)"
    assert_refused(tiny_model().encrypt_model(make_key()), ValueError, message, update)


def test_what_is_no_key_or_twice_the_same_is_refused():
    with pytest.raises(InvalidKeyError, match="got str"):
        RekeyUpdate.between("secret", make_key(), patch_size=4)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(
        ValueError, match=rf"twice the one of fingerprint {make_key().fingerprint} \(family orthogonal"
    ):
        RekeyUpdate.between(make_key(), SECRET, patch_size=4)
    with pytest.raises(ValueError, match="patch_size of a rekey update is an int >= 1, got True"):
        RekeyUpdate(make_key().facts, make_key("permutation").facts, True, 3, {})


# ------------------------------------------------------------------------------------------------------------ the file


@pytest.mark.parametrize("pair", [EXACT, ("matrix", "permutation")], ids=["exact", "dense"])
def test_a_file_keeps_everything_and_is_private(pair, tmp_path):
    update, path = update_between(*pair), tmp_path / "next.rekey"
    before = os.umask(0)
    try:
        update.to_file(path)
    finally:
        os.umask(before)
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = RekeyUpdate.from_file(path)
    assert (loaded.old, loaded.new, loaded.patch_size) == (update.old, update.new, 4)
    for name, tensor in update.tensors.items():
        assert np.array_equal(loaded.tensors[name], tensor)
    with pytest.raises(FileExistsError, match=r"next\.rekey exists, and a model that awaits the update"):
        update.to_file(path)
    update.to_file(path, overwrite=True)
    path.chmod(0o644)
    with pytest.warns(UserWarning, match=r"other users can reach the rekey update .*next\.rekey") as caught:
        RekeyUpdate.from_file(path)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(("old", "new"), [EXACT, ("orthogonal", "matrix")], ids=["exact", "dense"])
def test_no_key_shows_up_in_a_file_or_in_what_is_shown(old, new, tmp_path):
    pair = SecretKey.generate(old), SecretKey.generate(new)
    update = RekeyUpdate.between(*pair, patch_size=4)
    update.to_file(tmp_path / "x.rekey")
    for key in pair:
        assert_no_secret((tmp_path / "x.rekey").read_bytes(), key)
        assert_no_secret(f"{update!r} {update} {vars(update)}", key)
    facts = [f"{key.family} {key.fingerprint}" for key in pair]
    assert repr(update) == f"RekeyUpdate({facts[0]} -> {facts[1]}, patch_size=4, num_channels=3)"
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(
            TypeError, match=r"neither pickled nor copied, .*path of a rekey update file .*RekeyUpdate\.from_file"
        ):
            copied(update)


def changed(update, tensors=None, **entries):
    """The bytes of the update's file with other tensors or header entries (None removes one)."""
    data = update.to_bytes()
    header = json.loads(
        json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["privseg_rekey_update"]
    )
    header = {name: value for name, value in (header | entries).items() if value is not None}
    return safetensors.torch.save(
        safetensors.torch.load(data) | (tensors or {}), metadata={"privseg_rekey_update": json.dumps(header)}
    )


FACTS = {"family": "permutation", "version": 1, "fingerprint": "0" * 16}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, r"of format 1 with the entries .*'sha256'.*, got .*'format'"),
        ({"patch_size": None}, r"format 1 .* got \['format', 'new', 'num_channels', 'old', 'sha256'\]"),
        ({"patch_size": "4"}, "patch_size of a rekey update is an int >= 1, got '4'"),
        ({"num_channels": 1}, r"expected a rekey update with .*\(16,\).* got .*\(48,\)"),
        (
            {"old": FACTS | {"version": "1"}},
            "old of a rekey update: the version of a key is the number 1, got a str of 1 characters",
        ),
        (
            {"new": FACTS | {"family": "rot13"}},
            "new of a rekey update: the family .* is one of permutation, .*, got 'rot13'",
        ),
        ({"new": FACTS | {"family": "embedding"}}, "got families 'permutation' and 'embedding'; a client embedding"),
        ({"new": FACTS | {"family": "matrix"}}, r"expected a rekey update with .*matrix.*float64.* got .*order"),
        ({"tensors": {"order": torch.zeros(48, dtype=torch.int64)}}, r"order .* holds each of 0 \.\. 47 once"),
        ({"tensors": {"signs": torch.zeros(48, dtype=torch.int8)}}, r"signs .* are \+1 and -1, but some"),
        ({"tensors": {"order": torch.arange(48)}}, "not those that were written .their SHA-256 differs"),
    ],
    ids=[
        "format",
        "entries",
        "type",
        "geometry",
        "facts",
        "family",
        "client embedding",
        "kind",
        "order",
        "signs",
        "digest",
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused_and_named(change, message, tmp_path):
    path = tmp_path / "x.rekey"
    path.write_bytes(changed(update_between(*EXACT), **change))
    path.chmod(0o600)
    with pytest.raises(ValueError, match=rf"x\.rekey: .*{message}"):
        RekeyUpdate.from_file(path)


def test_a_matrix_with_infinite_numbers_is_refused():
    with pytest.raises(ValueError, match="has infinite numbers or NaN"):
        RekeyUpdate.from_bytes(changed(update_between(), {"matrix": torch.full((48, 48), torch.nan).double()}))


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff" * 64, make_key().to_text().encode(), safetensors.torch.save({"x": torch.zeros(1)})],
    ids=["empty", "noise", "key", "other safetensors"],
)
def test_something_else_is_refused_without_being_repeated(data):
    with pytest.raises(
        ValueError, match=r"expected a file that RekeyUpdate\.to_file wrote, got something else"
    ) as caught:
        RekeyUpdate.from_bytes(data)
    assert "privseg1" not in str(caught.value)


@every_pair
def test_an_image_of_the_old_key_becomes_one_of_the_new_key(old, new):
    old, new = keys(old, new)
    processor = SetrImageProcessor(patch_size=4, do_pad=True)
    levels = np.random.default_rng(0).integers(0, 256, (3, 21, 30), np.uint8)
    before, expected = (encrypted(processor, levels, key) for key in (old, new))
    update = RekeyUpdate.between(old, new, patch_size=4)
    found = update.apply_to_image(EncryptedImage.from_bytes(before.to_bytes()))  # rounded, as it travels
    assert found.facts == new.facts
    assert (found.original_size, found.valid_region) == ((21, 30), (21, 30))
    if expected.pixels.dtype == np.uint8:
        np.testing.assert_array_equal(found.pixels, expected.pixels)
    else:
        np.testing.assert_allclose(found.pixels, expected.pixels, atol=2e-3)


def encrypted(processor, levels, key):
    image = processor.encrypt(levels, key)
    assert isinstance(image, EncryptedImage)
    return image


def test_an_image_that_is_not_the_updates_is_refused():
    old, new = SecretKey.generate(), SecretKey.generate()
    image = encrypted(SetrImageProcessor(patch_size=4), np.zeros((3, 8, 8), np.uint8), new)
    with pytest.raises(KeyMismatchError, match="the rekey update's old key"):
        RekeyUpdate.between(old, new, patch_size=4).apply_to_image(image)
    with pytest.raises(CiphertextError, match="in blocks of 4 pixels"):
        RekeyUpdate.between(new, old, patch_size=8).apply_to_image(image)
