"""The 8-bit form: what it loses, that it is restored bit for bit everywhere, and what a file may not say."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from helpers.paths import VECTORS_FOLDER
from hf_privseg import SetrImageProcessor
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.setr.eight_bit_blocks import EightBitBlocks
from hf_privseg.setr.encrypted_image import EncryptedImage
from hf_privseg.setr.errors import CiphertextError
from hf_privseg.setr.image_encrypter import ImageEncrypter
from hf_privseg.setr.keys import SecretKey
from hf_privseg.setr.rekey_update import RekeyUpdate
from hf_privseg.setr.stored_pixels import digest_of

VECTOR = json.loads((VECTORS_FOLDER / "eight_bit_blocks.json").read_text())
FLOATING = pytest.mark.parametrize("family", ["orthogonal", "matrix"])


def key_of(family: str) -> SecretKey:
    return SecretKey(bytes(range(32)), family)


def scene() -> Image.Image:
    """64 x 96: a bright slope with texture, and a black corner."""
    y, x = np.mgrid[:64, :96]
    levels = 160 + x // 3 + 12 * np.sin(x) * np.cos(2 * y)
    levels[:16, :32] = 0
    return Image.fromarray(np.stack([levels, levels - 20, levels - 40], axis=-1).clip(0, 255).astype(np.uint8))


def encrypted(family: str, bits: int | None = 8) -> EncryptedImage:
    return ImageEncrypter().encrypt(scene(), key_of(family), bits=bits)


@FLOATING
def test_half_the_bytes_and_a_small_error_of_z(family):
    exact, sent = encrypted(family, None), encrypted(family)
    assert (exact.bits, sent.bits) == (16, 8)
    assert len(sent.to_bytes()) < 0.62 * len(exact.to_bytes())  # 3 kilobytes of it are the axis
    weight = np.random.default_rng(0).normal(size=(32, 768))
    e_hat = cipher_for(key_of(family), patch_size=16).encrypt_rows(weight).T
    rows = [image.pixels.reshape(3, 4, 16, 6, 16).transpose(1, 3, 0, 2, 4).reshape(24, 768) for image in (exact, sent)]
    z, found = (each.astype(np.float64) @ e_hat for each in rows)
    error = np.linalg.norm(found - z) / np.linalg.norm(z - z.mean(axis=0))
    assert 1e-4 < error < (0.006 if family == "orthogonal" else 0.02)


@FLOATING
def test_a_file_comes_back_bit_for_bit_and_so_does_its_own_file(family, tmp_path):
    sent = encrypted(family)
    sent.to_file(tmp_path / "x.safetensors")
    back = EncryptedImage.from_file(tmp_path / "x.safetensors")
    assert np.array_equal(back.pixels, sent.pixels)
    assert back.to_bytes() == sent.to_bytes()
    assert (back.bits, back.step) == (8, None)


@FLOATING
def test_the_processor_makes_what_a_client_without_torch_makes(family):
    sent = SetrImageProcessor().encrypt([scene(), scene()], key_of(family), bits=8)
    assert [each.to_bytes() for each in sent] == [encrypted(family).to_bytes()] * 2


@pytest.mark.parametrize("family", ["permutation", "signed_permutation"])
def test_8_bit_pixels_stay_exact(family):
    assert encrypted(family).to_bytes() == encrypted(family, None).to_bytes()
    assert encrypted(family).bits == 8


def test_it_is_made_from_the_ciphertext_alone():
    exact = encrypted("orthogonal", None).pixels
    blocks = encrypted("orthogonal").blocks
    assert blocks is not None
    for mine, theirs in zip(EightBitBlocks.of(exact, 16).arrays, blocks.arrays, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_it_is_restored_to_the_numbers_of_the_vector():
    arrays = [np.array(VECTOR[name], dtype) for name, dtype in (("values", np.int8), ("scale", np.float32))]
    arrays += [np.array(VECTOR[name], np.float32) for name in ("axis", "along")]
    restored = EightBitBlocks(*arrays).restored()
    assert restored.astype(">f4").tobytes().hex() == VECTOR["restored"]


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e6])
def test_blocks_of_one_number_are_kept(value):
    pixels = np.full((3, 16, 32), value, np.float32)
    blocks = EightBitBlocks.of(pixels, 16)
    np.testing.assert_allclose(blocks.restored(), value, rtol=1e-5)
    assert blocks.values.shape == (1, 2, 768 if value else 1)


@pytest.mark.parametrize(("old", "new"), [("orthogonal", "matrix"), ("matrix", "permutation")])
def test_a_rekey_update_keeps_the_form(old, new):
    update = RekeyUpdate.between(key_of(old), key_of(new), patch_size=16, num_channels=3)
    moved, expected = update.apply_to_image(encrypted(old)), encrypted(new)
    assert (moved.bits, moved.fingerprint) == (8, expected.fingerprint)
    back = EncryptedImage.from_bytes(moved.to_bytes())
    assert np.array_equal(back.pixels, moved.pixels)
    images = [np.asarray(ImageEncrypter().decrypt(image, key_of(new)), int) for image in (back, expected)]
    assert np.abs(images[0] - images[1]).max() <= 3


def test_more_channels_than_three():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 48), np.uint8)
    sent = ImageEncrypter(num_channels=5, image_mean=(0.5,) * 5, image_std=(0.5,) * 5).encrypt(
        pixels, key_of("orthogonal"), input_data_format="channels_first", bits=8
    )
    assert np.array_equal(EncryptedImage.from_bytes(sent.to_bytes()).pixels, sent.pixels)


@pytest.mark.parametrize("bits", [4, 16, 8.0, True, "8"])
def test_other_bits_are_refused(bits):
    with pytest.raises(ValueError, match=f"expected 8 bits, or none for the usual form, got {bits!r}"):
        encrypted("orthogonal", bits)


def test_both_kinds_of_bits_are_refused():
    with pytest.raises(ValueError, match=r"expected bits or bits_per_block, got both \(8 and 60\)"):
        ImageEncrypter().encrypt(scene(), key_of("orthogonal"), bits=8, bits_per_block=60)


def changed_file(**changes) -> bytes:
    """The file of an encrypted image with arrays changed, and the hash that belongs to them."""
    data = encrypted("orthogonal").to_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["privseg"])
    arrays = safetensors.numpy.load(data)
    arrays |= {name: change(arrays[name]) for name, change in changes.items()}
    header["sha256"] = digest_of(*(arrays[name] for name in ("values", "scale", "axis", "along")))
    return safetensors.numpy.save(arrays, metadata={"privseg": json.dumps(header)})


def with_number(number: float):
    def change(array: np.ndarray) -> np.ndarray:
        found = array.copy()
        found.flat[3] = number
        return found

    return change


def test_an_unchanged_file_is_taken():
    assert EncryptedImage.from_bytes(changed_file()).bits == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": with_number(np.nan)}, "finite, positive scales"),
        ({"scale": with_number(0.0)}, "finite, positive scales"),
        ({"scale": with_number(-1.0)}, "finite, positive scales"),
        ({"scale": with_number(1e38)}, "finite, positive scales"),
        ({"axis": with_number(np.inf)}, "finite axis"),
        ({"axis": with_number(5.0)}, "finite axis"),
        ({"along": with_number(np.nan)}, "finite axis"),
        ({"along": with_number(1e38)}, "finite axis"),
        ({"along": lambda array: array[:1].copy()}, r"for each of 4 x 6 blocks, and an axis of 768 numbers"),
        ({"scale": lambda array: array.T.copy()}, r"for each of 4 x 6 blocks"),
        ({"axis": lambda array: array[:-1].copy()}, r"an axis of 768 numbers"),
        ({"axis": lambda array: array.astype(np.float64)}, "it is no encrypted image"),
        ({"values": lambda array: array[:, :2].copy()}, "for each of 4 x 2 blocks"),
        (
            {
                "values": lambda array: np.zeros((4, 6, 769), np.int8),
                "axis": lambda array: np.zeros(769, np.float32),
            },
            "at most 768 numbers",
        ),
    ],
)
def test_damaged_files_are_refused(changes, message):
    with pytest.raises(CiphertextError, match=message):
        EncryptedImage.from_bytes(changed_file(**changes))


def test_a_changed_number_is_found():
    data = bytearray(encrypted("orthogonal").to_bytes())
    data[-5] ^= 1
    with pytest.raises(CiphertextError, match="changed after encryption"):
        EncryptedImage.from_bytes(bytes(data))


def test_a_file_larger_than_allowed_is_refused():
    with pytest.raises(CiphertextError, match="expected an image of 1 to 6143 pixels"):
        EncryptedImage.from_bytes(encrypted("orthogonal").to_bytes(), max_pixels=6143)


def test_blocks_belong_to_their_pixels():
    sent = encrypted("orthogonal")
    with pytest.raises(CiphertextError, match="are its pixels, got those of others"):
        dataclasses.replace(sent, pixels=-sent.pixels)
    with pytest.raises(CiphertextError, match="float pixels without a step have the 8-bit form"):
        EncryptedImage(**{**vars(sent), "step": 0.5})
    with pytest.raises(CiphertextError, match=r"blocks of their grid \(4, 6\), got a grid of \(1, 1\)"):
        EncryptedImage(**{**vars(sent), "blocks": EightBitBlocks.of(np.ones((3, 16, 16), np.float32), 16)})
