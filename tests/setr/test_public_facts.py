"""What belongs together passes; another key, family, state or block size is refused, and both sides are named."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from hf_privseg import CiphertextError, EncryptionStateError, KeyMismatchError, SecretKey
from hf_privseg.setr.ciphers import CIPHERS
from hf_privseg.setr.public_facts import (
    EMBEDDING_FAMILY,
    FAMILIES,
    KeyFacts,
    check_image_fits,
    check_key_fits,
    check_plain_image_fits,
    check_plain_model,
    check_processor_fits,
)

KEY = SecretKey(bytes(range(32)), "matrix")
FACTS = KEY.facts
OTHERS = [
    dataclasses.replace(FACTS, family="orthogonal"),
    dataclasses.replace(FACTS, family="embedding"),
    dataclasses.replace(FACTS, fingerprint="0" * 16),
]


def image(patch_size=16, facts=FACTS, num_channels=3):
    return SimpleNamespace(facts=facts, patch_size=patch_size, num_channels=num_channels)


def shown(facts):
    return f"(key fingerprint {facts.fingerprint}, family {facts.family}, version {facts.version})"


# ---------------------------------------------------------------------------------------------------------- the facts


def test_the_facts_of_a_key_survive_json():
    assert FACTS.to_dict() == {"family": "matrix", "version": 1, "fingerprint": KEY.fingerprint}
    assert KeyFacts.from_dict(json.loads(json.dumps(FACTS.to_dict()))) == FACTS


def test_every_family_has_a_cipher():
    assert set(CIPHERS) == {*FAMILIES, EMBEDDING_FAMILY}


SECRET = KEY.to_text()


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"family": "rot13"}, "the family of a key is one of permutation, .*, embedding, got 'rot13'"),
        ({"family": SECRET}, f"got a str of {len(SECRET)} characters"),
        ({"family": ["matrix"]}, "the family of a key is .*, got a list"),
        ({"version": 2}, "the version of a key is the number 1, got 2; a later version of this package"),
        ({"version": True}, "the number 1, got True"),
        ({"version": SECRET}, f"got a str of {len(SECRET)} characters"),
        ({"fingerprint": "0123456789ABCDEF"}, "the fingerprint of a key is 16 hexadecimal .*, got a str of 16 char"),
        ({"fingerprint": SECRET}, f"got a str of {len(SECRET)} characters"),
        ({"fingerprint": bytes(range(16))}, "got a bytes"),
        ({"fingerprint": None}, "got a NoneType"),
        ({"secret_key": SECRET}, r"got the fields \['family', 'fingerprint', 'secret_key', 'version'\]"),
    ],
    ids=str,
)
def test_a_fact_of_another_form_is_refused_and_nothing_that_could_be_secret_is_shown(facts, message):
    with pytest.raises(ValueError, match=message) as caught:
        KeyFacts.from_dict(FACTS.to_dict() | facts)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ([], "are a dictionary with .*, got a list"),
        (SECRET, f"are a dictionary with .*, got a str of {len(SECRET)} characters"),
        ({"family": "matrix"}, r"are exactly \['family', 'version', 'fingerprint'\], got the fields \['family'\]"),
        ({1: 2}, r"got the fields \['1'\]"),
    ],
    ids=["list", "text", "incomplete", "numbers"],
)
def test_facts_are_a_dictionary_of_exactly_three(facts, message):
    with pytest.raises(ValueError, match=message):
        KeyFacts.from_dict(facts)


# -------------------------------------------------------------------------------------------------- what fits together


def test_what_belongs_together_passes():
    check_key_fits(FACTS, FACTS)
    check_image_fits(image(), FACTS, 16, 3)
    check_plain_image_fits(FACTS, FACTS)
    check_plain_image_fits(None, None)
    check_plain_model(None)


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_a_single_fact_makes_the_difference_and_both_are_named(other):
    message = f"x.png {shown(other)} and the model m {shown(FACTS)} do not belong together"
    for check in (
        lambda **names: check_key_fits(other, FACTS, **names),
        lambda **names: check_image_fits(image(facts=other), FACTS, 16, 3, **names),
    ):
        with pytest.raises(KeyMismatchError) as caught:
            check(subject="x.png", model="the model m")
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("check", "subject"),
    [
        (lambda: check_key_fits(FACTS, None), "the secret key"),
        (lambda: check_key_fits(OTHERS[1], None), "the client embedding"),
        (lambda: check_image_fits(image(), None, 16, 3), "the encrypted image"),
        (lambda: check_plain_image_fits(FACTS, None), "the secret key"),
    ],
    ids=["key", "client embedding", "encrypted image", "key for a plain image"],
)
def test_a_plain_model_is_named_as_such(check, subject):
    with pytest.raises(
        EncryptionStateError, match=rf"{subject} \(key fingerprint {KEY.fingerprint}.*the model is plain"
    ):
        check()


def test_blocks_and_patches_must_have_one_size():
    with pytest.raises(CiphertextError, match="in blocks of 8 pixels, but the patches of the model have 16"):
        check_image_fits(image(patch_size=8), FACTS, 16, 3)


def test_the_channels_of_image_and_model_must_be_as_many():
    with pytest.raises(
        CiphertextError, match=r"x\.png has 4 channels, but the model takes 3; encrypt with the processor"
    ):
        check_image_fits(image(num_channels=4), FACTS, 16, 3, subject="x.png")


@pytest.mark.parametrize(("name", "value"), [("num_channels", 4), ("patch_size", 8)])
def test_processor_and_model_must_have_one_geometry(name, value):
    check_processor_fits(image(), image())
    with pytest.raises(ValueError, match=rf"has {name}={value}, but the model m takes {name}=(3|16); .*\({name}="):
        check_processor_fits(image(**{name: value}), image(), model="the model m")


def test_a_plain_image_is_not_shown_to_an_encrypted_model():
    with pytest.raises(EncryptionStateError) as caught:
        check_plain_image_fits(None, FACTS, subject="x.png", model="the model m")
    assert f"x.png is plain, but the model m is encrypted {shown(FACTS)}" in str(caught.value)
    with pytest.raises(KeyMismatchError, match=r"the secret key .* and the model m .* do not belong together"):
        check_plain_image_fits(OTHERS[0], FACTS, model="the model m")


def test_an_encrypted_model_is_refused_where_a_plain_one_is_needed():
    with pytest.raises(EncryptionStateError) as caught:
        check_plain_model(FACTS, model="m", advice="decrypt it")
    assert str(caught.value) == f"expected a plain model, but m is encrypted {shown(FACTS)}; decrypt it"
