"""`privseg keygen`: the file that it writes, and what it refuses."""

import os
import stat
from types import SimpleNamespace

import pytest

from helpers.leaks import assert_no_secret
from hf_privseg import SecretKey
from hf_privseg.setr.keys import FAMILIES


@pytest.mark.parametrize("family", FAMILIES, ids=FAMILIES)
def test_keygen_writes_a_private_file_and_says_the_fingerprint(place, family):
    path = place.folder / "new.key"
    out = place.succeed("keygen", path, "--family", family)
    key = SecretKey.from_file(path)
    assert key.family == family
    assert f"family {family}, fingerprint {key.fingerprint}" in out
    assert_no_secret(out, key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 or os.name != "posix"


def test_keygen_replaces_a_key_only_if_forced(place):
    assert f"{place.key_file} exists" in (message := place.fail("keygen", place.key_file))
    assert "--force" in message
    assert SecretKey.from_file(place.key_file) == place.key
    place.succeed("keygen", place.key_file, "--force")
    assert SecretKey.from_file(place.key_file) != place.key


def test_keygen_names_the_families_it_knows(place):
    message = place.fail("keygen", place.folder / "new.key", "--family", "rot13", code=2)
    assert "expected one of permutation" in message
    assert "got 'rot13'" in message
    assert not (place.folder / "new.key").exists()


def test_the_next_command_names_a_folder_that_does_not_exist(place, monkeypatch):
    monkeypatch.chdir(place.folder)
    assert "encrypt-model default encrypted_model --key-file" in place.succeed("keygen", "first.key")
    for taken in ("encrypted_model", "encrypted_model_2"):
        (place.folder / taken).mkdir()
    assert "encrypt-model default encrypted_model_3 --key-file" in place.succeed("keygen", "second.key")


def test_nobody_is_promised_file_modes_where_the_system_has_none(place, monkeypatch):
    monkeypatch.setattr("hf_privseg.cli.output.os", SimpleNamespace(name="nt"))
    out = place.succeed("keygen", place.folder / "new.key")
    assert "readable by whoever may open its folder, since this system has no file modes" in out
