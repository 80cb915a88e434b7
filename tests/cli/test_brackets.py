"""Words in brackets, such as hf-privseg[attacks], are shown as they are, though rich takes some of them for markup."""

import ast
import re

import pytest
from typer.main import get_command

from helpers.paths import ROOT
from hf_privseg.cli.app import app
from hf_privseg.cli.failures import complain

IN_BRACKETS = re.compile(r"\S*\[[^\[\]\n]+\]\S*")
SOURCES = [path for folder in ("hf_privseg", "examples") for path in sorted((ROOT / folder).rglob("*.py"))]


def commands(command=None, path=()):
    """[(path of a command, the command)] of all commands, at any depth."""
    command = command or get_command(app)
    found = [(path, command)]
    for name, each in getattr(command, "commands", {}).items():
        found += commands(each, (*path, name))
    return found


def texts_of(command):
    """What a command's help is made of."""
    options = [getattr(parameter, "help", None) for parameter in command.params]
    return [text for text in (command.help, command.epilog, *options) if text]


def bracketed_messages():
    """The texts with brackets in all `raise` statements; what a value stands for is left out."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise):
                strings = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
                found |= {text for text in strings if isinstance(text, str) and IN_BRACKETS.search(text)}
    return sorted(found)


@pytest.mark.parametrize("path", [path for path, _ in commands()], ids="-".join)
def test_a_help_shows_its_brackets(place, monkeypatch, path):
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 2000)
    monkeypatch.setenv("COLUMNS", "2000")
    command = dict(commands())[path]
    shown = place.succeed(*path, "--help")
    for text in texts_of(command):
        for word in IN_BRACKETS.findall(text.replace("`", "")):
            assert " ".join(word.split()) in shown


def test_the_help_of_the_audit_names_its_extra_in_eighty_columns(place, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert "pip install 'hf-privseg[attacks]'" in place.succeed("audit", "--help")


def test_errors_show_their_brackets(place):
    messages = bracketed_messages()
    assert len(messages) > 5
    assert any("hf-privseg[models]" in text for text in messages)
    for text in messages:
        complain("error", text)
        assert " ".join(text.split()) in place.capsys.readouterr().err


@pytest.mark.parametrize("value", ["a[attacks]b", "[bold]", "[/red]"])
def test_wrong_usage_shows_its_brackets(place, value):
    assert value in place.fail("keygen", place.folder / "new.key", "--family", value, code=2)
    assert value in place.fail("encrypt", f"{value}.png", "-o", place.folder / "out", code=2)


def test_every_console_shows_text_as_it_is():
    """A console of rich is made in one place, which turns markup off, and nothing else of rich prints."""
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        made = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Console"]
        here = path == ROOT / "hf_privseg/reporting/tables.py"
        assert [ast.unparse(word) for call in made for word in call.keywords][:2] == (
            ["markup=False", "emoji=False"] if here else []
        ), path
        assert len(made) == here, path
        imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "rich"]
        assert not imported, path
