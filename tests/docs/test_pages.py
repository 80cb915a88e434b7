"""The pages that people read: links lead somewhere, commands exist, the README and the tutorial run as they stand."""

import contextlib
import os
import re
import shlex
import socket
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from sklearn.datasets import load_sample_image
from transformers.hf_argparser import HfArgumentParser
from typer.testing import CliRunner

from helpers import preloaded
from helpers.paths import ROOT
from hf_privseg import SecretKey
from hf_privseg.cli.app import app
from hf_privseg.experiments.evaluation_arguments import EvaluationArguments
from hf_privseg.training.train_arguments import TrainArguments

# Commands whose options a parser of their own reads.
PASSED_ON: dict[str, Any] = {"train": TrainArguments, "evaluate": EvaluationArguments}
TOP = [ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")]
PAGES = [*TOP, *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, *languages: str) -> list[tuple[str, str]]:
    """[(language, text)] of a page's fenced blocks, in their order."""
    found = []
    for match in FENCE.finditer(path.read_text(encoding="utf-8")):
        indent, language, text = match.groups()
        if language in languages:
            found.append((language, re.sub(f"^{indent}", "", text, flags=re.MULTILINE)))
    return found


def commands(text: str) -> list[list[str]]:
    """The lines of a shell block as lists of words, continued lines joined and comments left out."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def anchors(path: Path) -> set[str]:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", head.lower()).strip()) for head in heads}


@pytest.mark.parametrize("path", PAGES, ids=identify)
def test_every_relative_link_leads_to_a_file_and_a_heading(path):
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        found = (path.parent / target).resolve() if target else path
        assert found.exists(), f"{identify(path)}: {link}"
        if anchor:
            assert anchor in anchors(found), f"{identify(path)}: {link}"


@pytest.mark.parametrize("path", PAGES, ids=identify)
def test_every_file_that_is_named_exists(path):
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"`((?:hf_privseg|tests|examples|benchmarks|space)/[\w./]*\w/?)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=identify)
def test_every_python_block_compiles_and_every_module_in_it_exists(path):
    for _, text in blocks(path, "python"):
        compile(text, identify(path), "exec")
        for module in re.findall(r"^from (hf_privseg[\w.]*) import", text, re.MULTILINE):
            assert find_spec(module) is not None, module


@pytest.mark.parametrize("path", PAGES, ids=identify)
def test_every_privseg_command_has_the_options_that_it_is_shown_with(path):
    root = typer.main.get_command(app)
    for _, text in blocks(path, "sh"):
        for words in commands(text):
            if words[0] == "privseg" and words[1:] != ["--help"]:
                command, rest = root, words[1:]
                while hasattr(command, "commands"):
                    command, rest = command.commands[rest[0]], rest[1:]
                known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
                if words[1] in PASSED_ON:
                    parser = HfArgumentParser([PASSED_ON[words[1]]])
                    known |= {name for action in parser._actions for name in action.option_strings}
                used = {word for word in words if word.startswith("-")}
                assert used <= known | {"--help"}, f"{identify(path)}: {' '.join(words)}"


@pytest.mark.parametrize("path", PAGES, ids=identify)
def test_every_script_has_the_options_that_it_is_shown_with(path):
    for _, text in blocks(path, "sh"):
        for words in commands(text):
            scripts = [word for word in words if word.endswith(".py")]
            if scripts:
                used = {word for word in words[words.index(scripts[0]) :] if word.startswith("--")}
                missing = {option for option in used if option[2:].removeprefix("no_") not in options_of(scripts[0])}
                assert not missing, f"{identify(path)}: {scripts[0]} has no {missing}"


def options_of(script: str) -> set[str]:
    """Every word that can be an option of a script: in its own source, or in the arguments that scripts share."""
    shared = [
        ROOT / "tests/conftest.py",
        *(ROOT / "hf_privseg/training").glob("*.py"),
        *(ROOT / "hf_privseg/experiments").glob("*.py"),
    ]
    text = "\n".join(path.read_text(encoding="utf-8") for path in [ROOT / script, *shared])
    return set(re.findall(r"\w+", text)) | set(re.findall(r"\w[\w-]*", text))


def run_python(text: str, names: dict) -> None:
    exec(compile(text, "page", "exec"), names)  # noqa: S102 - our own pages


def run_privseg(words: list[str]) -> None:
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, f"{' '.join(words)}\n{done.output}\n{done.exception}"


@contextlib.contextmanager
def served(folder: str) -> Iterator[str]:
    """A service as `privseg serve FOLDER` starts it -> its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    command = ["-m", "hf_privseg.cli", "serve", folder, "--port", url.rpartition(":")[2]]
    process = preloaded.start("hf_privseg", *command)
    try:
        for _ in range(600):
            assert process.poll() is None, "the service ended before it was ready"
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/readyz", timeout=10):
                break
            time.sleep(0.2)
        else:
            pytest.fail("the service did not become ready")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_the_readme_runs_from_top_to_bottom(tmp_path, monkeypatch, small_default):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(load_sample_image("china.jpg")).resize((320, 208)).save("image.jpg")
    ((_, python),) = blocks(ROOT / "README.md", "python")
    names: dict = {}
    run_python(python, names)
    (from_pixels,) = names["maps"]
    assert from_pixels.shape == (208, 320)
    shells = [commands(text) for _, text in blocks(ROOT / "README.md", "sh")]
    (lines,) = [lines for lines in shells if lines[0][:2] == ["privseg", "keygen"]]
    assert [words[1] for words in lines] == ["keygen", "encrypt-model", "encrypt", "segment", "serve"]
    for words in lines[:-1]:
        run_privseg(words)
    from_file = torch.from_numpy(np.array(Image.open("maps/image.segmentation.png")))
    # the file of an encrypted image holds 16-bit numbers, which decide between classes whose scores are nearly equal
    assert (from_file == from_pixels).float().mean() > 0.999
    for words in lines:
        assert SecretKey.from_file("secret.key").to_text() not in " ".join(words)


@pytest.mark.slow
def test_the_tutorial_runs_from_top_to_bottom(tmp_path, monkeypatch, small_default):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    with contextlib.ExitStack() as stack:
        url = ""
        for language, text in blocks(ROOT / "docs/tutorial.md", "sh", "python"):
            text = text.replace("http://127.0.0.1:7860", url or "http://127.0.0.1:7860")
            if language == "python":
                run_python(text, names)
                continue
            for words in commands(text):
                if words[:2] == ["privseg", "serve"]:
                    url = stack.enter_context(served(words[2]))
                elif words[0] == "privseg":
                    run_privseg(words)
                else:
                    assert words[:2] == ["pip", "install"]
    maps = {
        name: np.array(Image.open(f"{name}.png")).flatten()
        for name in ("maps/china.segmentation", "served/china.segmentation", "china")
    }
    first = torch.tensor(maps["maps/china.segmentation"])
    for other in (torch.tensor(maps["served/china.segmentation"]), torch.tensor(maps["china"])):
        assert (other == first).float().mean() > 0.999
    assert (names["maps"][0].flatten() == first).float().mean() > 0.999
    assert (torch.from_numpy(names["segmentation_map"]).flatten() == first).float().mean() > 0.999


def test_the_how_to_page_about_channels_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs/how-to/other-channels.md"
    ((_, text),), ((_, shell),) = blocks(page, "python"), blocks(page, "sh")
    run_python(text.replace("13", "5"), {})  # a key for 13 channels takes seconds to derive
    assert capsys.readouterr().out.split() == ["5", ".safetensors", "tensor(True)"]
    for words in commands(shell)[1:3]:
        run_privseg(words)
    assert Image.open("maps/scene.segmentation.png").size == (128, 96)


def test_the_how_to_pages_about_rekeying_and_remote_code_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save, load = (text for _, text in blocks(ROOT / "docs/how-to/remote-code.md", "python"))
    names: dict = {}
    saved = preloaded.run("hf_privseg", "-c", save)  # its registration would outlast it in this process
    assert saved.returncode == 0, saved.stderr
    without = f"import sys\nsys.modules['hf_privseg'] = None\n{load}\nprint(type(model).__module__)"
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = preloaded.run("transformers", "-c", without, env=environment)
    assert done.stdout.startswith("transformers_modules."), done.stderr
    from hf_privseg import SetrForSemanticSegmentation

    old, new = SecretKey.generate(), SecretKey.generate("permutation")
    model = SetrForSemanticSegmentation.from_pretrained("with_code").encrypt_model(old)
    names = {"model": model, "old_key": old, "new_key": new}
    ((_, rekey),) = blocks(ROOT / "docs/how-to/rekey.md", "python")
    run_python(rekey, names)
    assert names["model"].config.encryption["fingerprint"] == new.fingerprint
