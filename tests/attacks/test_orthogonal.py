"""Images encrypted with an orthogonal key come back from their ciphertexts, whatever the key."""

import re

import numpy as np
import pytest
import torch

from hf_privseg.attacks.orthogonal import reconstruct_orthogonal
from hf_privseg.attacks.tools.blocks import to_grid, to_image
from hf_privseg.attacks.tools.metrics import high_pass_correlation, thumbnail
from hf_privseg.attacks.tools.priors import image_prior, sample_prior, synthetic_prior
from hf_privseg.catalog.sample_images import SAMPLE_IMAGES
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.setr.keys import SecretKey

PATCH_SIZE = 8


def pixels_of(name):
    image = SAMPLE_IMAGES[name].load().transpose(2, 0, 1) / 127.5 - 1
    height, width = (side // PATCH_SIZE * PATCH_SIZE for side in image.shape[1:])
    return image[:, :height, :width]


def encrypted(image, secret=0):
    cipher = cipher_for(SecretKey(bytes([secret]) * 32, "orthogonal"), patch_size=PATCH_SIZE)
    return to_grid(cipher.encrypt(torch.from_numpy(image)).numpy(), PATCH_SIZE)


def hp(decoder, grid, image):
    return high_pass_correlation(to_image(decoder.decode(grid), PATCH_SIZE), image)


@pytest.mark.parametrize(
    ("name", "prior", "least"),
    [
        pytest.param("astronaut", "synthetic", 0.8, id="astronaut, no image at all"),
        pytest.param("china", "synthetic", 0.4, id="china, no image at all"),
        pytest.param("coffee", "unrelated", 0.45, id="coffee, unrelated images"),
    ],
)
def test_a_image_from_its_ciphertext_alone(name, prior, least):
    image = pixels_of(name)
    others = sample_prior(PATCH_SIZE, exclude=[name], num_shifts=2)
    known = others if prior == "unrelated" else synthetic_prior(PATCH_SIZE)
    grid = encrypted(image)
    assert abs(high_pass_correlation(to_image(grid, PATCH_SIZE), image)) < 0.1
    assert high_pass_correlation(thumbnail(image, PATCH_SIZE), image) < 0.25
    # up to a global sign, which images of other scenes need not settle
    assert abs(hp(reconstruct_orthogonal([grid], known), grid, image)) > least


def test_a_prior_that_fits_gives_the_image_whatever_the_key():
    image = pixels_of("chelsea")
    prior = image_prior([image], PATCH_SIZE)
    decoded = []
    for secret in (1, 2):
        grid = encrypted(image, secret)
        decoder = reconstruct_orthogonal([grid], prior)
        assert hp(decoder, grid, image) > 0.9
        decoded.append(decoder.decode(grid))
    assert decoded[0] == pytest.approx(decoded[1], abs=1e-6)
    assert abs(hp(decoder, encrypted(image, 3), image)) < 0.2  # a decoder belongs to its key


def test_fewer_components_recover_less():
    image = pixels_of("astronaut")
    prior, grid = image_prior([image], PATCH_SIZE), encrypted(image)
    few, some = (hp(reconstruct_orthogonal([grid], prior, num_components=n), grid, image) for n in (3, 24))
    assert 0.1 < few < some - 0.1


def test_components_without_variance_are_left_out():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(12, 12, 2)) @ rng.normal(size=(2, 192))
    decoder = reconstruct_orthogonal([flat], synthetic_prior(PATCH_SIZE))
    assert np.linalg.matrix_rank(decoder.matrix) == 2


def test_the_length_of_blocks_is_checked():
    message = "expected ciphertext blocks of length 192, as the prior has them, got 48; make the prior with"
    with pytest.raises(ValueError, match=re.escape(message)):
        reconstruct_orthogonal([np.ones((4, 4, 48))], synthetic_prior(PATCH_SIZE))
