"""The encryption without torch: bit for bit what the image processor's is, for every family, size and setting."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import resize

from helpers.tiny_setr import make_key, tiny_model
from hf_privseg import (
    ClientEmbedding,
    EncryptionStateError,
    InvalidImageError,
    InvalidKeyError,
    KeyMismatchError,
    SetrImageProcessor,
)
from hf_privseg.setr import resampling
from hf_privseg.setr.image_encrypter import ImageEncrypter
from hf_privseg.setr.keys import FAMILIES
from hf_privseg.setr.resampling import resized

RNG = np.random.default_rng(3)
resizes_in_8_bits = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="torch resizes in floats here"
)
SETTINGS = [
    {},
    {"patch_size": 16},
    {"size": 40},
    {"size": {"shortest_edge": 24, "longest_edge": 50}},
    {"size": {"height": 33, "width": 61}, "do_pad": True, "pad_value": [-1.0, 0.25, 1.0]},
    {"do_resize": False, "do_pad": True},
    {"resize_factor": 1.7, "resample": 3},
    {"resize_factor": 0.3, "resample": 0},
    {"num_channels": 1, "do_pad": True},
    {"num_channels": 5, "resize_factor": 2.0},
]


def image(num_channels=3, size=(37, 53)):
    pixels = RNG.integers(0, 256, (*size, num_channels), dtype=np.uint8)
    return pixels if num_channels > 3 else Image.fromarray(pixels.squeeze())


def key_of(kind):
    return ClientEmbedding.generate(tiny_model()) if kind == "embedding" else make_key(kind)


def facts_of(encrypted):
    return {name: value for name, value in vars(encrypted).items() if name != "pixels"}


@resizes_in_8_bits
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_encrypts_to_the_same_bits_as_the_processor(family, settings):
    processor = SetrImageProcessor(**{"patch_size": 4} | settings)
    plain, key = image(processor.num_channels), make_key(family)
    expected = processor.encrypt(plain, key)
    found = ImageEncrypter.of(processor.to_dict()).encrypt(plain, key)
    assert np.array_equal(found.pixels.view(np.uint8), expected.pixels.view(np.uint8))
    assert facts_of(found) == facts_of(expected)
    assert found.to_bytes() == expected.to_bytes()


@resizes_in_8_bits
@pytest.mark.parametrize("family", [*FAMILIES, "embedding"])
def test_the_model_is_shown_the_same_by_either(family):
    processor, plain, key = SetrImageProcessor(patch_size=4), image(), key_of(family)
    pixel_values = processor(plain, secret_key=key, return_tensors="pt").pixel_values
    found = processor(ImageEncrypter(patch_size=4).encrypt(plain, key), return_tensors="pt").pixel_values
    assert torch.equal(found, pixel_values)


@resizes_in_8_bits
@pytest.mark.parametrize(("number", "mode"), [(2, "bilinear"), (3, "bicubic")])
@pytest.mark.parametrize("strip", [resampling._STRIP, 200])
def test_resizing_is_torchvisions_at_any_size(number, mode, strip, monkeypatch):
    monkeypatch.setattr(resampling, "_STRIP", strip)
    for _ in range(60):
        num_channels = RNG.integers(1, 5)
        before, after = RNG.integers(2, 90, 2), RNG.integers(2, 90, 2)
        levels = RNG.integers(0, 256, (num_channels, *before), dtype=np.uint8)
        if RNG.random() < 0.3:
            levels = (levels > 127) * np.uint8(255)  # overshoots, which are cut
        expected = resize(torch.from_numpy(levels), [int(side) for side in after], interpolation=number)
        found = resized(levels, (int(after[0]), int(after[1])), number)
        assert np.array_equal(found, expected.numpy()), (before, after, mode)


def test_a_filter_that_it_lacks_is_named():
    with pytest.raises(ValueError, match=r"NEAREST \(0\), BILINEAR \(2\) or BICUBIC \(3\), got LANCZOS \(1\).*models"):
        resized(np.zeros((3, 4, 4), np.uint8), (8, 8), 1)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"patch_size": 0}, ValueError, "patch_size is an int from 1"),
        ({"size": {"height": 8}}, ValueError, "size is None"),
        ({"pad_size": 8}, ValueError, "neither crops nor pads to a size, got pad_size"),
        ({"do_center_crop": True}, ValueError, "got do_center_crop"),
        ({"secret_key": "x"}, TypeError, "secret_key is no setting"),
        ({"image_mean": [0.5, 0.5]}, ValueError, "image_mean to be one number or 3"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_settings_out_of_range_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        ImageEncrypter.of(settings)


def test_what_cannot_be_encrypted_is_refused():
    encrypter, key = ImageEncrypter(patch_size=4), make_key()
    encrypted = encrypter.encrypt(image(), key)
    with pytest.raises(EncryptionStateError, match="encrypting twice would ruin it"):
        encrypter.encrypt(encrypted, key)  # type: ignore[arg-type]
    with pytest.raises(InvalidImageError, match="expected one image, got 2"):
        encrypter.encrypt(np.zeros((2, 3, 8, 8), np.uint8), key)
    with pytest.raises(InvalidKeyError, match="got str"):
        encrypter.encrypt(image(), "key")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"encryption needs pixels in \[-1, 1\], that is image_mean=0.5"):
        ImageEncrypter(image_mean=(0.4, 0.5, 0.6)).encrypt(image(), key)
    with pytest.raises(KeyMismatchError, match="is for patches of 4 pixels"):
        ImageEncrypter(patch_size=8).encrypt(image(), key_of("embedding"))


def test_what_it_encrypts_it_decrypts():
    encrypter, key, plain = ImageEncrypter(patch_size=4), make_key(), image(size=(36, 52))
    assert np.array_equal(np.array(encrypter.decrypt(encrypter.encrypt(plain, key), key)), np.array(plain))


def test_the_defaults_are_the_processors():
    settings = SetrImageProcessor().to_dict()
    found, expected = vars(ImageEncrypter()), vars(ImageEncrypter.of(settings))
    for name, value in found.items():
        same = tuple(value) == tuple(expected[name]) if isinstance(value, tuple) else value == expected[name]
        assert same, name
