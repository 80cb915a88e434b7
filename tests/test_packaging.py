"""What is installed: the files in the wheel, and the bounds of dependencies."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import hf_privseg
from helpers.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_extra_of_lowest_versions_pins_every_lower_bound():
    needed = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["models"]]
    bounds = dict(re.findall(r"^([\w-]+)>=([\d.]+)", line)[0] for line in needed)
    pins = dict(line.split("==") for line in PROJECT["optional-dependencies"]["lowest"] if "==" in line)
    padded = {name: bound + ".0" * (2 - bound.count(".")) for name, bound in bounds.items()}
    assert pins == padded


def test_a_client_is_installed_without_torch():
    names = {re.split(r"[<>=;]", line)[0] for line in PROJECT["dependencies"]}
    assert names == {"httpx", "isal", "numpy", "pillow", "rich", "safetensors", "typer"}
    for extra in ("demo", "train", "attacks", "service"):
        assert "hf-privseg[models]" in PROJECT["optional-dependencies"][extra]


def test_the_citation_names_the_version():
    assert f"\nversion: {hf_privseg.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_wheel_holds_the_package_and_every_data_file(tmp_path):
    pytest.importorskip("setuptools")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(sources(tmp_path / "sources"))], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"hf_privseg-{hf_privseg.__version__}-")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(["git", "ls-files", "hf_privseg"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode or not tracked.stdout:
        pytest.skip("the sources are no git checkout")
    assert inside == set(tracked.stdout.splitlines())


def sources(folder: Path) -> Path:
    """A copy of the tracked sources, so that building leaves nothing in the checkout."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode or not listed.stdout:
        pytest.skip("the sources are no git checkout")
    for name in listed.stdout.splitlines():
        if name.startswith(("hf_privseg/", "pyproject", "README", "LICENSE")):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    return folder
