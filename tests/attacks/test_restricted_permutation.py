"""Restricted permutations fall from one ciphertext; without the share that stays, this attack has nothing."""

import numpy as np
import pytest
import torch

pytest.importorskip("skimage", reason="the attacks extra is not installed")

from hf_privseg.attacks.restricted_permutation import recover_restricted
from hf_privseg.attacks.tools.blocks import to_grid, to_image
from hf_privseg.attacks.tools.metrics import high_pass_correlation, thumbnail
from hf_privseg.attacks.tools.priors import image_prior
from hf_privseg.baselines import RestrictedCipher
from hf_privseg.catalog.sample_images import SAMPLE_IMAGES
from hf_privseg.setr.keys import SecretKey

SIZE, NUM_BLOCKS = 8, 13 * 20
CHINA = SAMPLE_IMAGES["china"].load().transpose(2, 0, 1)[:, 200:304] / 127.5 - 1
VICTIM, PRIOR = CHINA[..., :160], image_prior([CHINA[..., 160:]], SIZE, num_shifts=4)


def encrypted(fixed, image=VICTIM, number=7):
    """(cipher, ciphertext grid)"""
    key = SecretKey(number.to_bytes(32, "big"))
    cipher = RestrictedCipher(key, block_size=SIZE, num_blocks=NUM_BLOCKS, fixed_blocks=fixed, fixed_pixels=fixed)
    return cipher, to_grid(cipher.encrypt_centred(torch.from_numpy(image)).numpy(), SIZE)


def recovered(grids, fixed):
    return recover_restricted(grids, PRIOR, fixed_blocks=fixed, fixed_pixels=fixed)


def hp(grid):
    return high_pass_correlation(to_image(grid, SIZE), VICTIM)


@pytest.fixture(scope="module")
def broken():
    """A cipher, a ciphertext, and the estimate from this one ciphertext."""
    cipher, grid = encrypted(0.75)
    return cipher, grid, recovered([grid], 0.75)


def test_one_ciphertext_gives_the_image_away(broken):
    cipher, grid, estimate = broken
    found = hp(estimate.decode(grid))
    assert found > 0.6
    assert found > max(hp(grid), high_pass_correlation(thumbnail(VICTIM, SIZE), VICTIM)) + 0.1
    true_blocks = cipher._block_order.numpy()
    moved = true_blocks != np.arange(NUM_BLOCKS)
    assert np.mean(estimate.blocks[moved] == true_blocks[moved]) > 0.5


def test_an_estimate_undoes_exactly_what_the_cipher_does():
    """The right orders, put into the estimate by hand, give the image."""
    cipher, grid = encrypted(0.6)
    probe = torch.arange(192.0).reshape(3, SIZE, SIZE).double() / 191
    one = RestrictedCipher(
        SecretKey((7).to_bytes(32, "big")), block_size=SIZE, num_blocks=1, fixed_blocks=1, fixed_pixels=0.6
    )
    pixels = (to_grid(one.encrypt(probe).numpy(), SIZE)[0, 0] * 191).round().astype(int)
    estimate = type(recovered([grid], 1.0))(cipher._block_order.numpy(), pixels)
    np.testing.assert_allclose(to_image(estimate.decode(grid), SIZE), VICTIM, atol=1e-12)


def test_what_is_not_encrypted_stays_as_it_is():
    plain = to_grid(VICTIM, SIZE)
    estimate = recovered([plain], 1.0)
    np.testing.assert_array_equal(estimate.decode(plain), plain)


def test_without_restriction_this_attack_finds_nothing():
    _, grid = encrypted(0.0)
    assert abs(hp(recovered([grid], 0.0).decode(grid))) < 0.15


def test_what_is_found_of_one_key_says_nothing_of_an_image_under_another(broken):
    _, grid, estimate = broken
    _, other = encrypted(0.75, number=8)
    assert hp(estimate.decode(other)) < hp(other) + 0.05
    assert hp(estimate.decode(other)) < hp(estimate.decode(grid)) - 0.3


def test_what_does_not_belong_together_is_refused():
    _, grid = encrypted(0.6)
    with pytest.raises(
        ValueError, match=r"expected ciphertexts of one size, with blocks of 192 values .*another size"
    ):
        recovered([grid, grid[:5]], 0.6)
    with pytest.raises(ValueError, match=r"expected shares in 0 \.\. 1, got 2 of the blocks"):
        recover_restricted([grid], PRIOR, fixed_blocks=2, fixed_pixels=0.5)
