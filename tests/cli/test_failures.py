"""What a command prints when it fails: one line for what is foreseen, a traceback for a bug, and never a key."""

import json

import numpy as np
import pytest

from helpers.leaks import assert_no_secret
from hf_privseg import SecretKey
from hf_privseg.cli.failures import holds_key, is_foreseen, without_keys
from hf_privseg.setr.errors import EncryptionStateError, PartialFailureError
from hf_privseg.setr.keys import as_key
from hf_privseg.storage import models


def caught(function, *arguments):
    """The error that the function raises, with the traceback that it has there."""
    with pytest.raises(Exception) as raised:  # noqa: PT011
        function(*arguments)
    return raised.value


def bug(error):
    """In place of SecretKey.generate: a function outside the package that fails."""

    def generate(family):
        raise error

    return generate


@pytest.mark.parametrize(
    "error",
    [
        caught(as_key, b"short"),  # ours, raised in setr/keys.py
        caught(models.load_settings, "no/such/folder"),  # a FileNotFoundError
        caught(open, "no such file"),
        EncryptionStateError("made elsewhere"),
        PartialFailureError("made elsewhere"),
        caught(SecretKey.from_text, "privseg2.orthogonal.x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_raised_on_purpose_is_foreseen(error):
    assert is_foreseen(error)
    assert is_foreseen(caught(rethrow, error))


def rethrow(error):
    raise error


@pytest.mark.parametrize(
    "error",
    [
        caught(json.loads, "{"),  # a ValueError from a library
        caught(np.zeros(3).reshape, 2),  # a ValueError from C
        caught(int, "x"),
        caught({}.__getitem__, 1),
        caught([].pop),
        caught(len, 3),
        caught(getattr, 3, "x"),
        ValueError("never raised"),
        RuntimeError("never raised"),
    ],
    ids=str,
)
def test_bugs_are_not_foreseen(error):
    assert not is_foreseen(error)


def test_what_a_builtin_raises_in_a_file_of_ours_is_a_bug_and_what_our_own_raise_statement_raises_is_not(monkeypatch):
    code = """
def builtin():
    return int("x")

def on_purpose(kind):
    raise kind("expected a number, got x")
"""
    ours, other = {"__name__": "hf_privseg.made_up"}, {"__name__": "other.hf_privseg"}
    exec(code, ours)  # noqa: S102
    exec(code, other)  # noqa: S102
    assert not is_foreseen(caught(ours["builtin"]))
    assert is_foreseen(caught(ours["on_purpose"], ValueError))
    assert is_foreseen(caught(ours["on_purpose"], ImportError))
    assert not is_foreseen(caught(other["on_purpose"], ValueError))


def test_a_bug_keeps_its_traceback_and_shows_no_key(place, monkeypatch):
    text = place.key.to_text()
    monkeypatch.setattr(SecretKey, "generate", bug(IndexError(f"pop from {text}")))
    code, out, err = place.run("keygen", place.folder / "new.key")  # fails if the key is in what is printed
    assert (code, out) == (1, "")
    assert err.startswith("Traceback (most recent call last):")
    assert "in generate raise error IndexError: pop from privseg1.orthogonal.***" in err
    assert err.split("error: ")[1].startswith("unexpected IndexError, which is a bug in hf-privseg or in a library;")


def test_a_foreseen_error_is_one_line_unless_the_traceback_is_asked_for(place, monkeypatch):
    monkeypatch.setenv("PRIVSEG_KEY", place.key.to_text()[:-1])
    arguments = ("encrypt", place.folder / "image.png", "-o", place.folder / "out")
    for value in ("", "0"):
        monkeypatch.setenv("PRIVSEG_DEBUG", value)
        line = place.fail(*arguments)
        assert line.startswith("error: environment variable PRIVSEG_KEY")
    monkeypatch.setenv("PRIVSEG_DEBUG", "1")
    code, _, err = place.run(*arguments)
    assert code == 1
    assert err.startswith("Traceback (most recent call last):")
    assert "in read_key return SecretKey.from_env" in err
    assert err.endswith(line)
    assert_no_secret(err, place.key)


def test_a_warning_shows_no_key(place, monkeypatch):
    from hf_privseg.cli.failures import complain

    complain("warning", f"a library repeats {place.key.to_text()} in its message")
    assert place.capsys.readouterr().err == "warning: a library repeats privseg1.orthogonal.*** in its message\n"


def test_what_the_system_says_of_a_file_is_put_in_words(place):
    path = place.folder / "missing"
    for command in (["token", "list", path], ["apply-rekey-update", place.folder / "model", path, "out"]):
        message = place.fail(*command)
        assert message == f"error: expected a file or folder, but {path} does not exist; check the path"
    (place.folder / "locked").mkdir()
    message = place.fail("token", "list", place.folder / "locked")
    assert message == (
        f"error: {place.folder / 'locked'}: Is a directory; check the path, and who may read and write there"
    )


def test_keys_are_recognised_in_text():
    text = SecretKey.generate("signed_permutation").to_text()
    assert holds_key(f"--key={text}")
    assert without_keys(f"({text}, {text})") == "(privseg1.signed_permutation.***, privseg1.signed_permutation.***)"
    for harmless in ("privseg1.orthogonal.", "hf-privseg 0.1.0", "privseg1.png", "a1b2c3d4e5f60718"):
        assert not holds_key(harmless)
        assert without_keys(harmless) == harmless
