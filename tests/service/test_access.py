"""Access tokens: only hashes are stored, each token has its keys and limits, and changes count at once."""

import json
import stat

import pytest

from hf_privseg.service.access import (
    ANYONE,
    Access,
    ForbiddenError,
    Grant,
    RateLimitError,
    UnknownTokenError,
    add_token,
    list_grants,
    revoke_token,
)

KEY, OTHER = "0123456789abcdef", "f" * 16


@pytest.fixture
def file(tmp_path):
    return tmp_path / "tokens.json"


def bearer(token):
    return f"Bearer {token}"


def test_a_token_is_known_by_its_hash_alone(file):
    token = add_token(file, Grant("clinic", (KEY,)))
    assert token.startswith("privseg-token-")
    assert len(token) >= 14 + 43
    assert token not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    access = Access(file)
    assert access.identify(bearer(token)) == Grant("clinic", (KEY,))
    assert access.identify(f"bearer  {token}") == Grant("clinic", (KEY,))
    assert list_grants(file) == [Grant("clinic", (KEY,))]


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", "Basic abc", "Bearer \udc80\ud800", "x" * 9999]
)
def test_without_a_known_token_nothing_is_allowed(file, header):
    token = add_token(file, Grant("clinic"))
    with pytest.raises(
        UnknownTokenError, match=r"expected an access token .* got (none|another one); ask its operator"
    ) as raised:
        Access(file).identify(header)
    assert token not in str(raised.value)


def test_tokens_that_are_added_and_revoked_count_at_once(file):
    first = add_token(file, Grant("one"))
    access = Access(file)
    second = add_token(file, Grant("two"))
    assert access.identify(bearer(second)).name == "two"
    revoke_token(file, "one")
    with pytest.raises(UnknownTokenError):
        access.identify(bearer(first))
    assert access.identify(bearer(second)).name == "two"
    with pytest.raises(ValueError, match=f"expected the name of a token in {file}, got 'one'; there are: two"):
        revoke_token(file, "one")
    with pytest.raises(ValueError, match="holds a token called two already"):
        add_token(file, Grant("two"))


def test_a_grant_is_for_its_keys_and_for_registering_where_it_says_so():
    with pytest.raises(ForbiddenError, match=f"the token a is not for the key {OTHER}"):
        Grant("a", (KEY,)).check_key(OTHER)
    with pytest.raises(ForbiddenError, match="the token a is not for registering"):
        Grant("a", (KEY,)).check_key(KEY, registers=True)
    Grant("a", (KEY,)).check_key(KEY)
    Grant("a").check_key(OTHER)
    Grant("a", (KEY,), may_register=True).check_key(KEY, registers=True)


def test_requests_are_limited_on_average_and_at_a_time(file):
    now = [0.0]
    grant = Grant("a", requests_per_minute=60, max_concurrent=2)
    add_token(file, grant)
    access = Access(file, clock=lambda: now[0])
    for _ in range(6):
        with access.admitted(grant):
            pass
    with (
        pytest.raises(RateLimitError, match="the token a allows 60 requests a minute; send fewer") as raised,
        access.admitted(grant),
    ):
        pass
    assert raised.value.retry_after == pytest.approx(1)
    now[0] = 1.0
    with access.admitted(grant):
        pass
    now[0] = 60.0
    text = "the token a allows 2 requests at a time"
    with access.admitted(grant), access.admitted(grant), pytest.raises(RateLimitError, match=text):
        access.admitted(grant).__enter__()
    with access.admitted(grant):
        pass


def test_a_request_that_fails_leaves_its_place(file):
    grant = Grant("a", max_concurrent=1)
    add_token(file, grant)
    access = Access(file)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), access.admitted(grant):
            raise ZeroDivisionError


def test_without_a_file_everybody_may(file):
    access = Access()
    assert not access.needs_token
    assert access.identify(None) is ANYONE
    for _ in range(1000):
        with access.admitted(ANYONE):
            pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a b"}, "the name of a token has"),
        ({"name": 7}, "the name of a token has"),
        ({"fingerprints": ["x"]}, "expected fingerprints of 16 hexadecimal characters"),
        ({"fingerprints": 7}, "is no file of access tokens"),
        ({"requests_per_minute": 0}, "expected requests_per_minute of at least 1"),
        ({"max_concurrent": 1.5}, "expected max_concurrent of at least 1"),
        ({"may_register": "yes"}, "expected may_register to be true or false"),
        ({"sha256": "abc"}, "expected hashes of 64 hexadecimal characters"),
        ({"surprise": 1}, "surprise"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_file_of_another_form_is_refused(file, change, message):
    add_token(file, Grant("a"))
    content = json.loads(file.read_text())
    content["tokens"][0] |= change
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        Access(file)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"tokens": 7}', '{"tokens": [7]}'])
def test_what_is_no_file_of_tokens(file, content):
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(ValueError, match=f"{file} is no file of access tokens .*; make one with privseg token add"):
        Access(file)
