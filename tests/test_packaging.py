"""What is installed: the files in the wheel, the bounds of dependencies, and the types that a user's script sees."""

import os
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

TEN_LINES = """
from PIL import Image
from hf_privseg import SecretKey, SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.checkpoints import default_checkpoint

image = Image.open("image.jpg")
key = SecretKey.generate()
model = SetrForSemanticSegmentation.from_pretrained(default_checkpoint()).encrypt_model(key)
processor = SetrImageProcessor.from_pretrained(default_checkpoint())
inputs = processor(images=image, secret_key=key, return_tensors="pt")
maps = processor.post_process_semantic_segmentation(model(**inputs), target_sizes=[image.size[::-1]])
"""


def test_the_extra_of_lowest_versions_pins_every_lower_bound():
    bounds = dict(re.findall(r"^([\w-]+)>=([\d.]+)", line)[0] for line in PROJECT["dependencies"])
    pins = dict(line.split("==") for line in PROJECT["optional-dependencies"]["lowest"] if "==" in line)
    padded = {name: bound + ".0" * (2 - bound.count(".")) for name, bound in bounds.items()}
    assert pins == padded


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
    assert inside == {*tracked.stdout.splitlines(), "privseg_command.py"}


def sources(folder: Path) -> Path:
    """A copy of the tracked sources, so that building leaves nothing in the checkout."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode or not listed.stdout:
        pytest.skip("the sources are no git checkout")
    for name in listed.stdout.splitlines():
        if name.startswith(("hf_privseg/", "privseg_command", "pyproject", "README", "LICENSE")):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.mark.slow
def test_mypy_accepts_the_ten_lines_of_a_user_and_finds_a_mistake_in_them(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "good.py").write_text(TEN_LINES, encoding="utf-8")
    (tmp_path / "bad.py").write_text(TEN_LINES.replace("secret_key=key", "secret_key=7"), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--ignore-missing-imports"]
    command += ["--config-file=", f"--cache-dir={tmp_path / 'cache'}", "good.py", "bad.py"]
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert re.match(r'bad\.py:10: error: Argument "secret_key" .* has incompatible type "int"', done.stdout), (
        done.stdout
    )
    assert done.stdout.splitlines()[-1] == "Found 1 error in 1 file (checked 2 source files)"
