"""What small commands and help cost: they load neither torch nor the like, and take less than a second."""

import json
import subprocess
import sys
from typing import Any

import pytest
import typer

from helpers.paths import EXAMPLES
from hf_privseg.cli.app import app

MAX_SECONDS = 1.0
HEAVY = {
    "accelerate",
    "datasets",
    "fastapi",
    "gradio",
    "matplotlib",
    "ray",
    "scipy",
    "sklearn",
    "torch",
    "torchvision",
}
CODE = """
import json, runpy, sys, time
try:
    if sys.argv[1].endswith(".py"):
        sys.argv.pop(0)
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        from hf_privseg.cli.app import main
        main()
except SystemExit:
    pass
print(json.dumps([time.process_time(), sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def commands(command: Any, path: tuple[str, ...] = ()):
    """The words of every command, those in groups too."""
    if not hasattr(command, "commands"):
        return [path]
    return [words for name, each in command.commands.items() for words in commands(each, (*path, name))]


def run(*words: str) -> tuple[str, float, set[str]]:
    """What a new process prints, its seconds of processor time, and the packages that it loads."""
    done = subprocess.run([sys.executable, "-c", CODE, *words], capture_output=True, text=True, check=True)
    seconds, modules = json.loads(done.stdout.splitlines()[-1])
    return done.stdout, seconds, set(modules)


def cost(*words: str) -> tuple[float, set[str]]:
    """Seconds of processor time of the help of a command, and the packages that it loads."""
    shown, seconds, modules = run(*words, "--help")
    assert "--" in shown
    return seconds, modules


@pytest.mark.parametrize("words", commands(typer.main.get_command(app)), ids=" ".join)
def test_help_is_fast(words):
    seconds, modules = cost(*words)
    assert not modules & HEAVY
    assert seconds < MAX_SECONDS or cost(*words)[0] < MAX_SECONDS  # a busy machine may be slow once


def test_help_of_the_training_script_is_fast():
    script = str(EXAMPLES / "train_setr.py")
    seconds, modules = cost(script)
    assert not modules & HEAVY
    assert seconds < MAX_SECONDS or cost(script)[0] < MAX_SECONDS


def test_tokens_need_no_model(tmp_path):
    tokens = str(tmp_path / "tokens.json")
    for words in (["add", tokens, "clinic"], ["list", tokens], ["revoke", tokens, "clinic"]):
        _, _, modules = run("token", *words)
        assert not modules & HEAVY
