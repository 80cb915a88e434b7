"""One image in plain and encrypted, and what it tells of the next one."""

import numpy as np
import pytest
import torch

from helpers.attack_victims import PATCH_SIZE, cipher, embedding, encrypt, key_of, prior, victim
from hf_privseg.attacks.known_plaintext import fit_rotation, match_traces, regress
from hf_privseg.attacks.tools.blocks import as_rows, to_grid, to_image
from hf_privseg.attacks.tools.metrics import psnr

PERMUTATIONS = ["permutation", "signed_permutation"]
DENSE = ["orthogonal", "matrix"]


@pytest.mark.parametrize("family", PERMUTATIONS)
def test_a_few_blocks_give_away_a_permutation(family):
    known = victim()[30:31, 20:35]  # a row of 15 blocks
    found = match_traces(known, encrypt(known, family))
    order, signs = key_of(family)
    assert (found.order == order).all()
    assert (found.signs == signs).all()
    assert not found.ambiguous.any()
    other = victim("coffee")
    np.testing.assert_allclose(found.decode(encrypt(other, family)), other, atol=1e-6)


def test_a_fresh_key_for_every_image_does_not_stop_one_known_image_at_the_server():
    known, other = victim(), victim("coffee")
    encrypted = [
        to_grid(cipher("orthogonal", n).encrypt(torch.from_numpy(to_image(grid, PATCH_SIZE))).numpy(), PATCH_SIZE)
        for n, grid in ((7, known), (8, other))
    ]
    pairs = list(zip((known, other), encrypted, strict=True))
    keys = [np.linalg.lstsq(as_rows([grid]), as_rows([seen]), rcond=None)[0] for grid, seen in pairs]
    of_server = [
        grid @ np.linalg.solve(key, embedding()) for grid, key in zip(encrypted, keys, strict=True)
    ]  # z = b_hat E_hat
    moments = prior().statistics
    through_z = regress(known, of_server[0], moments).decode(of_server[1])
    through_ciphertexts = regress(known, encrypted[0], moments).decode(encrypted[1])
    assert psnr(through_z, other) > 25
    assert psnr(through_ciphertexts, other) < 15  # the control: another key


def test_a_permutation_is_found_through_noise():
    known = victim()
    noise = 0.05 * np.random.default_rng(0).standard_normal(known.shape)
    found = match_traces(known, encrypt(known, "signed_permutation") + noise)
    assert (found.order == key_of("signed_permutation")[0]).all()


def test_a_known_family_is_never_given_signs():
    known = victim()[:1, :3]
    found = match_traces(known, -encrypt(known, "permutation"), signed=False)
    assert (found.signs == 1).all()


def test_white_blocks_tell_nothing_and_are_said_to():
    white = np.ones((2, 2, 3 * PATCH_SIZE**2))
    found = match_traces(white, encrypt(white, "permutation"))
    assert found.ambiguous.all()
    assert sorted(found.order) == list(range(48))


@pytest.mark.parametrize("family", DENSE)
def test_one_image_gives_away_a_dense_key(family):
    known, other = victim(), victim("coffee")
    found = regress(known, encrypt(known, family))
    assert psnr(found.decode(encrypt(other, family)), other) > 80


def test_a_rotation_is_fitted():
    known, other = victim(), victim("coffee")
    noisy = encrypt(known, "orthogonal") + 0.05 * np.random.default_rng(0).standard_normal(known.shape)
    by_rotation, by_regression = fit_rotation(known, noisy), regress(known, noisy)
    np.testing.assert_allclose(by_rotation.matrix @ by_rotation.matrix.T, np.eye(48), atol=1e-10)
    seen = encrypt(other, "orthogonal")
    assert psnr(by_rotation.decode(seen), other) > max(35, psnr(by_regression.decode(seen), other))


@pytest.mark.parametrize("family", DENSE)
def test_the_prior_fills_in_what_few_blocks_leave_open(family):
    known, other = victim()[28:30, 20:36], victim("coffee")  # 32 blocks, of 48 directions
    seen = encrypt(known, family)
    without, filled = regress(known, seen), regress(known, seen, prior().statistics)
    plain, better = (psnr(found.decode(encrypt(other, family)), other) for found in (without, filled))
    assert better > plain + 1
    assert better > 20


def test_grids_that_are_no_pair_are_refused():
    message = r"\(down, across, length\) each, got \(2, 3, 48\) and \(2, 2, 48\)"
    with pytest.raises(ValueError, match=message):
        match_traces(np.zeros((2, 3, 48)), np.zeros((2, 2, 48)))
