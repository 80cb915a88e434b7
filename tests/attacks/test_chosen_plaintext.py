"""An oracle that encrypts what the attacker likes, on 8-bit images."""

import numpy as np
import pytest

from helpers.attack_victims import LENGTH, PATCH_SIZE, encrypt, key_of, victim
from hf_privseg.attacks.chosen_plaintext import counting_blocks, point_blocks, probe_matrix, probe_permutation
from hf_privseg.attacks.tools.metrics import psnr


@pytest.mark.parametrize("patch_size", [4, 16])
@pytest.mark.parametrize("family", ["permutation", "signed_permutation"])
def test_one_or_two_blocks_give_away_a_permutation(family, patch_size):
    asked = []

    def oracle(grid):
        asked.append(grid.shape[:2])
        return encrypt(grid, family, patch_size)

    found = probe_permutation(oracle, 3 * patch_size**2)
    order, signs = key_of(family, patch_size)
    assert (found.order == order).all()
    assert (found.signs == signs).all()
    assert asked == [(1, 1 if patch_size == 4 else 2)]


@pytest.mark.parametrize("length", [48, 128, 129, 256, 768, 32768, 32769])
def test_every_position_has_its_own_number_even_if_negated(length):
    blocks = counting_blocks(length)[0]
    pixels = np.rint((blocks + 1) * 127.5).astype(int)
    np.testing.assert_allclose(pixels / 127.5 - 1, blocks)
    both = {tuple(column) for column in pixels.T} | {tuple(column) for column in 255 - pixels.T}
    assert len(both) == 2 * length
    assert len(blocks) == (1 if length <= 128 else 2 if length <= 32768 else 3)


@pytest.mark.parametrize("family", ["permutation", "signed_permutation", "orthogonal", "matrix"])
def test_one_image_gives_away_any_key(family):
    found = probe_matrix(lambda grid: encrypt(grid, family), LENGTH)
    other = victim("coffee")
    assert psnr(found.decode(encrypt(other, family)), other) > 90


def test_the_probe_is_one_image_of_4_by_3():
    assert point_blocks(768).shape == (24, 32, 768)
    assert point_blocks(LENGTH).shape == (6, 8, LENGTH)
    assert set(np.unique(point_blocks(LENGTH))) == {-1.0, 1.0}
    assert np.linalg.matrix_rank(point_blocks(LENGTH).reshape(LENGTH, LENGTH)) == LENGTH


def test_a_dense_key_is_not_taken_for_a_permutation():
    with pytest.raises(ValueError, match=r"expected the 48 positions of the probe in some order, got \d+ of them"):
        probe_permutation(lambda grid: encrypt(grid, "orthogonal", PATCH_SIZE), LENGTH)


def test_rows_that_do_not_fill_an_image_are_refused():
    with pytest.raises(ValueError, match="expected a number of blocks that divides 48, got 7"):
        point_blocks(48, 7)
