"""A network on the attacker's own images, and what it recovers of another."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.attack_victims import LENGTH, VICTIMS, drifted, embedding, pixels_of, prior, victim
from hf_privseg.attacks.learned_inversion import Budget, train_inverter
from hf_privseg.attacks.public_base import invert_embedding
from hf_privseg.attacks.tools.blocks import LinearDecoder, to_grid
from hf_privseg.attacks.tools.metrics import psnr
from hf_privseg.catalog.sample_images import SAMPLE_IMAGES

SMALL = Budget(steps=60, batch_size=4, crop_in_blocks=12, width=64, depth=1)


def narrow():
    """E (48, 8): most of a block is lost, and only its neighbours tell of it."""
    return embedding()[:, :8]


def own_images():
    return [to_grid(pixels_of(name), 4) for name in sorted(SAMPLE_IMAGES) if name not in VICTIMS]


def observe(grid, rng):
    return grid @ narrow()


@pytest.fixture(scope="module")
def inverter():
    linear = invert_embedding(narrow(), prior().statistics)
    return train_inverter(own_images(), observe, linear, budget=SMALL)


def test_it_beats_the_linear_estimate_on_images_that_it_never_saw(inverter):
    assert inverter.succeeded
    for name in VICTIMS:
        seen = victim(name) @ narrow()
        learned, linear = (psnr(found.decode(seen), victim(name)) for found in (inverter, inverter.linear))
        assert learned > linear + 0.3


def test_an_untrained_network_is_the_linear_estimate():
    linear = invert_embedding(narrow(), prior().statistics)
    found = train_inverter(own_images(), observe, linear, budget=Budget(steps=0, width=8))
    assert not found.succeeded
    seen = victim() @ narrow()
    np.testing.assert_array_equal(found.decode(seen), linear.decode(seen))


def test_a_gain_that_may_be_chance_is_none(inverter):
    close = replace(inverter, learned_psnr=inverter.linear_psnr + 0.05)
    assert not close.succeeded
    seen = victim() @ narrow()
    np.testing.assert_array_equal(close.decode(seen), close.linear.decode(seen))


def test_features_are_what_the_network_and_the_linear_estimate_see():
    linear = invert_embedding(narrow(), prior().statistics)
    pixels = LinearDecoder(np.eye(LENGTH), np.zeros(LENGTH))
    found = train_inverter(
        own_images(), observe, pixels, features=lambda z: z @ linear.matrix + linear.offset, budget=SMALL
    )
    assert found.succeeded
    seen = victim() @ narrow()
    assert psnr(found.decode(seen), victim()) > psnr(linear.decode(seen), victim())


def test_it_learns_under_drifts_of_its_own():
    base = drifted(embedding(), 0.3)

    def observe(grid, rng):
        noise = rng.standard_normal(base.shape)
        return grid @ (base + 0.3 * np.linalg.norm(base) / np.linalg.norm(noise) * noise)

    linear = invert_embedding(base, prior().statistics, drift=0.3)
    found = train_inverter(own_images(), observe, linear, budget=replace(SMALL, steps=200))
    assert found.succeeded
    assert psnr(found.decode(victim() @ embedding()), victim()) > psnr(linear.decode(victim() @ embedding()), victim())


def test_progress_is_told():
    told = []
    linear = invert_embedding(narrow(), prior().statistics)
    budget = Budget(steps=6, checks=3, width=8, batch_size=1)
    train_inverter(own_images(), observe, linear, budget=budget, progress=lambda step, found: told.append(step))
    assert told == [2, 4, 6]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([np.zeros((20, 20, LENGTH))], "two images or more, one of which is held out, got 1"),
        ([np.zeros((20, 20, LENGTH)), np.zeros((20, 11, LENGTH))], "at least 12 blocks a side, a crop, got 11"),
    ],
)
def test_too_little_to_learn_from_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        train_inverter(images, observe, LinearDecoder(np.eye(LENGTH), np.zeros(LENGTH)), budget=SMALL)
