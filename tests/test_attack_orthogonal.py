"""Photographs encrypted with an orthogonal key come back from their ciphertexts, whatever the key."""

import re

import numpy as np
import pytest
import torch

from hf_privseg.attacks.blocks import to_grid, to_image
from hf_privseg.attacks.metrics import high_pass_correlation, thumbnail
from hf_privseg.attacks.orthogonal import reconstruct_orthogonal
from hf_privseg.attacks.priors import PHOTOS, image_prior, photo_prior, synthetic_prior
from hf_privseg.attacks.thumbnail import reconstruct_thumbnail
from hf_privseg.ciphers import cipher_for
from hf_privseg.keys import SecretKey

PATCH_SIZE = 8


def photo(name, patch_size=PATCH_SIZE):
    image = PHOTOS[name]().transpose(2, 0, 1) / 127.5 - 1
    height, width = (side // patch_size * patch_size for side in image.shape[1:])
    return image[:, :height, :width]


def encrypted(image, family="orthogonal", secret=0, patch_size=PATCH_SIZE):
    cipher = cipher_for(SecretKey(bytes([secret]) * 32, family), patch_size=patch_size)
    return to_grid(cipher.encrypt(torch.from_numpy(image)).numpy(), patch_size)


def hp(decoder, grid, image):
    return high_pass_correlation(to_image(decoder.decode(grid), PATCH_SIZE), image)


@pytest.mark.parametrize("name", ["astronaut", "china", "coffee"])
@pytest.mark.parametrize("prior", ["photos", "synthetic"])
def test_a_photograph_from_its_ciphertext_alone(name, prior):
    image = photo(name)
    known = photo_prior(PATCH_SIZE, exclude=[name], num_shifts=2) if prior == "photos" else synthetic_prior(PATCH_SIZE)
    grid = encrypted(image)
    assert abs(high_pass_correlation(to_image(grid, PATCH_SIZE), image)) < 0.1
    print(
        name,
        prior,
        hp(reconstruct_orthogonal([grid], known), grid, image),
        high_pass_correlation(thumbnail(image, PATCH_SIZE), image),
    )


def test_a_prior_that_fits_gives_the_photograph_whatever_the_key():
    image = photo("chelsea")
    prior = image_prior([image], PATCH_SIZE)
    decoded = []
    for secret in (1, 2):
        grid = encrypted(image, secret=secret)
        decoder = reconstruct_orthogonal([grid], prior)
        assert hp(decoder, grid, image) > 0.9
        decoded.append(decoder.decode(grid))
    assert decoded[0] == pytest.approx(decoded[1], abs=1e-6)
    wrong = encrypted(image, secret=3)
    print(hp(decoder, wrong, image))


def test_the_length_of_blocks_is_checked():
    message = "expected ciphertext blocks of length 192, as the prior has them, got 48; make the prior with"
    with pytest.raises(ValueError, match=re.escape(message)):
        reconstruct_orthogonal([np.ones((4, 4, 48))], synthetic_prior(PATCH_SIZE))


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("prior", ["photos", "synthetic"])
def test_thumbnail(name, prior):
    image = photo(name)
    known = photo_prior(PATCH_SIZE, exclude=[name], num_shifts=1) if prior == "photos" else synthetic_prior(PATCH_SIZE)
    for family in ("orthogonal", "matrix"):
        grid = encrypted(image, family)
        found = reconstruct_thumbnail([grid], known)
        estimate = (grid @ found.matrix + found.offset).mean(-1)
        print(name, prior, family, np.corrcoef(estimate.ravel(), to_grid(image, PATCH_SIZE).mean(-1).ravel())[0, 1])
