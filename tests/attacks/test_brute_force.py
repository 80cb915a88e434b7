"""Seeds and listed passphrases are found, by the fingerprint or by looking; keys of real randomness are not."""

import warnings

import numpy as np
import pytest
import torch

from hf_privseg.attacks.brute_force import passphrase_of_fingerprint, seed_of_ciphertext, seed_of_fingerprint
from hf_privseg.attacks.tools.blocks import to_grid, to_image
from hf_privseg.catalog.sample_images import sample_image
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.setr.keys import FAMILIES, SecretKey

pytest.importorskip("skimage", reason="the attacks extra is not installed")


def seeded(seed, family):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SecretKey.from_seed(seed, family=family)


def encrypted_photo(key):
    image = np.asarray(sample_image("rocket"))[:160, 200:360].transpose(2, 0, 1) / 127.5 - 1
    cipher = cipher_for(key, patch_size=4, num_channels=3)
    return image, to_grid(cipher.encrypt(torch.from_numpy(image)).numpy(), 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_is_found_by_its_fingerprint_and_undoes_the_cipher(family, recwarn):
    key = seeded(41, family)
    image, ciphertext = encrypted_photo(key)
    found = seed_of_fingerprint(key.fingerprint, range(100), family)
    assert found is not None
    assert (found.guess, found.num_tried, found.secret_key) == (41, 42, key)
    np.testing.assert_allclose(to_image(found.decoder(patch_size=4).decode(ciphertext), 4), image, atol=1e-12)
    assert not recwarn.list


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_is_found_without_a_fingerprint_because_images_are_smooth(family):
    _, ciphertext = encrypted_photo(seeded(41, family))
    found = seed_of_ciphertext(ciphertext, range(30, 50), family, patch_size=4)
    assert found is not None
    assert (found.guess, found.num_tried) == (41, 20)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_not_among_the_guesses_is_not_found(family):
    key = SecretKey(bytes(range(32)), family)
    _, ciphertext = encrypted_photo(key)
    assert seed_of_fingerprint(key.fingerprint, range(50), family) is None
    assert seed_of_ciphertext(ciphertext, range(20), family, patch_size=4) is None
    assert seed_of_ciphertext(ciphertext, [], family, patch_size=4) is None


def test_a_passphrase_from_a_list_is_found_and_not_shown():
    salt = bytes(16)
    key = SecretKey.from_passphrase("tr0ub4dor", family="permutation", salt=salt)
    found = passphrase_of_fingerprint(key.fingerprint, ["letmein", "tr0ub4dor", "x"], "permutation", salt=salt)
    assert found is not None
    assert (found.guess, found.num_tried) == ("tr0ub4dor", 2)
    assert "tr0ub4dor" not in repr(found)
    assert passphrase_of_fingerprint(key.fingerprint, ["letmein"], "permutation", salt=salt) is None
