"""The command line as a whole: help, version, wrong usage, and keys in the wrong place."""

from importlib.metadata import version

import huggingface_hub
import pytest

COMMANDS = [
    "keygen", "encrypt-model", "decrypt-model", "rekey", "make-rekey-update", "apply-rekey-update", "encrypt",
    "segment", "info", "demo", "convert", "make-client-embedding", "audit", "serve",
    "encrypt-dataset", "fit-transform-code",
]  # fmt: skip
PASSED_ON = ["train", "evaluate"]


@pytest.mark.parametrize("command", COMMANDS, ids=COMMANDS)
def test_help_teaches_with_an_example(place, command):
    assert f"Example: privseg {command}" in place.succeed(command, "--help")


@pytest.mark.parametrize("command", PASSED_ON, ids=PASSED_ON)
def test_help_of_a_command_with_a_parser_of_its_own_teaches_with_examples(place, command):
    help_text = place.succeed(command, "--help")
    assert f"usage: privseg {command} [options]" in help_text
    assert help_text.count(f" privseg {command} ") > 2


def test_help_lists_every_command(place):
    listing = place.succeed("--help")
    assert all(f"│ {command} " in listing for command in COMMANDS + PASSED_ON)


@pytest.mark.parametrize(
    "arguments", [["segment"], ["frobnicate"], ["encrypt", "absent.png", "-o", "x"]], ids=" ".join
)
def test_wrong_usage_ends_with_2(place, arguments):
    place.fail(*arguments, code=2)


@pytest.mark.parametrize("position", [0, 1, 3], ids=["command", "argument", "option"])
def test_a_key_among_the_arguments_is_refused_and_not_repeated(place, position):
    arguments = ["segment", "--model", "model", "--key-file", "secret.key"]
    arguments[position] = place.key.to_text()
    assert "a key is among the arguments" in place.fail(*arguments, code=2)


def test_the_version_is_that_of_the_installed_package(place):
    assert place.succeed("--version") == f"hf-privseg {version('hf-privseg')}"


def test_a_family_s_name_with_a_slip_is_recognised(place):
    message = place.fail("keygen", place.folder / "new.key", "--family", "permuttation", code=2)
    assert "did you mean 'permutation'?" in " ".join(message.replace("│", " ").split())
    assert "did you mean" not in place.fail("keygen", place.folder / "new.key", "--family", "rot13", code=2)


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_a_key_file_that_is_none_is_named(place, kind):
    path = place.folder / "my.key"
    if kind == "folder":
        path.mkdir()
    message = place.fail("encrypt", place.folder / "image.png", "-o", place.folder / "out", "-k", path)
    expected = {
        "missing": f"error: expected a key file, but {path} does not exist; check the path, or make a key with "
        f"privseg keygen {path}",
        "folder": f"error: expected a key file, got the folder {path}; give the file in it",
    }
    assert message == expected[kind]


@pytest.mark.parametrize("command", ["segment", "encrypt-model", "info"])
def test_a_model_that_the_hub_does_not_give_is_named(place, monkeypatch, command):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    arguments = {
        "segment": [place.folder / "image.png", "--model", "nobody/nothing", "-o", place.folder / "out"],
        "encrypt-model": ["nobody/nothing", place.folder / "out", "-k", place.key_file],
        "info": ["nobody/nothing"],
    }
    message = place.fail(command, *arguments[command])
    assert "error: nobody/nothing is no folder here, and could not be read as a model of the Hub (" in message
