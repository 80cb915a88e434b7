"""Crops on the patch grid: the crop of a ciphertext is the ciphertext of the crop, for every family."""

import numpy as np
import pytest
import torch

from helpers.tiny_setr import tiny_model
from hf_privseg import ClientEmbedding, SecretKey, SetrImageProcessor
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.setr.keys import FAMILIES
from hf_privseg.training.grid_crops import GridCrops, is_varied

RNG = np.random.default_rng(0)
PATCH = 4
KEYS = [*(SecretKey.generate(family=family) for family in FAMILIES), ClientEmbedding.generate(tiny_model())]


def drawn(crops, image, labels, seed):
    torch.manual_seed(seed)
    return crops(image, labels)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.family)
@pytest.mark.parametrize(
    "settings", [{}, {"do_pad": True}, {"resize_factor": 1.5}], ids=["rounded", "padded", "larger"]
)
def test_the_crop_of_a_ciphertext_is_the_ciphertext_of_the_crop(key, settings):
    processor = SetrImageProcessor(patch_size=PATCH, **settings)
    crops, places = GridCrops(processor, 20), set()
    for seed in range(8):
        size = (23, 37) if seed % 2 else (18, 45)  # some lower than a crop
        image, labels = RNG.integers(0, 256, (3, *size), np.uint8), RNG.integers(0, 3, size)
        plain = drawn(crops, torch.from_numpy(image), labels, seed)
        encrypted = drawn(crops, processor.encrypt(image, key), labels, seed)
        assert torch.equal(encrypted["labels"], plain["labels"])
        expected = cipher_for(key, patch_size=PATCH).encrypt(plain["pixel_values"])
        torch.testing.assert_close(encrypted["pixel_values"], expected, rtol=1e-5, atol=1e-5)
        assert (encrypted["pixel_values"] - plain["pixel_values"]).abs().max() > 0.5
        places.add(float(plain["pixel_values"][0, 0, 0]))
    assert len(places) > 4


def test_labels_lie_where_their_pixels_do():
    processor = SetrImageProcessor(patch_size=PATCH)
    labels = RNG.integers(0, 3, (40, 48))
    image = np.repeat((labels * 100).astype(np.uint8)[None], 3, axis=0)
    crops, corners = GridCrops(processor, 16), set()
    for seed in range(20):
        crop = drawn(crops, torch.from_numpy(image), labels, seed)
        assert torch.equal(((crop["pixel_values"][0] + 1) * 127.5 / 100).round().long(), crop["labels"])
        windows = np.lib.stride_tricks.sliding_window_view(labels, (16, 16))
        (corner,) = np.argwhere((windows == crop["labels"].numpy()).all((2, 3)))
        assert not (corner % PATCH).any()
        corners.add(tuple(corner))
    assert len(corners) > 10
    assert {place % 8 for corner in corners for place in corner} == {0, 4}


def test_crops_of_a_single_class_are_avoided_and_void_does_not_count():
    processor = SetrImageProcessor(patch_size=PATCH)
    labels = np.zeros((64, 64), np.int64)
    labels[:24, :24] = RNG.integers(0, 2, (24, 24))
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)

    def varied(share):
        crops = GridCrops(processor, 16, max_class_share=share)
        return sum(bool(drawn(crops, image, labels, seed)["labels"].any()) for seed in range(40))

    assert varied(0.75) > 1.5 * varied(1.0) > 0
    void = torch.full((8,), 255)
    assert not is_varied(void, 255, 0.75)
    assert is_varied(torch.cat([void, torch.tensor([0, 1])]), 255, 0.75)
    assert not is_varied(torch.cat([void, torch.tensor([0, 0])]), 255, 0.75)


def test_a_crop_size_off_the_grid_is_refused():
    with pytest.raises(ValueError, match="the crop size must be a multiple of the patch size 16, got 40"):
        GridCrops(SetrImageProcessor(), 40)
