"""Permutation keys fall from ciphertexts, with images of similar scenes, with others, and with none."""

import numpy as np
import pytest
import torch

pytest.importorskip("skimage", reason="the attacks extra is not installed")

from hf_privseg.attacks.permutation import recover_permutation, recover_signs
from hf_privseg.attacks.tools.blocks import to_grid, to_image
from hf_privseg.attacks.tools.metrics import high_pass_correlation, key_recovery, thumbnail
from hf_privseg.attacks.tools.priors import image_prior, sample_prior, synthetic_prior
from hf_privseg.catalog.sample_images import SAMPLE_IMAGES
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.setr.keys import SecretKey

SIZE = 4
CHINA = SAMPLE_IMAGES["china"].load().transpose(2, 0, 1)[:, :424] / 127.5 - 1
VICTIM = CHINA[..., :320]


@pytest.fixture(scope="module")
def priors():
    return {
        "in-domain": image_prior([CHINA[..., 320:]], SIZE, num_shifts=4),
        "unrelated": sample_prior(SIZE, exclude=["china"], num_shifts=1),
        "synthetic": synthetic_prior(SIZE),
    }


def encrypted(family, number=7):
    """(ciphertext grid, true order, true signs)"""
    key = SecretKey(number.to_bytes(32, "big"), family)
    cipher = cipher_for(key, patch_size=SIZE, num_channels=3)
    grid = to_grid(cipher.encrypt(torch.from_numpy(VICTIM)).numpy(), SIZE)
    signs = key.signs(48).astype(float) if family == "signed_permutation" else np.ones(48)
    return grid, key.permutation(48), signs


@pytest.mark.parametrize("name", ["in-domain", "unrelated", "synthetic"])
@pytest.mark.parametrize("family", ["permutation", "signed_permutation"])
def test_one_ciphertext_gives_the_image_away(priors, family, name):
    grid, order, signs = encrypted(family)
    estimate = recover_permutation([grid], priors[name], signed=family == "signed_permutation")
    assert np.array_equal(estimate.signs, signs)
    shares = key_recovery(estimate.order, order, SIZE)
    assert shares["within_one"] >= 0.95
    decoded = to_image(estimate.decode(grid), SIZE)
    baselines = [high_pass_correlation(image, VICTIM) for image in (thumbnail(VICTIM, SIZE), to_image(grid, SIZE))]
    assert high_pass_correlation(decoded, VICTIM) > max(0.8, *baselines)
    if name == "in-domain":
        assert shares["exact"] == 1.0
        np.testing.assert_allclose(decoded, VICTIM, atol=1e-12)
        assert estimate.fit > 0.8  # noise, below, has less than half


def test_the_last_sign_is_found_by_the_light_and_by_likelihood(priors):
    grid, _, signs = encrypted("signed_permutation")
    upside_up = recover_signs([grid], priors["synthetic"])
    assert np.array_equal(upside_up, signs)
    # Upside down the light comes from below: without images the guess is the negative.
    assert np.array_equal(recover_signs([grid[::-1]], priors["synthetic"]), -signs)
    # Turned by a quarter it comes from neither, and the similar image decides.
    shuffled = np.random.default_rng(0).permutation(grid.reshape(-1, 48)).reshape(grid.shape)
    assert np.array_equal(recover_signs([shuffled], priors["in-domain"]), signs)


def test_noise_fits_no_image(priors):
    noise = np.random.default_rng(0).uniform(-1, 1, (40, 40, 48))
    assert recover_permutation([noise], priors["in-domain"]).fit < 0.5


def test_a_prior_of_another_block_length_is_refused(priors):
    with pytest.raises(ValueError, match="blocks of 12 values and the prior has 48; make the prior with"):
        recover_permutation([np.zeros((3, 3, 12))], priors["synthetic"])
