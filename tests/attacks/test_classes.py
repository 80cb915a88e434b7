"""What segmentation maps add to an alignment: moments of each class of blocks."""

import numpy as np
import pytest
from scipy.stats import ortho_group

from hf_privseg.attacks.tools.alignment import align, neighbour_covariances
from hf_privseg.attacks.tools.classes import (
    class_moments,
    class_raster,
    is_negative_by_classes,
    known_classes,
)


def test_the_raster_reads_the_classes_of_a_block():
    segmentation_map = np.zeros((16, 16), np.int64)
    segmentation_map[:8, 8:] = 1
    segmentation_map[8:, :4] = 255
    shares = class_raster(segmentation_map, 2, 2, 2).mean(axis=2)
    np.testing.assert_array_equal(shares, [[[1, 0], [0, 1]], [[0.5, 0], [1, 0]]])


def scene(seed, rotation=None):
    """Blocks of two classes with moments of their own -> (12, 16, 6) and the (12, 16) map."""
    rng = np.random.default_rng(seed)
    segmentation_map = rng.integers(2, size=(12, 16))
    spread = np.array([[3, 1, 2, 0.5, 0.2, 0.1], [1, 3, 0.5, 2, 0.1, 0.2]])[segmentation_map]
    grid = spread * rng.standard_normal((12, 16, 6)) + segmentation_map[..., None] * [2.0, -1, 0, 0, 0, 0]
    return (grid if rotation is None else grid @ rotation.T), segmentation_map


def classes_of(seen, own):
    return known_classes(
        [m for _, m in seen], [g.shape[:2] for g, _ in seen], [g for g, _ in own], [m for _, m in own]
    )


def test_moments_of_classes_turn_with_the_blocks():
    rotation = ortho_group.rvs(6, random_state=0)
    own = [scene(seed) for seed in range(3)]
    seen = [scene(seed, rotation) for seed in range(3)]
    encrypted, plain = class_moments([g for g, _ in seen], [g for g, _ in own], classes_of(seen, own))
    assert plain.shape == (2, 6, 6)
    np.testing.assert_allclose(encrypted, rotation @ plain @ rotation.T, atol=1e-9)
    np.testing.assert_allclose(
        np.trace(plain.sum(axis=0)), np.mean([np.sum(g**2, axis=-1) for g, _ in own]), rtol=1e-9
    )


def test_classes_tell_apart_what_all_blocks_together_do_not():
    """The covariance of all blocks is the same in the first two directions, and neighbours are independent."""
    rotation = ortho_group.rvs(6, random_state=1)
    own, seen = [scene(seed) for seed in range(40)], [scene(seed, rotation) for seed in range(50, 90)]
    grids, plain = [g for g, _ in seen], [g for g, _ in own]
    moments = [
        np.concatenate(
            [np.mean([g.reshape(-1, 6).T @ g.reshape(-1, 6) / 192 for g in each], axis=0)[None], neighbours]
        )
        for each, neighbours in ((grids, neighbour_covariances(grids)), (plain, neighbour_covariances(plain)))
    ]
    of_classes = class_moments(grids, plain, classes_of(seen, own))
    axes = [np.linalg.eigh(each[0])[1][:, ::-1] for each in moments]
    turned = [
        [axis.T @ each @ axis for each in (moment, extra)]
        for axis, moment, extra in zip(axes, moments, of_classes, strict=True)
    ]
    found = [
        axes[0] @ align(seen_moments, known_moments) @ axes[1].T
        for seen_moments, known_moments in (
            (turned[0][0], turned[1][0]),
            (np.concatenate(turned[0]), np.concatenate(turned[1])),
        )
    ]
    # Directions that vary apart from each other are found up to their signs.
    without, with_classes = (np.abs(np.diag(each.T @ rotation))[:4].min() for each in found)
    assert with_classes > 0.95
    assert without < 0.9


def test_a_class_that_one_side_lacks_is_left_out():
    own, seen = [scene(0)], [(scene(1)[0], np.zeros((12, 16), np.int64))]
    encrypted, plain = class_moments([g for g, _ in seen], [g for g, _ in own], classes_of(seen, own))
    assert len(encrypted) == len(plain) == 1


def test_a_map_for_each_image():
    with pytest.raises(ValueError, match="zip"):
        known_classes([np.zeros((4, 4), int)], [], [], [])


def test_the_means_of_classes_tell_an_image_from_its_negative():
    own, seen = [scene(seed) for seed in range(3)], [scene(seed) for seed in range(5, 8)]
    grids, plain = [g for g, _ in seen], [g for g, _ in own]
    centre = np.mean([g.mean(axis=(0, 1)) for g in grids], axis=0)
    grids, plain = ([g - centre for g in each] for each in (grids, plain))
    classes = classes_of(seen, own)
    assert not is_negative_by_classes(grids, plain, classes)
    assert is_negative_by_classes([-g for g in grids], plain, classes)
