"""What belongs together passes; another key, family, version, state or block size is refused, and both are named."""

from types import SimpleNamespace

import pytest

from hf_privseg import CiphertextError, EncryptionStateError, KeyMismatchError, SecretKey
from hf_privseg.setr.public_facts import check_fits, public_facts

KEY = SecretKey(bytes(range(32)), "matrix")
FACTS = {"family": "matrix", "version": 1, "fingerprint": KEY.fingerprint}


def config(facts=FACTS, patch_size=16):
    return SimpleNamespace(encryption=facts, patch_size=patch_size)


def image(patch_size=16, **facts):
    return SimpleNamespace(**(FACTS | facts), patch_size=patch_size)


def test_public_facts_of_a_key():
    assert public_facts(KEY) == FACTS


@pytest.mark.parametrize("holder", [KEY, image()], ids=["key", "image"])
def test_what_belongs_together_passes(holder):
    check_fits(holder, config())


@pytest.mark.parametrize(
    "other", [{"family": "orthogonal"}, {"version": 2}, {"fingerprint": "0" * 16}], ids=["family", "version", "key"]
)
def test_a_single_fact_makes_the_difference_and_both_are_named(other):
    ours, theirs = FACTS | other, FACTS
    shown = [
        f"(key fingerprint {f['fingerprint']}, family {f['family']}, version {f['version']})" for f in (ours, theirs)
    ]
    with pytest.raises(KeyMismatchError) as caught:
        check_fits(image(**other), config(), subject="x.png", model="the model m")
    assert str(caught.value).startswith(f"x.png {shown[0]} and the model m {shown[1]} do not belong together")


@pytest.mark.parametrize(("holder", "subject"), [(KEY, "the secret key"), (image(), "the encrypted image")])
def test_a_plain_model_is_named_as_such(holder, subject):
    with pytest.raises(
        EncryptionStateError, match=rf"{subject} \(key fingerprint {KEY.fingerprint}.*the model is plain"
    ):
        check_fits(holder, config(None))


def test_blocks_and_patches_must_have_one_size():
    with pytest.raises(CiphertextError, match="in blocks of 8 pixels, but the patches of the model have 16"):
        check_fits(image(patch_size=8), config())
