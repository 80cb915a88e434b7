"""RRP: the restricted permutations, their definition, exact inverses, what stays in place, and vectors."""

import numpy as np
import pytest
import torch

from hf_privseg.baselines.ciphers import ShfCipher
from hf_privseg.baselines.restricted import RestrictedCipher, restricted_order
from hf_privseg.setr.errors import InvalidImageError
from hf_privseg.setr.keys import SecretKey

KEY, OTHER = SecretKey((7).to_bytes(32, "big")), SecretKey((8).to_bytes(32, "big"))
IMAGE = torch.randint(0, 256, (3, 12, 16), generator=torch.Generator().manual_seed(0)).double() / 255


def make_cipher(blocks=0.5, pixels=0.25, key=KEY):
    return RestrictedCipher(key, block_size=4, num_blocks=12, fixed_blocks=blocks, fixed_pixels=pixels)


def test_blocks_move_and_values_move_in_each_of_them_as_the_two_orders_say():
    """Against explicit loops over the definition."""
    blocks, values = (
        restricted_order(KEY, *case).tolist() for case in ((12, 0.5, "rrp-block"), (48, 0.25, "rrp-pixel"))
    )
    expected = torch.empty_like(IMAGE)
    for place, source in enumerate(blocks):
        (top, left), (source_top, source_left) = ((4 * (n // 4), 4 * (n % 4)) for n in (place, source))
        flat = IMAGE[:, source_top : source_top + 4, source_left : source_left + 4].permute(1, 2, 0).flatten()
        expected[:, top : top + 4, left : left + 4] = flat[values].reshape(4, 4, 3).permute(2, 0, 1)
    assert torch.equal(make_cipher().encrypt(IMAGE), expected)
    two = torch.stack([IMAGE, IMAGE.flip(-1)])
    assert torch.equal(make_cipher().encrypt(two)[1], make_cipher().encrypt(two[1]))


def test_vectors_of_the_orders():
    assert restricted_order(KEY, 8, 0.5, "rrp-block").tolist() == [3, 1, 0, 2, 4, 5, 6, 7]
    assert restricted_order(KEY, 12, 0.25, "rrp-pixel").tolist() == [5, 10, 2, 3, 0, 8, 11, 6, 1, 9, 7, 4]


@pytest.mark.parametrize(("fixed", "least", "most"), [(0.0, 0, 5), (0.6, 99, 104), (0.9, 148, 153), (1.0, 165, 165)])
def test_the_share_stays_in_place_and_nearly_all_else_moves(fixed, least, most):
    orders = [restricted_order(key, 165, fixed, "rrp-block").numpy() for key in (KEY, OTHER)]
    for order in orders:
        assert sorted(order) == list(range(165))
        assert least <= np.sum(order == np.arange(165)) <= most
    assert np.array_equal(orders[0], orders[1]) == (fixed == 1)


@pytest.mark.parametrize(("blocks", "pixels"), [(0.0, 0.0), (0.6, 0.6), (1.0, 0.0), (0.0, 1.0)])
def test_round_trip_of_images_and_of_maps(blocks, pixels):
    cipher = make_cipher(blocks, pixels)
    assert torch.equal(cipher.decrypt(cipher.encrypt(IMAGE)), IMAGE)
    labels, logits = torch.arange(192).reshape(12, 16), torch.arange(2 * 192.0).reshape(2, 12, 16)
    assert torch.equal(cipher.put_back(cipher.move(labels)), labels)
    assert torch.equal(cipher.put_back(cipher.move(logits))[1], logits[1])
    assert torch.equal(cipher.move(labels), labels) == (blocks == 1)


def test_labels_lie_where_the_blocks_of_the_ciphertext_do():
    blocks_alone = make_cipher(0.25, 1.0)
    assert torch.equal(blocks_alone.move(IMAGE), blocks_alone.encrypt(IMAGE))
    assert torch.equal(make_cipher(0.25, 0.0).move(IMAGE), blocks_alone.move(IMAGE))


def test_without_restriction_on_pixels_alone_it_is_shf_with_another_order():
    cipher, shf = make_cipher(1.0, 0.0), ShfCipher(KEY, block_size=4)
    shf._order = cipher._pixel_order
    assert torch.equal(cipher.encrypt(IMAGE), shf.encrypt(IMAGE))


def test_all_in_place_is_no_encryption_and_keys_matter_otherwise():
    assert torch.equal(make_cipher(1.0, 1.0).encrypt(IMAGE), IMAGE)
    assert (make_cipher(key=OTHER).encrypt(IMAGE) != make_cipher().encrypt(IMAGE)).float().mean() > 0.5
    assert (make_cipher(key=OTHER).decrypt(make_cipher().encrypt(IMAGE)) - IMAGE).abs().mean() > 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_blocks": 0}, "num_blocks is an int >= 1, got 0"),
        ({"fixed_blocks": 1.5}, r"fixed_blocks is a share in 0 \.\. 1, got 1\.5"),
        ({"fixed_pixels": -0.1}, r"fixed_pixels is a share in 0 \.\. 1, got -0\.1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    given = {"block_size": 4, "num_blocks": 12, "fixed_blocks": 0.5, "fixed_pixels": 0.5}
    with pytest.raises(ValueError, match=message):
        RestrictedCipher(KEY, **(given | settings))


def test_an_image_of_other_blocks_is_refused():
    cipher = make_cipher()
    for act in (cipher.encrypt, cipher.decrypt, cipher.move, cipher.put_back):
        with pytest.raises(
            InvalidImageError, match=r"expected 12 blocks of 4 x 4, got a size of 12 x 12; .*num_blocks"
        ):
            act(torch.zeros(3, 12, 12))
