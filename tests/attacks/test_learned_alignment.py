"""A network rehearsed under keys of the attacker's own, on ciphertexts of a key that it has never met."""

import numpy as np
import pytest

from helpers.attack_victims import PATCH_SIZE, encrypt, pixels_of
from hf_privseg.attacks.learned_alignment import refine_orthogonal
from hf_privseg.attacks.learned_inversion import Budget
from hf_privseg.attacks.tools.blocks import to_grid
from hf_privseg.attacks.tools.metrics import psnr
from hf_privseg.attacks.tools.priors import image_prior

SMALL = Budget(steps=240, batch_size=4, crop_in_blocks=12, width=64, depth=1, learning_rate=1e-3)


NAMES = ("china", "rocket", "flower", "chelsea")


def crops(across, names=NAMES):
    """(3, 64, 64) each, of several images: victims and own images lie side by side, for scenes must be similar."""
    return [pixels_of(name)[:, y : y + 64, x : x + 64] for name in names for y in (0, 64, 128, 192) for x in across]


@pytest.fixture(scope="module")
def plain():
    return [to_grid(crop, PATCH_SIZE) for crop in crops([192])[1::3]]


@pytest.fixture(scope="module")
def ciphertexts(plain):
    return [encrypt(grid, "orthogonal") for grid in plain]


@pytest.fixture(scope="module")
def prior():
    return image_prior(crops([0, 64, 128]), PATCH_SIZE, num_shifts=2)


def test_it_corrects_the_alignment_of_a_key_that_it_never_met(plain, ciphertexts, prior):
    told: list[int] = []
    found = refine_orthogonal(ciphertexts, prior, num_keys=60, budget=SMALL, progress=told.append)
    assert told == [*range(1, 61), *range(100, 301, 40)]  # keys, then updates
    assert found.inverter.succeeded
    pairs = list(zip(ciphertexts, plain, strict=True))
    learned, aligned = (np.mean([psnr(d.decode(c), p) for c, p in pairs]) for d in (found, found.aligned))
    assert learned > aligned + 0.2


def test_an_untrained_network_leaves_the_alignment_as_it_is(ciphertexts, prior):
    found = refine_orthogonal(ciphertexts, prior, num_keys=2, budget=Budget(steps=0, width=8, crop_in_blocks=8))
    assert not found.inverter.succeeded
    np.testing.assert_allclose(found.decode(ciphertexts[0]), found.aligned.decode(ciphertexts[0]), atol=0.15)


def test_too_few_images_to_rehearse_with_are_refused(ciphertexts, prior):
    few = image_prior(crops([0])[:5], PATCH_SIZE, num_shifts=2)
    with pytest.raises(
        ValueError, match=r"a prior of 10 images or more, half of which play the 5 ciphertexts, .* of 5"
    ):
        refine_orthogonal(ciphertexts, few)
