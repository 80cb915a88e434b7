"""What an audit says about its own duration, before it starts."""

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

pytest.importorskip("skimage", reason="the attacks extra is not installed")

from hf_privseg.audit.attack_table import ATTACKS
from hf_privseg.audit.duration import estimate_in_words, expected_seconds, measured
from hf_privseg.audit.scene import Scene
from hf_privseg.audit.trial import NO_PRIOR, Attack, Trial


def trial(attack, height=480, num_images=1):
    scene = cast(Scene, SimpleNamespace(images=[np.zeros((3, height, 640))]))
    return Trial(attack=attack, scene=scene, target=None, prior=NO_PRIOR, num_images=num_images)


def test_every_attack_of_the_table_was_measured():
    assert set(measured()["seconds"]) == {attack.name for attack in ATTACKS}


def test_more_pixels_and_more_images_take_longer():
    attack = next(attack for attack in ATTACKS if attack.name == "alignment of z")
    one, high, many = expected_seconds([trial(attack), trial(attack, height=960), trial(attack, num_images=60)])
    assert high == pytest.approx(2 * one)
    assert many > one > 0


def test_an_attack_of_ones_own_counts_as_an_average_one():
    own = replace(ATTACKS[0], name="mine")
    assert isinstance(own, Attack)
    assert 0 < expected_seconds([trial(own)])[0] < 60


def test_in_words():
    assert estimate_in_words(20, 3).startswith("3 attacks: about 1 minute on a machine such as ")
    assert estimate_in_words(1000, 1).startswith("1 attack: about 17 minutes on ")
