"""One known image ends a key that moves blocks and pixels, whatever stays in place; and no other key."""

import numpy as np
import pytest
import torch

from helpers.attack_victims import PATCH_SIZE, victim
from hf_privseg.attacks.known_moved_blocks import recover_moved_blocks
from hf_privseg.attacks.tools.blocks import to_grid, to_image
from hf_privseg.attacks.tools.metrics import high_pass_correlation, psnr
from hf_privseg.baselines import RestrictedCipher
from hf_privseg.setr.keys import SecretKey

KNOWN, OTHER = (victim(name)[:24, :24] for name in ("astronaut", "coffee"))


def encrypted(grid, fixed, number=7):
    key = SecretKey(number.to_bytes(32, "big"))
    blocks = grid.shape[0] * grid.shape[1]
    cipher = RestrictedCipher(key, block_size=PATCH_SIZE, num_blocks=blocks, fixed_blocks=fixed, fixed_pixels=fixed)
    return to_grid(cipher.encrypt_centred(torch.from_numpy(to_image(grid, PATCH_SIZE))).numpy(), PATCH_SIZE)


@pytest.mark.parametrize("fixed", [0.0, 0.6, 1.0])
def test_one_known_image_decodes_another(fixed):
    found = recover_moved_blocks(KNOWN, encrypted(KNOWN, fixed))
    seen = encrypted(OTHER, fixed)
    assert psnr(found.decode(seen), OTHER) > 60
    assert fixed == 1 or psnr(seen, OTHER) < 25


def test_blocks_of_the_same_values_are_told_apart_by_where_these_lie():
    known = KNOWN.copy()
    known[0] = known[1, :, ::-1]  # 24 pairs
    found = recover_moved_blocks(known, encrypted(known, 0.0))
    assert psnr(found.decode(encrypted(OTHER, 0.0)), OTHER) > 60


def test_under_a_key_of_its_own_for_every_image_the_next_one_stays():
    found = recover_moved_blocks(KNOWN, encrypted(KNOWN, 0.0))
    decoded = found.decode(encrypted(OTHER, 0.0, number=8))
    assert abs(high_pass_correlation(to_image(decoded, PATCH_SIZE), to_image(OTHER, PATCH_SIZE))) < 0.1


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match=r"blocks of one image, .* got \(24, 24, 48\) and \(12, 24, 48\)"):
        recover_moved_blocks(KNOWN, KNOWN[:12])
    found = recover_moved_blocks(KNOWN[:6], encrypted(KNOWN[:6], 0.0))
    with pytest.raises(ValueError, match="expected a ciphertext of 144 blocks, as the known image has, got 576"):
        found.decode(encrypted(OTHER, 0.0))
    assert np.array_equal(np.sort(found.blocks), np.arange(144))
