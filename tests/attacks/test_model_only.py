"""The embedded checkpoint's encrypted embedding, without any image: pixels that belong together show it."""

import numpy as np
import pytest
from safetensors.numpy import load_file

pytest.importorskip("scipy", reason="the attacks extra is not installed")

from hf_privseg.attacks.model_only import most_similar, orientations, recover_from_model
from hf_privseg.attacks.tools.metrics import key_recovery
from hf_privseg.checkpoints import default_checkpoint

NAME = "setr.embeddings.patch_embeddings.projection.weight"


@pytest.fixture(scope="module")
def weight():
    stored = load_file(default_checkpoint() / "model.safetensors")[NAME]
    return stored.astype(np.float64).reshape(len(stored), -1)


def test_the_colours_of_a_pixel_find_each_other_in_spite_of_signs(weight):
    rng = np.random.default_rng(0)
    order, signs = rng.permutation(768), rng.choice([-1.0, 1.0], 768)
    mates = most_similar(weight[:, order] * signs, 2)
    assert np.mean(order[mates] % 256 == order[:, None] % 256) > 0.95
    # after a rotation rows say nothing: a pixel finds its mates as often as chance, 2 in 767, allows
    rotation = np.linalg.qr(rng.normal(size=(768, 768)))[0]
    mates = most_similar(weight @ rotation, 2)
    assert np.mean(mates % 256 == np.arange(768)[:, None] % 256) < 0.02


def test_the_layout_of_the_rows_puts_pixels_near_their_places(weight):
    rng = np.random.default_rng(0)
    order, signs = rng.permutation(768), rng.choice([-1.0, 1.0], 768)
    estimate = recover_from_model(weight[:, order] * signs, patch_size=16)
    assert sorted(estimate.order) == list(range(768))
    shares = [key_recovery(one.order, order, 16)["within_one"] for one in orientations(estimate, patch_size=16)]
    assert len(shares) == 8
    assert max(shares) > 0.7  # chance: 0.03
    pixels = np.arange(768.0).reshape(1, 1, 768) / 768
    decoded = estimate.decode(pixels[..., order])[0, 0]
    np.testing.assert_allclose(decoded[estimate.order], pixels[0, 0, order])


def test_a_weight_of_another_block_length_is_refused():
    with pytest.raises(ValueError, match=r"a weight \(hidden_size, 48\), got \(8, 12\); reshape it"):
        recover_from_model(np.zeros((8, 12)), patch_size=4)
