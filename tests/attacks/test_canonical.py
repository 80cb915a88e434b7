"""No invertible key hides canonical correlations: the matrix family, the server's z and the embedding family."""

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group

from hf_privseg.attacks.canonical import reconstruct_canonical
from hf_privseg.attacks.tools.blocks import LinearDecoder, to_grid, to_image
from hf_privseg.attacks.tools.components import consensus
from hf_privseg.attacks.tools.metrics import high_pass_correlation
from hf_privseg.attacks.tools.priors import image_prior
from hf_privseg.catalog.sample_images import SAMPLE_IMAGES
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.setr.keys import SecretKey

PATCH_SIZE = 8
LENGTH, HIDDEN_SIZE = 192, 96


@pytest.fixture(scope="module")
def image():
    return SAMPLE_IMAGES["chelsea"].load().transpose(2, 0, 1)[:, :296, :448] / 127.5 - 1


@pytest.fixture(scope="module")
def prior(image):
    return image_prior([image], PATCH_SIZE)


@pytest.fixture(scope="module")
def embedding():
    """E, (L, D): singular vectors at random, singular values that fall to a hundredth."""
    left, right = (
        ortho_group.rvs(LENGTH, random_state=0)[:, :HIDDEN_SIZE],
        ortho_group.rvs(HIDDEN_SIZE, random_state=1),
    )
    return left * np.geomspace(1, 0.01, HIDDEN_SIZE) @ right


def hp(grid, prior, image, **options):
    estimate = reconstruct_canonical([grid], prior, **options).decode(grid)
    return high_pass_correlation(to_image(estimate, PATCH_SIZE), image)


def test_any_invertible_key_of_all_dimensions(image, prior):
    # all L components whitened: nothing is left of the key, and a prior that fits gives the image back
    key = (
        ortho_group.rvs(LENGTH, random_state=2) * np.geomspace(1, 30, LENGTH) @ ortho_group.rvs(LENGTH, random_state=3)
    )
    assert hp(to_grid(image, PATCH_SIZE) @ key, prior, image, num_components=[LENGTH]) > 0.999


def test_the_matrix_family(image, prior):
    cipher = cipher_for(SecretKey(bytes(32), "matrix"), patch_size=PATCH_SIZE)
    grid = to_grid(cipher.encrypt(torch.from_numpy(image)).numpy(), PATCH_SIZE)
    assert abs(high_pass_correlation(to_image(grid, PATCH_SIZE), image)) < 0.1
    assert hp(grid, prior, image, num_components=[48, 64]) > 0.9


def test_what_the_server_computes_and_the_embedding_family_leak_the_same(image, prior, embedding):
    seen = to_grid(image, PATCH_SIZE) @ embedding
    left, values, _ = np.linalg.svd(embedding, full_matrices=False)
    sent = to_grid(image, PATCH_SIZE) @ (left * values) @ ortho_group.rvs(HIDDEN_SIZE, random_state=4).T
    from_z, from_sent = (
        reconstruct_canonical([grid], prior, num_components=[48, 64]).decode(grid) for grid in (seen, sent)
    )
    assert from_z == pytest.approx(from_sent, abs=1e-6)
    assert high_pass_correlation(to_image(from_z, PATCH_SIZE), image) > 0.85


def whitening(prior):
    """E, (L, D), that leaves the components of largest variance in the prior all one variance, and rotates them."""
    variances, axes = np.linalg.eigh(prior.statistics.covariance)
    leading = slice(-HIDDEN_SIZE, None)
    return axes[:, leading] / np.sqrt(variances[leading]) @ ortho_group.rvs(HIDDEN_SIZE, random_state=5)


def test_an_embedding_that_leaves_all_variances_equal(image, prior, monkeypatch):
    # variances tell nothing of which components lead, so that a sharp cut keeps any of them
    seen = to_grid(image, PATCH_SIZE) @ whitening(prior)
    variances = np.linalg.eigvalsh(np.cov(seen.reshape(-1, HIDDEN_SIZE).T))
    assert variances == pytest.approx(np.ones(HIDDEN_SIZE), rel=0.01)
    assert hp(seen, prior, image, num_components=[48]) > 0.6
    monkeypatch.setattr("hf_privseg.attacks.canonical.FLAT", 2)  # all cuts are sharp
    assert hp(seen, prior, image, num_components=[48]) < 0.3
    monkeypatch.undo()
    shuffled = np.random.default_rng(0).permutation(seen.reshape(-1, HIDDEN_SIZE)).reshape(seen.shape)
    assert abs(hp(shuffled, prior, image, num_components=[48])) < 0.1  # blocks without their neighbours tell nothing


def test_ciphertexts_need_not_be_as_long_as_blocks(prior, embedding):
    decoder = reconstruct_canonical([np.random.default_rng(0).normal(size=(9, 9, 20))], prior)
    assert decoder.matrix.shape == (20, LENGTH)
    assert decoder.decode(np.zeros((2, 3, 20))).shape == (2, 3, LENGTH)


def test_a_consensus_takes_the_sign_of_most_and_cancels_what_each_mistakes():
    rng = np.random.default_rng(1)
    truth, mean, known_mean = rng.normal(size=(6, 4)), rng.normal(size=6), rng.normal(size=4)
    signs = [-1, 1, 1, -1, 1]
    decoders = [LinearDecoder(sign * (truth + rng.normal(size=truth.shape)), np.zeros(4)) for sign in signs]
    found = consensus(decoders, (mean, np.eye(6)), known_mean)
    expected = np.mean([sign * decoder.matrix for sign, decoder in zip(signs, decoders, strict=True)], axis=0)
    assert found.matrix == pytest.approx(expected)
    assert mean @ found.matrix + found.offset == pytest.approx(known_mean)
