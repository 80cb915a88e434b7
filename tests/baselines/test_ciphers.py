"""SHF, NP and FFX: their definitions, exact inverses, one key for every block, and vectors."""

import copy
import hashlib
import json
import pickle

import numpy as np
import pytest
import torch

from helpers.paths import VECTORS_FOLDER
from hf_privseg.baselines.ciphers import BLOCKWISE_CIPHERS, FfxCipher, NpCipher, ShfCipher
from hf_privseg.setr.errors import InvalidImageError, InvalidKeyError, KeyMismatchError
from hf_privseg.setr.keys import SecretKey

VECTORS = json.loads((VECTORS_FOLDER / "conventional.json").read_text())["keys"]
each_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
each_cipher = pytest.mark.parametrize("name", BLOCKWISE_CIPHERS)
each_size = pytest.mark.parametrize("block_size", [4, 16])


def make_cipher(name, number=7, block_size=4, **kwargs):
    return BLOCKWISE_CIPHERS[name](SecretKey(number.to_bytes(32, "big")), block_size=block_size, **kwargs)


def make_image(*shape, dtype=torch.float32):
    """8-bit levels divided by 255."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(0, 256, shape, generator=generator).to(dtype) / 255


def sha256(values, dtype):
    return hashlib.sha256(np.asarray(values).astype(dtype).tobytes()).hexdigest()


# Golden vectors


@each_vector
def test_vector_of_ciphertext(vector):
    key, image = SecretKey.from_text(vector["text"]), torch.arange(0, 240, 5).reshape(3, 4, 4).double() / 255
    scale = {"shf": 255, "np": 255, "ffx": vector["ffx_table"]["maximum"]}
    for name, cipher in BLOCKWISE_CIPHERS.items():
        ciphertext = cipher(key, block_size=2).encrypt(image) * scale[name]
        expected = torch.tensor(vector["ciphertext"][name]).double()
        torch.testing.assert_close(ciphertext.flatten(), expected, rtol=0, atol=1e-12)


@each_vector
def test_vector_of_what_is_drawn(vector):
    key = SecretKey.from_text(vector["text"])
    assert make_cipher("np").fingerprint != vector["fingerprint"] == key.fingerprint
    for case in vector["drawn"]:
        order = key.permutation(case["block_length"], "shf-order")
        assert order[:12].tolist() == case["shf_order"]["begins"]
        assert sha256(order, ">u2") == case["shf_order"]["sha256_uint16_be"]
        size = {48: 4, 768: 16}[case["block_length"]]
        for cipher, purpose in ((NpCipher, "np_mask"), (FfxCipher, "ffx_mask")):
            mask = cipher(key, block_size=size)._mask
            assert mask[:12].int().tolist() == case[purpose]["begins"]
            assert sha256(mask, "u1") == case[purpose]["sha256_uint8"]
    table = FfxCipher(key, block_size=2)._table
    assert (table[:12].tolist(), table.max()) == (vector["ffx_table"]["begins"], vector["ffx_table"]["maximum"])
    assert sha256(table, ">u2") == vector["ffx_table"]["sha256_uint16_be"]


# The definitions


@each_cipher
def test_blocks_are_flattened_row_column_channel_and_stay_in_place(name):
    """Against explicit loops over blocks and the definition of each cipher on one vector."""
    key, image = SecretKey((7).to_bytes(32, "big")), make_image(3, 8, 12, dtype=torch.float64)
    cipher = make_cipher(name)
    masks = {purpose: torch.from_numpy(key.signs(48, purpose) < 0) for purpose in ("np-mask", "ffx-mask")}
    table = torch.from_numpy(key.permutation(1000, "ffx-table")[:256].copy())

    def on_block(x):
        levels = (255 * x).round().long()
        return {
            "shf": x[key.permutation(48, "shf-order").tolist()],
            "np": torch.where(masks["np-mask"], 1 - x, x),
            "ffx": torch.where(masks["ffx-mask"], table[levels], levels) / table.max().double(),
        }[name]

    expected = torch.empty_like(image)
    for top in range(0, 8, 4):
        for left in range(0, 12, 4):
            place = (slice(None), slice(top, top + 4), slice(left, left + 4))
            flat = image[place].permute(1, 2, 0).flatten()
            expected[place] = on_block(flat).reshape(4, 4, 3).permute(2, 0, 1)
    torch.testing.assert_close(cipher.encrypt(image), expected, rtol=0, atol=1e-12)


def test_the_table_is_injective_and_everything_is_divided_by_its_maximum():
    cipher = make_cipher("ffx")
    assert len(set(cipher._table.tolist())) == 256
    assert 0 <= cipher._table.min() < cipher._table.max() <= 999
    ciphertext = cipher.encrypt(torch.ones(3, 4, 4, dtype=torch.float64)).permute(1, 2, 0).flatten()
    maximum = cipher._table.max().item()
    torch.testing.assert_close(ciphertext[~cipher._mask] * maximum, torch.full((48,), 255.0).double()[~cipher._mask])
    assert (ciphertext[cipher._mask] * maximum).round().unique().tolist() == [cipher._table[255].item()]


@each_cipher
@each_size
def test_about_half_of_the_values_or_more_change(name, block_size):
    image = make_image(3, 32, 48)
    changed = (make_cipher(name, block_size=block_size).encrypt(image) != image).float().mean().item()
    assert changed > (0.9 if name in ("shf", "ffx") else 0.4)  # the division by the maximum changes all but zeros
    if name == "np":
        assert changed < 0.6


@each_cipher
def test_the_key_its_family_and_the_block_size_matter(name):
    image = make_image(3, 16, 16)
    reference = make_cipher(name).encrypt(image)
    other_family = BLOCKWISE_CIPHERS[name](SecretKey((7).to_bytes(32, "big"), "matrix"), block_size=4)
    for other in (make_cipher(name, number=8), make_cipher(name, block_size=16), other_family):
        assert (other.encrypt(image) != reference).float().mean() > 0.3


@each_cipher
def test_every_block_has_the_same_key_and_none_touches_another(name):
    cipher, image = make_cipher(name), make_image(3, 4, 4).repeat(1, 2, 3)
    before = cipher.encrypt(image)
    assert torch.equal(before, before[:, :4, :4].repeat(1, 2, 3))
    image[1, 5, 6] = (image[1, 5, 6] + 0.5) % 1
    changed = (cipher.encrypt(image) != before).any(0)
    assert changed[4:8, 4:8].any()
    changed[4:8, 4:8] = False
    assert not changed.any()


# Round trips


@each_cipher
@each_size
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_round_trip(name, block_size, dtype):
    cipher = make_cipher(name, block_size=block_size)
    image = make_image(2, 3, 16, 48, dtype=dtype)
    ciphertext = cipher.encrypt(image)
    assert (ciphertext.dtype, ciphertext.shape) == (dtype, image.shape)
    decrypted = cipher.decrypt(ciphertext)
    if name == "np":
        torch.testing.assert_close(decrypted, image, rtol=0, atol=6e-8)  # 1 - (1 - x) rounds
        assert torch.equal((decrypted * 255).round(), (image * 255).round())
    else:
        assert torch.equal(decrypted, image)


@each_cipher
def test_all_levels_come_back(name):
    levels = torch.arange(256).repeat(3).reshape(3, 16, 16).float() / 255
    cipher = make_cipher(name, block_size=16)
    decrypted = cipher.decrypt(cipher.encrypt(levels))
    assert torch.equal((decrypted * 255).round(), (levels * 255).round())


@each_cipher
def test_a_wrong_key_does_not_decrypt(name):
    image, other = make_image(3, 16, 16), make_cipher(name, number=8)
    ciphertext = make_cipher(name).encrypt(image)
    if name == "ffx":
        with pytest.raises(KeyMismatchError, match=f"the key of fingerprint {other.fingerprint} never gives"):
            other.decrypt(ciphertext)
    else:
        assert (other.decrypt(ciphertext) - image).abs().mean() > 0.1


@each_cipher
def test_centred_pixels_are_encrypted_in_0_1_and_normalised_as_plain_ones(name):
    cipher, image = make_cipher(name), make_image(2, 3, 8, 12)
    expected = cipher.encrypt(image) * 2 - 1
    torch.testing.assert_close(cipher.encrypt_centred(image * 2 - 1), expected, rtol=0, atol=3e-7)


# Refusals


@each_cipher
@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(3, 9, 12), "multiples of the block size 4, got 9 x 12; resize the plain image"),
        (torch.zeros(3, 0, 8), "got 0 x 8"),
        (torch.zeros(4, 8, 8), r"shape \(\.\.\., 3, height, width\), got \(4, 8, 8\)"),
        (torch.zeros(8, 8), r"got \(8, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "expected a float32 or float64 tensor .*, got torch.uint8"),
        (torch.zeros(3, 8, 8, dtype=torch.bfloat16), "got torch.bfloat16"),
        (np.zeros((3, 8, 8), np.float32), "got ndarray"),
        (
            torch.full((3, 8, 8), -0.5),
            r"expected pixels in \[0, 1\], got values from -0\.5 to -0\.5; .*encrypt_centred",
        ),
        (torch.full((3, 8, 8), float("nan")), "got values from nan to nan"),
    ],
    ids=["height", "empty", "channels", "two axes", "uint8", "bfloat16", "numpy", "centred", "nan"],
)
def test_pixels_that_do_not_fit_are_refused(name, pixels, message):
    cipher = make_cipher(name)
    for act in (cipher.encrypt, cipher.decrypt):
        with pytest.raises(InvalidImageError, match=message):
            act(pixels)


@pytest.mark.parametrize("bad", [0, 2.0, True, "4"], ids=repr)
@pytest.mark.parametrize("field", ["block_size", "num_channels"])
def test_geometry_must_be_positive_ints(field, bad):
    with pytest.raises(ValueError, match=f"{field} is an int >= 1, got {bad!r}"):
        ShfCipher(bytes(32), **{"block_size": 4, field: bad})


def test_what_is_no_key_is_refused():
    with pytest.raises(InvalidKeyError, match=r"got int; SecretKey\.from_seed"):
        ShfCipher(7, block_size=4)  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize("export", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
def test_ciphers_are_neither_pickled_nor_copied_nor_do_they_show_secrets(export):
    cipher = make_cipher("ffx")
    assert repr(cipher) == f"FfxCipher(block_size=4, num_channels=3, fingerprint='{cipher.fingerprint}')"
    with pytest.raises(TypeError, match=r"a cipher is neither pickled nor copied.*path of a key file"):
        export(cipher)
