"""The permutation attack's bars on street scenes: one ciphertext, sixteen, and a sequence unknown to the prior."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("skimage", reason="the attacks extra is not installed")

from hf_privseg.attacks.permutation import recover_permutation
from hf_privseg.attacks.tools.blocks import to_grid
from hf_privseg.attacks.tools.metrics import key_recovery
from hf_privseg.attacks.tools.priors import image_prior
from hf_privseg.setr.keys import SecretKey

SIZE = 16

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("PRIVSEG_CAMVID" not in os.environ, reason="PRIVSEG_CAMVID does not name the CamVid folder"),
]


def frames(split, pattern="*", step=1):
    paths = sorted((Path(os.environ["PRIVSEG_CAMVID"]) / "images" / split).glob(pattern))[::step]
    return [np.asarray(Image.open(path).convert("RGB"))[4:356].transpose(2, 0, 1) / 127.5 - 1 for path in paths]


@pytest.fixture(scope="module")
def prior():
    return image_prior(frames("train", step=6), SIZE)


@pytest.mark.parametrize(
    ("pattern", "step", "num_frames", "exact", "within_one"),
    [
        ("0001TP*", 30, 1, 0.2, 0.85),
        ("Seq05VD*", 100, 1, 0.2, 0.85),
        ("*", 14, 16, 1.0, 1.0),
    ],
    ids=["one-of-a-known-sequence", "one-of-an-unknown-sequence", "sixteen"],
)
def test_signed_permutation_falls(prior, pattern, step, num_frames, exact, within_one):
    key = SecretKey((7).to_bytes(32, "big"), "signed_permutation")
    order, signs = key.permutation(768), key.signs(768).astype(float)
    victims = [to_grid(image, SIZE)[..., order] * signs for image in frames("test", pattern, step)[-num_frames:]]
    assert len(victims) == num_frames
    estimate = recover_permutation(victims, prior, signed=True)
    assert np.array_equal(estimate.signs, signs)
    shares = key_recovery(estimate.order, order, SIZE)
    print(pattern, num_frames, shares, f"fit {estimate.fit:.3f}")
    assert shares["exact"] >= exact
    assert shares["within_one"] >= within_one
