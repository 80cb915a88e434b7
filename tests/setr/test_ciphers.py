"""The key families: eq. 3 cancels, round trips are as exact as promised, a wrong key ruins the result."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d
from torchvision.transforms.v2.functional import normalize

from helpers.paths import VECTORS_FOLDER
from hf_privseg.setr.ciphers import CIPHERS, MatrixCipher, OrthogonalCipher, PermutationCipher, cipher_for
from hf_privseg.setr.errors import InvalidImageError, InvalidKeyError, KeyMismatchError
from hf_privseg.setr.keys import FAMILIES, SecretKey

VECTORS = json.loads((VECTORS_FOLDER / "keys.json").read_text())
PATCH_SIZE, LENGTH = 4, 48
PERMUTING, DENSE = FAMILIES[:2], FAMILIES[2:]
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TOLERANCE = {torch.float16: 5e-3, torch.bfloat16: 5e-2, torch.float32: 1e-5, torch.float64: 1e-13}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]

each_family = pytest.mark.parametrize("family", FAMILIES)
each_permuting = pytest.mark.parametrize("family", PERMUTING)
each_dense = pytest.mark.parametrize("family", DENSE)
each_float = pytest.mark.parametrize("dtype", FLOATS, ids=str)


def make_cipher(family, number=7, patch_size=PATCH_SIZE, num_channels=3):
    key = SecretKey(number.to_bytes(32, "big"), family)
    return CIPHERS[family](key, patch_size=patch_size, num_channels=num_channels)


def make_image(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(sum(shape))
    if dtype == torch.uint8:
        return torch.randint(0, 256, shape, dtype=dtype, generator=generator)
    return (torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1).to(dtype)


def make_weight(hidden_size=20, dtype=torch.float32):
    generator = torch.Generator().manual_seed(hidden_size)
    return torch.randn(hidden_size, 3, PATCH_SIZE, PATCH_SIZE, generator=generator, dtype=torch.float64).to(dtype)


def encryption_matrix(cipher):
    """(L, L) float64 E_enc, read off the weight's side: encrypting E = 1 gives E_enc."""
    identity = torch.eye(cipher.block_length, dtype=torch.float64)
    weight = identity.T.reshape(-1, cipher.num_channels, cipher.patch_size, cipher.patch_size)
    return cipher.encrypt_weight(weight).reshape(cipher.block_length, -1).T


def bits(tensor):
    """The stored bytes, so that -0 and 0 differ."""
    return tensor.contiguous().view(torch.uint8)


def relative(difference, reference):
    return (difference.double().norm() / reference.double().norm()).item()


# The table


def test_every_family_has_its_class_and_no_other():
    assert tuple(CIPHERS) == (*FAMILIES, "embedding")  # the key of the last is no SecretKey
    assert [cipher.family for cipher in CIPHERS.values()] == list(CIPHERS)
    assert [cipher.acts_on_uint8 for cipher in CIPHERS.values()] == [True, True, False, False, False]
    assert [cipher.ends_in_zeros for cipher in CIPHERS.values()] == [False, False, False, False, True]


@pytest.mark.parametrize("vector", VECTORS["keys"], ids=lambda vector: vector["name"])
def test_vector_of_ciphertext(vector):
    cipher = cipher_for(SecretKey.from_text(vector["text"]), patch_size=2)
    ramp = torch.arange(0, 240, 5, dtype=torch.uint8).reshape(3, 4, 4)
    if cipher.acts_on_uint8:
        assert cipher.encrypt(ramp).flatten().tolist() == vector["ciphertext"]
    else:
        ciphertext = cipher.encrypt((ramp.double() - 127.5) / 127.5).flatten()
        np.testing.assert_allclose(ciphertext.numpy(), vector["ciphertext"], rtol=0, atol=1e-12)


# The definition (sections 3.2.1 to 3.2.3)


@each_family
def test_embedding_of_the_ciphertext_is_that_of_the_plain_image(family):
    """b_hat E_hat = b E: in float64 to rounding, in float32 to the error of any other order of summation."""
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        cipher, pixels, weight = make_cipher(family), make_image(2, 3, 16, 24, dtype=dtype), make_weight(dtype=dtype)
        expected = conv2d(pixels, weight, stride=PATCH_SIZE)
        actual = conv2d(cipher.encrypt(pixels), cipher.encrypt_weight(weight), stride=PATCH_SIZE)
        assert relative(actual - expected, expected) < tolerance


@each_family
def test_plain_image_and_wrong_key_ruin_the_embedding(family):
    cipher, pixels, weight = make_cipher(family), make_image(2, 3, 16, 24), make_weight()
    expected = conv2d(pixels, weight, stride=PATCH_SIZE)
    encrypted_weight = cipher.encrypt_weight(weight)
    for wrong in (pixels, make_cipher(family, number=8).encrypt(pixels)):
        actual = conv2d(wrong, encrypted_weight, stride=PATCH_SIZE)
        assert relative(actual - expected, expected) > 0.5


@each_family
def test_wrong_key_does_not_decrypt(family):
    pixels = make_image(3, 16, 24)
    decrypted = make_cipher(family, number=8).decrypt(make_cipher(family).encrypt(pixels))
    assert relative(decrypted - pixels, pixels) > 0.5


@each_family
def test_blocks_are_multiplied_by_the_inverse_matrix_in_place(family):
    """Against explicit loops over blocks, flattened (channel, row, column)."""
    cipher, pixels = make_cipher(family), make_image(3, 8, 12, dtype=torch.float64)
    inverse, expected = torch.linalg.inv(encryption_matrix(cipher)), torch.empty(3, 8, 12, dtype=torch.float64)
    for top in range(0, 8, PATCH_SIZE):
        for left in range(0, 12, PATCH_SIZE):
            block = pixels[:, top : top + PATCH_SIZE, left : left + PATCH_SIZE]
            encrypted = block.flatten() @ inverse
            expected[:, top : top + PATCH_SIZE, left : left + PATCH_SIZE] = encrypted.reshape(
                3, PATCH_SIZE, PATCH_SIZE
            )
    torch.testing.assert_close(cipher.encrypt(pixels), expected, rtol=0, atol=1e-12)


def test_permutation_matrix_is_the_papers():
    """k(i, j) = 1 where j = l_enc(i), else 0 (section 3.2.2)."""
    cipher = make_cipher("permutation")
    order = SecretKey((7).to_bytes(32, "big"), "permutation").permutation(LENGTH)
    expected = torch.zeros(LENGTH, LENGTH, dtype=torch.float64)
    expected[range(LENGTH), order.tolist()] = 1
    assert torch.equal(encryption_matrix(cipher), expected)


def test_signed_permutation_matrix_has_signs_on_the_rows_of_the_permutation():
    key = SecretKey((7).to_bytes(32, "big"), "signed_permutation")
    order, signs = key.permutation(LENGTH), key.signs(LENGTH)
    expected = torch.zeros(LENGTH, LENGTH, dtype=torch.float64)
    expected[range(LENGTH), order.tolist()] = torch.from_numpy(signs.astype(np.float64))
    assert torch.equal(encryption_matrix(make_cipher("signed_permutation")), expected)


def test_orthogonal_matrix_is_the_keys_and_keeps_lengths():
    cipher, pixels = make_cipher("orthogonal"), make_image(3, 16, 24, dtype=torch.float64)
    expected = torch.from_numpy(SecretKey((7).to_bytes(32, "big")).haar(LENGTH).copy())
    torch.testing.assert_close(encryption_matrix(cipher), expected, rtol=0, atol=1e-14)
    assert cipher.encrypt(pixels).norm().item() == pytest.approx(pixels.norm().item(), rel=1e-12)


@pytest.mark.parametrize("patch_size", [1, 4, 16])
def test_matrix_has_condition_ten_an_even_spread_and_geometric_mean_one(patch_size):
    values = torch.linalg.svdvals(encryption_matrix(make_cipher("matrix", patch_size=patch_size)))
    assert (values[0] / values[-1]).item() == pytest.approx(10, rel=1e-12)
    steps = values.log().diff()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-9, atol=1e-12)
    assert values.log().mean().item() == pytest.approx(0, abs=1e-12)


@each_family
def test_every_block_has_the_same_key_and_none_touches_another(family):
    cipher, pixels = make_cipher(family), make_image(3, PATCH_SIZE, PATCH_SIZE).repeat(1, 2, 3)
    before = cipher.encrypt(pixels)
    torch.testing.assert_close(before, before[:, :PATCH_SIZE, :PATCH_SIZE].repeat(1, 2, 3), rtol=1e-5, atol=1e-6)
    pixels[1, 5, 6] += 0.5
    changed = (cipher.encrypt(pixels) - before).abs().sum(0) > 1e-4
    assert changed[4:8, 4:8].any()
    changed[4:8, 4:8] = False
    assert not changed.any()


# Round trips


@each_permuting
@pytest.mark.parametrize("dtype", [torch.uint8, *FLOATS], ids=str)
def test_round_trip_of_a_permutation_is_bit_exact(family, dtype):
    cipher, pixels = make_cipher(family), make_image(2, 3, 16, 24, dtype=dtype)
    ciphertext = cipher.encrypt(pixels)
    assert (ciphertext.dtype, ciphertext.shape) == (dtype, pixels.shape)
    assert (ciphertext != pixels).float().mean() > 0.9
    assert torch.equal(bits(cipher.decrypt(ciphertext)), bits(pixels))
    assert torch.equal(bits(cipher.encrypt(cipher.decrypt(pixels))), bits(pixels))


@each_permuting
@each_float
def test_weight_round_trip_of_a_permutation_is_bit_exact(family, dtype):
    cipher, weight = make_cipher(family), make_weight(dtype=dtype)
    assert torch.equal(bits(cipher.decrypt_weight(cipher.encrypt_weight(weight))), bits(weight))


@each_dense
@each_float
def test_round_trip_of_a_dense_matrix_is_exact_to_rounding(family, dtype):
    cipher, pixels, weight = make_cipher(family), make_image(2, 3, 16, 24, dtype=dtype), make_weight(dtype=dtype)
    ciphertext, encrypted_weight = cipher.encrypt(pixels), cipher.encrypt_weight(weight)
    assert (ciphertext.dtype, encrypted_weight.dtype) == (dtype, dtype)
    assert relative(cipher.decrypt(ciphertext) - pixels, pixels) < TOLERANCE[dtype]
    assert relative(cipher.decrypt_weight(encrypted_weight) - weight, weight) < TOLERANCE[dtype]


def test_rounding_of_an_orthogonal_weight_does_not_grow_over_many_round_trips():
    cipher, weight = make_cipher("orthogonal"), make_weight()
    once = cipher.decrypt_weight(cipher.encrypt_weight(weight))
    many = once
    for _ in range(99):
        many = cipher.decrypt_weight(cipher.encrypt_weight(many))
    assert relative(once - weight, weight) < 6e-8
    assert relative(many - weight, weight) < 1e-7


@each_dense
def test_dense_weight_is_computed_in_float64_and_cast_once(family):
    cipher, weight = make_cipher(family), make_weight(dtype=torch.bfloat16)
    for act in (cipher.encrypt_weight, cipher.decrypt_weight):
        assert torch.equal(act(weight), act(weight.double()).bfloat16())


@each_dense
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_pixels_are_computed_in_float32_even_under_autocast(family, dtype):
    cipher, pixels = make_cipher(family), make_image(3, 16, 24, dtype=dtype)
    expected = cipher.encrypt(pixels.float())
    assert torch.equal(cipher.encrypt(pixels), expected.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cipher.encrypt(pixels.float()), expected)


# The integer form


@each_permuting
def test_uint8_form_is_bit_equal_to_the_float_form_under_the_fused_normalisation(family):
    cipher, pixels = make_cipher(family), torch.arange(768).to(torch.uint8).reshape(3, 16, 16)

    def centre(v):
        return normalize(v.float(), [127.5] * 3, [127.5] * 3)

    encrypted_first, normalised_first = centre(cipher.encrypt(pixels)), cipher.encrypt(centre(pixels))
    assert torch.equal(bits(encrypted_first), bits(normalised_first))


def test_unfused_normalisation_is_off_by_2e_7_where_signs_turn():
    cipher, pixels = make_cipher("signed_permutation"), torch.arange(768).to(torch.uint8).reshape(3, 16, 16)

    def centre(v):
        return normalize(v.float() * (1 / 255), [0.5] * 3, [0.5] * 3)

    difference = (centre(cipher.encrypt(pixels)) - cipher.encrypt(centre(pixels))).abs().max()
    assert 0 < difference < 2e-7


def test_sign_turns_255_minus_v():
    key = SecretKey((7).to_bytes(32, "big"), "signed_permutation")
    block = torch.arange(0, 240, 5, dtype=torch.uint8)
    ciphertext = make_cipher("signed_permutation").encrypt(block.reshape(3, 4, 4)).flatten().tolist()
    expected = [
        v if sign > 0 else 255 - v for v, sign in zip(block[key.permutation(48).tolist()], key.signs(48), strict=True)
    ]
    assert ciphertext == [int(v) for v in expected]


# Layouts and devices


@each_family
@pytest.mark.parametrize("lead", [(), (1,), (2,), (2, 3), (0,)], ids=str)
def test_any_leading_dimensions_are_encrypted_image_by_image(family, lead):
    cipher, pixels = make_cipher(family), make_image(*lead, 3, 8, 12)
    ciphertext = cipher.encrypt(pixels)
    assert ciphertext.shape == pixels.shape
    images, ciphertexts = pixels.reshape(-1, 3, 8, 12), ciphertext.reshape(-1, 3, 8, 12)
    for image, expected in zip(images, ciphertexts, strict=True):
        torch.testing.assert_close(cipher.encrypt(image), expected, rtol=0, atol=1e-6)


@each_family
def test_memory_layout_does_not_matter_and_inputs_are_left_alone(family):
    cipher, pixels, weight = make_cipher(family), make_image(2, 3, 8, 12), make_weight()
    before, weight_before = pixels.clone(), weight.clone()
    expected, expected_weight = cipher.encrypt(pixels), cipher.encrypt_weight(weight)
    for layout in (pixels.to(memory_format=torch.channels_last), pixels.mT.contiguous().mT):
        torch.testing.assert_close(cipher.encrypt(layout), expected, rtol=0, atol=1e-6)
    layout = weight.to(memory_format=torch.channels_last)
    torch.testing.assert_close(cipher.encrypt_weight(layout), expected_weight, rtol=0, atol=1e-6)
    assert torch.equal(pixels, before)
    assert torch.equal(weight, weight_before)


@each_family
def test_other_numbers_of_channels(family):
    cipher, pixels = make_cipher(family, num_channels=1), make_image(1, 8, 8)
    assert cipher.block_length == 16
    torch.testing.assert_close(cipher.decrypt(cipher.encrypt(pixels)), pixels, rtol=0, atol=1e-5)


@each_family
@pytest.mark.parametrize("device", DEVICES)
def test_results_stay_on_the_device_and_agree_with_the_cpu(family, device):
    cipher, pixels, weight = make_cipher(family), make_image(2, 3, 8, 12), make_weight()
    ciphertext, encrypted_weight = cipher.encrypt(pixels.to(device)), cipher.encrypt_weight(weight.to(device))
    assert (ciphertext.device.type, encrypted_weight.device.type) == (device, device)
    torch.testing.assert_close(ciphertext.cpu(), cipher.encrypt(pixels), rtol=0, atol=1e-5)
    assert torch.equal(encrypted_weight.cpu(), cipher.encrypt_weight(weight))


@each_family
def test_weight_of_a_model_that_trains_gives_a_plain_tensor(family):
    weight = torch.nn.Parameter(make_weight())
    assert not make_cipher(family).encrypt_weight(weight).requires_grad


# Refusals


@each_family
@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(3, 9, 12), "a multiple of the patch size 4, got 9 x 12; the nearest is 8 x 12: resize or pad"),
        (torch.zeros(2, 3, 8, 15), "a multiple of the patch size 4, got 8 x 15; the nearest is 8 x 16"),
        (torch.zeros(3, 1, 8), "got 1 x 8; the nearest is 4 x 8"),
        (torch.zeros(3, 0, 8), "got 0 x 8; the nearest is 4 x 8"),
        (torch.zeros(4, 8, 8), r"expected pixels of shape \(\.\.\., 3, height, width\), got \(4, 8, 8\)"),
        (torch.zeros(8, 8, 3), r"expected pixels of shape \(\.\.\., 3, height, width\), got \(8, 8, 3\)"),
        (torch.zeros(8, 8), r"expected pixels of shape \(\.\.\., 3, height, width\), got \(8, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), r"cipher takes float pixels in \[-1, 1\].*, got torch.int64"),
        (torch.zeros(3, 8, 8, dtype=torch.bool), "got torch.bool"),
        ([[[0.0]]], "expected an array or a tensor of pixels, got list"),
    ],
    ids=["height", "width", "small", "empty", "channels", "channels last", "two axes", "int64", "bool", "numpy"],
)
def test_pixels_that_do_not_fit_are_refused(family, pixels, message):
    cipher = make_cipher(family)
    for act in (cipher.encrypt, cipher.decrypt):
        with pytest.raises(InvalidImageError, match=message):
            act(pixels)


@each_dense
def test_uint8_is_refused_where_it_cannot_be_encrypted(family):
    message = rf"the {family} cipher takes float pixels in \[-1, 1\] \(uint8 / 127\.5 - 1\), got torch\.uint8"
    with pytest.raises(InvalidImageError, match=message):
        make_cipher(family).encrypt(make_image(3, 8, 8, dtype=torch.uint8))


@each_family
@pytest.mark.parametrize(
    ("weight", "came"),
    [
        (torch.zeros(5, 3, 8, 8), r"got torch\.float32 of shape \(5, 3, 8, 8\)"),
        (torch.zeros(5, 1, 4, 4), r"\(5, 1, 4, 4\)"),
        (torch.zeros(5, 48), r"\(5, 48\)"),
        (torch.zeros(5, 3, 4, 4, dtype=torch.int8), r"got torch\.int8"),
    ],
    ids=["patch size", "channels", "flat", "int8"],
)
def test_weight_that_does_not_fit_is_refused(family, weight, came):
    cipher = make_cipher(family)
    for act in (cipher.encrypt_weight, cipher.decrypt_weight):
        with pytest.raises(ValueError, match=rf"expected a float weight of shape \(hidden_size, 3, 4, 4\), .*{came}"):
            act(weight)


def test_key_of_another_family_is_refused():
    message = "PermutationCipher needs a key of family 'permutation', got one of family 'orthogonal'; cipher_for"
    with pytest.raises(KeyMismatchError, match=message):
        PermutationCipher(SecretKey(bytes(32)), patch_size=16)


@pytest.mark.parametrize("bad", [0, -1, 2.0, True, "16"], ids=repr)
@pytest.mark.parametrize("name", ["patch_size", "num_channels"])
def test_geometry_must_be_positive_ints(name, bad):
    with pytest.raises(ValueError, match=f"{name} is an int >= 1, got {bad!r}"):
        OrthogonalCipher(SecretKey(bytes(32)), **{"patch_size": 4, name: bad})


@pytest.mark.parametrize("export", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
@each_family
def test_ciphers_are_neither_pickled_nor_copied(family, export):
    with pytest.raises(TypeError, match=r"a cipher is neither pickled nor copied.*path of a key file.*cipher_for"):
        export(make_cipher(family))


@each_family
def test_representation_shows_public_facts_alone(family):
    key = SecretKey.generate(family)
    cipher = cipher_for(key, patch_size=4)
    name = type(cipher).__name__
    assert repr(cipher) == f"{name}(patch_size=4, num_channels=3, fingerprint='{key.fingerprint}')"


# cipher_for


@each_family
def test_cipher_for_takes_the_family_from_the_key_and_makes_each_cipher_once(family):
    key = SecretKey.generate(family)
    cipher = cipher_for(key, patch_size=4)
    assert type(cipher) is CIPHERS[family]
    assert cipher_for(key, patch_size=4) is cipher
    assert cipher_for(key, patch_size=2).block_length == 12
    assert cipher_for(key, patch_size=4, num_channels=1).block_length == 16
    assert cipher_for(SecretKey.from_text(key.to_text()), patch_size=4) is cipher  # of an equal key


def test_cipher_for_takes_bare_bytes_as_the_default_family_and_nothing_else():
    assert type(cipher_for(bytes(32), patch_size=4)) is OrthogonalCipher
    with pytest.raises(InvalidKeyError, match=r"got int; SecretKey\.from_seed"):
        cipher_for(7, patch_size=4)  # type: ignore[arg-type]  # the mistake under test


def test_cipher_for_refuses_a_key_of_a_family_that_a_newer_copy_knows():
    class Newer:
        _privseg_kind = SecretKey._privseg_kind

        def to_text(self):
            return "privseg1.hadamard." + "A" * 43

    with pytest.raises(InvalidKeyError, match=r"names no known family \(choose one of permutation, .*, matrix"):
        cipher_for(Newer(), patch_size=4)  # type: ignore[arg-type]  # the mistake under test


# A matrix that the user supplies


@pytest.fixture
def matrix():
    generator = torch.Generator().manual_seed(3)
    return torch.linalg.qr(torch.randn(LENGTH, LENGTH, generator=generator, dtype=torch.float64))[0]


@pytest.mark.parametrize("convert", [lambda m: m, lambda m: m.numpy(), lambda m: m.float()], ids=["64", "numpy", "32"])
def test_supplied_matrix_becomes_e_enc(matrix, convert):
    matrix = matrix * torch.linspace(1, 50, LENGTH, dtype=torch.float64)
    supplied = convert(matrix.clone())
    cipher = MatrixCipher.from_matrix(supplied, patch_size=PATCH_SIZE)
    supplied[:] = 0  # the cipher has its own copy
    assert (cipher.fingerprint, cipher.family) == (None, "matrix")
    assert repr(cipher) == "MatrixCipher(patch_size=4, num_channels=3, fingerprint=None)"
    torch.testing.assert_close(encryption_matrix(cipher), matrix, rtol=1e-6, atol=0)
    pixels, weight = make_image(3, 8, 12, dtype=torch.float64), make_weight(dtype=torch.float64)
    expected = conv2d(pixels, weight, stride=PATCH_SIZE)
    actual = conv2d(cipher.encrypt(pixels), cipher.encrypt_weight(weight), stride=PATCH_SIZE)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(cipher.decrypt(cipher.encrypt(pixels)), pixels, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(LENGTH, LENGTH - 1), (12, 12), (LENGTH,)], ids=str)
def test_supplied_matrix_of_another_shape_is_refused(shape):
    message = rf"shape \(48, 48\) for patch size 4 and 3 channels, got shape \({shape[0]},"
    with pytest.raises(InvalidKeyError, match=message):
        MatrixCipher.from_matrix(torch.zeros(shape), patch_size=PATCH_SIZE)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_supplied_matrix_with_other_than_numbers_is_refused(matrix, value):
    matrix[3, 4] = value
    with pytest.raises(InvalidKeyError, match="expected a matrix of finite numbers, got infinite ones or NaN"):
        MatrixCipher.from_matrix(matrix, patch_size=PATCH_SIZE)


def test_supplied_matrix_is_taken_up_to_condition_100(matrix):
    scale = torch.ones(LENGTH, dtype=torch.float64)
    scale[0] = 99.9
    MatrixCipher.from_matrix(matrix * scale, patch_size=PATCH_SIZE)
    scale[0] = 125
    with pytest.raises(InvalidKeyError, match="expected a matrix of condition at most 100, got 125: rounding would"):
        MatrixCipher.from_matrix(matrix * scale, patch_size=PATCH_SIZE)


@pytest.mark.parametrize("rank", [0, LENGTH - 1])
def test_singular_matrix_is_refused(rank):
    matrix = torch.diag((torch.arange(LENGTH) < rank).double())
    with pytest.raises(InvalidKeyError, match="condition at most 100, got inf"):
        MatrixCipher.from_matrix(matrix, patch_size=PATCH_SIZE)


@each_permuting
@pytest.mark.parametrize("shape", [(3, 32, 48), (2, 3, 16, 32), (2, 1, 3, 48, 16), (3, 80, 2048)], ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
def test_whole_arrays_are_encrypted_as_their_blocks_are(family, shape, dtype):
    cipher = cipher_for(SecretKey(bytes(32), family), patch_size=16)
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    for act, on_rows in ((cipher.encrypt, cipher._encrypt_blocks), (cipher.decrypt, cipher._decrypt_blocks)):
        found, expected = act(pixels), cipher._in_blocks(pixels, on_rows)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(act(np.asfortranarray(pixels)), expected)
