"""The unknown rotation between two sets of moments is found where it can be, and the sign of a image with it."""

import re

import numpy as np
import pytest
from scipy.stats import ortho_group

from hf_privseg.attacks.tools.alignment import (
    NEAREST,
    NEIGHBOURS,
    align,
    darkens_upwards,
    growth,
    is_negative,
    nearest_rotation,
    neighbour_covariances,
    refine,
    synchronise_signs,
)
from hf_privseg.attacks.tools.blocks import to_grid
from hf_privseg.attacks.tools.statistics import block_statistics
from hf_privseg.catalog.sample_images import SAMPLE_IMAGES


def moments(length, rng):
    """A falling spectrum and six couplings of about its size."""
    scale = np.exp(-np.arange(length) / 8)
    noise = rng.normal(size=(6, length, length)) * np.sqrt(np.outer(scale, scale)) / 4
    return np.stack([np.diag(scale), *(np.diag(scale) * rng.uniform(0.2, 0.9) + part for part in noise)])


def image_grid(name, patch_size=8):
    image = SAMPLE_IMAGES[name].load().transpose(2, 0, 1) / 127.5 - 1
    height, width = (side // patch_size * patch_size for side in image.shape[1:])
    return to_grid(image[:, :height, :width], patch_size)


def test_neighbours_are_those_of_the_block_statistics_and_of_a_plain_loop():
    rng = np.random.default_rng(0)
    grids = [rng.normal(size=(4, 5, 6)), rng.normal(size=(3, 7, 6)), rng.normal(size=(1, 2, 6))]
    mean = np.concatenate([grid.reshape(-1, 6) for grid in grids]).mean(axis=0)
    centred = [grid - mean for grid in grids]
    statistics = block_statistics(grids)
    found = neighbour_covariances(centred)
    assert neighbour_covariances(centred, NEAREST) == pytest.approx(np.stack([statistics.right, statistics.below]))
    for (down, across), moment in zip(NEIGHBOURS, found, strict=True):
        products = [
            np.outer(grid[i, j], grid[i + down, j + across])
            for grid in centred
            for i in range(grid.shape[0])
            for j in range(grid.shape[1])
            if i + down < grid.shape[0] and 0 <= j + across < grid.shape[1]
        ]
        assert moment == pytest.approx(np.mean(products, axis=0), abs=1e-12)


def test_images_without_neighbours_are_refused():
    with pytest.raises(ValueError, match=re.escape("expected at least one image of 3 x 3 blocks or more")):
        neighbour_covariances([np.zeros((2, 9, 4)), np.zeros((9, 2, 4))])


@pytest.mark.parametrize(("length", "sizes"), [(3, [3]), (8, [4, 8]), (50, [4, 8, 16, 24, 32, 48, 50])])
def test_growth_ends_with_all_components(length, sizes):
    assert growth(length) == sizes
    assert growth(200) == [4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 200]


def test_planted_signs_are_found_and_settled_ones_stay():
    rng = np.random.default_rng(1)
    signs = rng.choice([-1.0, 1.0], 40)
    agreement = np.outer(signs, signs) + rng.normal(size=(40, 40)) * 2
    found = synchronise_signs(agreement)
    assert np.array_equal(found, signs * found[0] * signs[0])
    signs[:10] = 1
    agreement = np.outer(signs, signs) + rng.normal(size=(40, 40)) * 2
    assert np.array_equal(synchronise_signs(agreement, settled=10), signs)


def test_signs_cannot_be_improved_by_one_flip():
    agreement = np.random.default_rng(2).normal(size=(30, 30))
    coupling = agreement + agreement.T
    np.fill_diagonal(coupling, 0)
    signs = synchronise_signs(agreement)
    assert np.all(signs * (coupling @ signs) >= 0)


def test_the_nearest_rotation_is_orthogonal_and_undoes_a_rotation():
    rotation = ortho_group.rvs(9, random_state=0)
    assert nearest_rotation(rotation @ np.diag(np.arange(1.0, 10))) == pytest.approx(rotation, abs=1e-12)


def test_refinement_never_makes_the_agreement_worse():
    rng = np.random.default_rng(3)
    known = moments(12, rng)
    turn = ortho_group.rvs(12, random_state=1)
    seen = turn @ known @ turn.T

    def agreement(rotation):
        return np.sum((seen @ rotation) * (rotation @ known))

    start = ortho_group.rvs(12, random_state=2)
    found = refine(seen, known, start)
    assert found.T @ found == pytest.approx(np.eye(12), abs=1e-10)
    assert agreement(start) < agreement(found) <= agreement(turn) + 1e-9


def test_signs_and_rotations_among_neighbours_are_recovered_exactly():
    rng = np.random.default_rng(4)
    known = moments(40, rng)
    turn = np.diag(rng.choice([-1.0, 1.0], 40))
    for first in range(0, 40, 2):  # pairs, as of horizontal and vertical waves of one frequency
        angle = rng.uniform(-0.6, 0.6)
        turn[first : first + 2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]] @ turn[
            first : first + 2
        ]
    found = align(turn @ known @ turn.T, known)
    assert found * np.sign(np.sum(found * turn)) == pytest.approx(turn, abs=1e-3)


@pytest.mark.parametrize("name", ["china", "coffee", "rocket"])
def test_a_negative_is_told_from_a_image(name):
    grid = image_grid(name)
    centred = (grid - grid.mean(axis=(0, 1)))[..., :12]
    assert not is_negative([centred], [centred])
    assert is_negative([-centred], [centred])


def test_light_comes_from_above():
    sky = np.outer(np.linspace(1, -1, 6), np.ones(4))
    assert not darkens_upwards([sky])
    assert darkens_upwards([-sky])
