"""SHF, NP and FFX from ciphertexts: what comes back, beside what the ciphertext and a thumbnail show."""

import numpy as np
import pytest
import torch

pytest.importorskip("skimage", reason="the attacks extra is not installed")

from hf_privseg.attacks.block_ciphers import (
    common_divisor,
    ffx_from_known_plaintext,
    recover_ffx,
    recover_np,
    recover_shf,
    row_column_channel,
)
from hf_privseg.attacks.tools.blocks import to_grid, to_image
from hf_privseg.attacks.tools.metrics import high_pass_correlation, image_metrics, thumbnail
from hf_privseg.attacks.tools.priors import image_prior
from hf_privseg.baselines.ciphers import BLOCKWISE_CIPHERS, FfxCipher
from hf_privseg.catalog.sample_images import SAMPLE_IMAGES
from hf_privseg.setr.keys import SecretKey

CHINA = SAMPLE_IMAGES["china"].load().transpose(2, 0, 1)[:, :416] / 127.5 - 1
VICTIM, OTHER = CHINA[..., :320], CHINA[..., 320:640]
KEY = SecretKey((7).to_bytes(32, "big"))


def encrypted(name, image=VICTIM, size=4):
    cipher = BLOCKWISE_CIPHERS[name](KEY, block_size=size)
    return to_grid(cipher.encrypt_centred(torch.from_numpy(image)).numpy(), size)


def check_against_baselines(decoded, grid, size, minimum):
    """hp above `minimum`, and above what the thumbnail and the ciphertext itself have."""
    found = high_pass_correlation(to_image(decoded, size), VICTIM)
    assert found >= minimum
    for image in (thumbnail(VICTIM, size), to_image(grid, size)):
        assert high_pass_correlation(image, VICTIM) < found - 0.1


def test_shf_falls_and_its_order_translates_to_the_published_one():
    grid = encrypted("shf")
    estimate = recover_shf([grid], image_prior([OTHER], 4, num_shifts=4))
    assert np.array_equal(row_column_channel(estimate.order, 4), KEY.permutation(48, "shf-order"))
    check_against_baselines(estimate.decode(grid), grid, 4, 0.999)


@pytest.mark.parametrize("size", [4, 16])
def test_np_falls(size):
    grid = encrypted("np", size=size)
    estimate = recover_np([grid], image_prior([OTHER], size))
    decoded = to_image(estimate.decode(grid), size)
    np.testing.assert_allclose(decoded, VICTIM, atol=1e-12)
    check_against_baselines(estimate.decode(grid), grid, size, 0.999)


@pytest.mark.parametrize("size", [4, 16])
def test_ffx_falls_without_any_image(size):
    grid = encrypted("ffx", size=size)
    estimate = recover_ffx([grid], patch_size=size)
    cipher = FfxCipher(KEY, block_size=size)
    assert estimate.maximum == cipher._maximum
    mask = to_grid(cipher._mask.reshape(size, size, 3).permute(2, 0, 1).numpy(), size)[0, 0] > 0
    assert np.array_equal(estimate.mask, mask)
    seen = estimate.level_of_code >= 0
    error = abs(estimate.level_of_code[seen] - cipher._level_of_code.numpy()[seen])
    assert error.mean() < 6  # of 255
    check_against_baselines(estimate.decode(grid), grid, size, 0.95)
    assert image_metrics(to_image(estimate.decode(grid), size), VICTIM)["psnr"] > 30


def test_one_known_image_opens_another_one_of_ffx():
    known, victim = encrypted("ffx", OTHER), encrypted("ffx")
    estimate = ffx_from_known_plaintext([known], [to_grid(OTHER, 4)])
    decoded = estimate.decode(victim)
    np.testing.assert_allclose(estimate.decode(known), to_grid(OTHER, 4), atol=1e-12)
    assert np.mean(abs(decoded - to_grid(VICTIM, 4)) < 1e-9) > 0.999


def test_an_image_without_masked_values_comes_back_as_it_is():
    plain = to_grid(VICTIM, 4)
    estimate = recover_ffx([plain], patch_size=4)
    assert estimate.maximum == 255
    assert not estimate.mask.any()
    np.testing.assert_allclose(estimate.decode(plain), plain, atol=1e-12)


def test_what_is_no_ffx_ciphertext_is_refused():
    noise = np.random.default_rng(0).uniform(-1, 1, (4, 4, 48))
    with pytest.raises(ValueError, match=r"the 767 values of these ciphertexts are no multiples of 1/255 to 1/999"):
        common_divisor([noise])
