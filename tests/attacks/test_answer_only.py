"""Images from their segmentation maps: what shows is what the classes tell, and no more."""

import numpy as np
import pytest

from hf_privseg.attacks.answer_only import map_features, train_map_decoder
from hf_privseg.attacks.learned_inversion import Budget, LearnedInverter
from hf_privseg.attacks.tools.blocks import to_grid, to_image
from hf_privseg.attacks.tools.metrics import image_metrics

COLOURS = np.array([[-0.8, -0.5, 0.7], [0.6, 0.5, -0.4], [0.1, -0.6, -0.2]])


def scene(seed, textured=0.0):
    """Discs of two classes before a third -> (3, 64, 96) pixels that follow from the classes, and the (64, 96) map."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:64, :96]
    segmentation_map = np.zeros((64, 96), np.int64)
    for number in range(6):
        top, left, radius = rng.integers(64), rng.integers(96), rng.integers(8, 20)
        segmentation_map[(rows - top) ** 2 + (columns - left) ** 2 < radius**2] = 1 + number % 2
    pixels = COLOURS[segmentation_map].transpose(2, 0, 1) + textured * rng.standard_normal((3, 64, 96))
    return pixels.clip(-1, 1), segmentation_map


def decoder_of(count, textured=0.0):
    images, maps = pairs(count, textured)
    return train_map_decoder(images, maps, 3)


def pairs(count, textured=0.0):
    images, maps = zip(*(scene(seed, textured) for seed in range(100, 100 + count)), strict=True)
    return [to_grid(image, 8) for image in images], list(maps)


def recovered(decoder, seed, textured=0.0):
    image, segmentation_map = scene(seed, textured)
    estimate = to_image(decoder.decode(segmentation_map, 8, 12), 8)
    return image_metrics(estimate, image)


def test_images_that_follow_from_their_classes_are_recovered_with_their_outlines():
    decoder = decoder_of(12)
    found = [recovered(decoder, seed) for seed in range(4)]
    assert min(row["hp"] for row in found) > 0.7
    assert min(row["psnr"] for row in found) > 17


def test_texture_does_not_follow_from_classes():
    plain, textured = decoder_of(12), decoder_of(12, textured=0.3)
    for seed in range(4):
        assert recovered(textured, seed, textured=0.3)["hp"] < recovered(plain, seed)["hp"] - 0.2


def test_the_map_of_another_image_tells_nothing():
    decoder = decoder_of(12)
    image, _ = scene(0)
    _, other = scene(1)
    assert image_metrics(to_image(decoder.decode(other, 8, 12), 8), image)["hp"] < 0.2


def test_a_network_sees_what_a_regression_cannot():
    """Class 1 has one colour where it fills a block, and another where it fills a part of it."""

    def made(seed):
        _, segmentation_map = scene(seed)
        share = (segmentation_map == 1).reshape(8, 8, 12, 8).mean(axis=(1, 3)).repeat(8, axis=0).repeat(8, axis=1)
        return np.where((share > 0) & (share < 0.9), -0.8, 0.8)[None].repeat(3, axis=0), segmentation_map

    images, maps = zip(*(made(seed) for seed in range(100, 124)), strict=True)
    grids = [to_grid(image, 8) for image in images]
    budget = Budget(steps=150, batch_size=4, crop_in_blocks=6, width=64, depth=1)
    learned, linear = (train_map_decoder(grids, maps, 3, budget=chosen) for chosen in (budget, None))
    assert isinstance(learned.inverter, LearnedInverter)
    assert learned.inverter.succeeded
    for seed in range(3):
        image, segmentation_map = made(seed)
        errors = [
            np.square(to_image(found.decode(segmentation_map, 8, 12), 8) - image).mean() for found in (learned, linear)
        ]
        assert errors[0] < 0.7 * errors[1]


def test_features_are_the_classes_in_a_block_and_the_shares_around_it():
    segmentation_map = np.zeros((16, 16), np.int64)
    segmentation_map[:8, 8:] = 1
    found = map_features(segmentation_map, 2, 2, 2)
    assert found.shape == (2, 2, 16 * 2 + 9 * 2)
    np.testing.assert_array_equal(found[0, 1, :32].reshape(16, 2), [[0, 1]] * 16)
    shares = found[0, 0, 32:].reshape(3, 3, 2)[..., 1]
    np.testing.assert_array_equal(shares, [[0, 0, 1], [0, 0, 1], [0, 0, 0]])  # beyond the edge is as at the edge
    void = map_features(np.full((16, 16), 255), 2, 2, 2)
    assert not void.any()


def test_maps_and_images_are_as_many():
    images, maps = pairs(2)
    with pytest.raises(ValueError, match="got 2 images, 1 maps"):
        train_map_decoder(images, maps[:1], 3)
