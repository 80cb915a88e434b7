"""The provenance of figures: what this process runs on, found by other means; and what is missing is left out."""

import json
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError

import numpy
import pytest
import torch

from hf_privseg.reporting import provenance as module
from hf_privseg.reporting.provenance import provenance, provenance_in_words


def git(folder, *command):
    settings = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", "-C", str(folder), *settings, *command], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_it_tells_versions_machine_and_time_as_json():
    found = provenance()
    assert json.loads(json.dumps(found)) == found
    assert list(found["versions"]) == ["hf-privseg", "torch", "transformers", "accelerate", "numpy"]
    torch_release, *_ = torch.__version__.split("+")  # where it has a build, its metadata may leave it out
    assert found["versions"]["torch"].startswith(torch_release)
    assert found["versions"]["numpy"] == numpy.__version__
    assert (found["python"], found["threads"]) == (platform.python_version(), torch.get_num_threads())
    assert platform.machine() in found["machine"]
    assert (found["accelerator"] is None) != (torch.cuda.is_available() or torch.backends.mps.is_available())
    assert abs((datetime.now(UTC) - datetime.fromisoformat(found["date"])).total_seconds()) < 60


def test_the_command_can_be_pasted_and_names_no_folder_of_the_interpreter(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["/opt/bin/python3", "a script.py", "--limit", "2"])
    assert provenance()["command"] == "python3 'a script.py' --limit 2"


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_checkout_that_holds_the_code(tmp_path):
    git(tmp_path, "init", "-q")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert module._commit(package) is None
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert module._commit(package) == head
    (package / "__init__.py").write_text("x = 1\n")
    assert module._commit(package) == f"{head}-dirty"
    installed = tmp_path / "venv" / "package"  # inside a repository of something else
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert module._commit(installed) is None


def test_what_is_missing_is_left_out(monkeypatch):
    def no_accelerate(name):
        if name == "accelerate":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(module, "version", no_accelerate)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")  # no git
    found = provenance()
    assert list(found["versions"]) == ["hf-privseg", "torch", "transformers", "numpy"]
    assert (found["commit"], found["accelerator"], found["threads"]) == (None, None, None)
    words = provenance_in_words(found)
    assert words.startswith(f"{found['date']}; hf-privseg 1.0, torch 1.0, transformers 1.0, numpy 1.0; Python ")
    assert "None" not in words
    assert "threads" not in words


def test_words_have_everything_but_the_command():
    words = provenance_in_words(provenance() | {"date": "D", "commit": "c0ffee", "accelerator": "2 x H", "threads": 3})
    assert words.startswith("D; hf-privseg ")
    assert words.endswith("; 2 x H; threads: 3; commit c0ffee")
    assert "pytest" not in words
