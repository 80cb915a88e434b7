"""The brightness of every block of one image, from its ciphertext alone."""

import numpy as np
import pytest
import torch

from hf_privseg.attacks.thumbnail import reconstruct_thumbnail
from hf_privseg.attacks.tools.blocks import to_grid
from hf_privseg.attacks.tools.priors import image_prior, synthetic_prior
from hf_privseg.catalog.sample_images import SAMPLE_IMAGES
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.setr.keys import FAMILIES, SecretKey

PATCH_SIZE = 8


def pixels_of(name):
    image = SAMPLE_IMAGES[name].load().transpose(2, 0, 1) / 127.5 - 1
    height, width = (side // PATCH_SIZE * PATCH_SIZE for side in image.shape[1:])
    return image[:, :height, :width]


def encrypted(image, family):
    cipher = cipher_for(SecretKey(bytes(32), family), patch_size=PATCH_SIZE)
    return to_grid(cipher.encrypt(torch.from_numpy(image)).numpy(), PATCH_SIZE)


def brightness(image):
    return to_grid(image, PATCH_SIZE).mean(axis=-1).ravel()


def correlation(decoder, grid, image):
    estimate = grid @ decoder.matrix + decoder.offset
    assert np.ptp(estimate, axis=-1).max() < 1e-9  # one grey a block
    return float(np.corrcoef(estimate.mean(axis=-1).ravel(), brightness(image))[0, 1])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_the_first_component_is_the_brightness(family, name):
    image = pixels_of(name)
    grid = encrypted(image, family)
    decoder = reconstruct_thumbnail([grid], synthetic_prior(PATCH_SIZE))
    assert abs(correlation(decoder, grid, image)) > (0.995 if family == "matrix" else 0.999)


@pytest.mark.parametrize("name", ["astronaut", "coffee", "rocket"])
def test_sign_and_scale_are_those_of_a_prior_that_fits(name):
    image = pixels_of(name)
    left, right = image[..., : image.shape[2] // 16 * 8], image[..., image.shape[2] // 16 * 8 :]
    decoder = reconstruct_thumbnail([encrypted(right, "orthogonal")], image_prior([left], PATCH_SIZE))
    found = decoder.decode(encrypted(right, "orthogonal")).mean(axis=-1).ravel()
    assert np.corrcoef(found, brightness(right))[0, 1] > 0.98
    assert found.std() == pytest.approx(brightness(left).std(), rel=0.05)
    assert found.mean() == pytest.approx(brightness(left).mean(), abs=0.02)


def test_without_images_light_comes_from_above():
    image = pixels_of("china")  # a bright sky
    for family in FAMILIES:
        grid = encrypted(image, family)
        assert correlation(reconstruct_thumbnail([grid], synthetic_prior(PATCH_SIZE)), grid, image) > 0.99


def test_an_image_of_one_colour_is_refused():
    with pytest.raises(ValueError, match="expected ciphertexts of at least two different blocks"):
        reconstruct_thumbnail([np.zeros((4, 4, 192))], synthetic_prior(PATCH_SIZE))
