"""The Space's folder: assembled by `make space`, it starts by itself and serves what the package serves."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile

import pytest

from helpers import preloaded
from helpers.paths import ROOT
from helpers.tiny_setr import tiny_model
from hf_privseg import SetrImageProcessor

REQUIREMENTS = (ROOT / "space" / "requirements.txt").read_text(encoding="utf-8")
FRONT_MATTER = (ROOT / "space" / "README.md").read_text(encoding="utf-8").split("---")[1]


def pins():
    return dict(line.split("==") for line in REQUIREMENTS.splitlines() if not line.startswith("#"))


def test_the_pins_cover_the_package_and_its_space_extra():
    names = {name.lower().replace("_", "-") for name in pins()}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = "".join(project.split(f"\n{name} = [\n")[1].split("\n]\n")[0] for name in ("dependencies", "models"))
    for extra in ("attacks", "service"):
        (packages,) = re.findall(rf"^{extra} = (.*)$", project, re.MULTILINE)
        listed += packages
    needed = set(re.findall(r'"([\w-]+)[><=]', listed)) | {"gradio"}
    assert needed <= names
    assert f"sdk_version: {pins()['gradio']}\n" in FRONT_MATTER


def test_the_front_matter_is_complete():
    fields = dict(line.split(": ", 1) for line in FRONT_MATTER.strip().splitlines() if ": " in line)
    assert (fields["sdk"], fields["app_file"]) == ("gradio", "app.py")
    assert len(fields["short_description"]) <= 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What `make space` makes; the wheel is built in the environment of the tests, without the network."""
    pytest.importorskip("setuptools")
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    folder = tmp_path_factory.mktemp("made") / "space"
    environment = os.environ | {
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_NO_INDEX": "1",
    }  # the former means "do not isolate"
    left = ROOT / "build" / "lib" / "hf_privseg" / "left_by_an_earlier_build.py"
    left.parent.mkdir(parents=True, exist_ok=True)
    left.touch()
    command = ["make", "--no-print-directory", "space", f"VENV={sys.prefix}", f"SPACE={folder}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_folder_is_complete(folder):
    (wheel,) = folder.glob("*.whl")
    assert {path.name for path in folder.iterdir()} == {"README.md", "app.py", "requirements.txt", wheel.name}
    inside = set(zipfile.ZipFile(wheel).namelist())
    static = {f"hf_privseg/service/static/{path.name}" for path in (ROOT / "hf_privseg/service/static").iterdir()}
    assert len(static) > 10
    assert static <= inside
    assert "hf_privseg/checkpoints/setr-vit-s16-camvid/model.safetensors" in inside
    assert not [name for name in inside if name.endswith((".key", ".rekey")) or "left_by_an_earlier_build" in name]


@pytest.mark.slow
def test_the_folder_starts_and_serves(folder, tmp_path):
    pytest.importorskip("gradio")
    tiny_model().save_pretrained(tmp_path / "model")
    SetrImageProcessor(patch_size=4).save_pretrained(tmp_path / "model")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PRIVSEG_MODEL": str(tmp_path / "model"), "GRADIO_SERVER_PORT": str(port)}
    environment |= {"GRADIO_SERVER_NAME": "127.0.0.1", "TMPDIR": str(tmp_path)}
    log = (tmp_path / "log").open("w+")
    # it has imported torch, but not this package
    process = preloaded.start("transformers", "app.py", cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        page = fetched(f"http://127.0.0.1:{port}/privseg/page.js", process, seconds=120)
        assert page == (ROOT / "hf_privseg/service/static/page.js").read_text(encoding="utf-8")
        assert list(
            tmp_path.glob("hf_privseg-*/hf_privseg/service/static/page.js")
        )  # from the wheel, not the checkout
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        log.seek(0)
        print(log.read())
    assert not list(tmp_path.glob("hf_privseg-*"))


def fetched(url, process, seconds):
    """Text at a URL, waiting for the process behind it to listen."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url) as response:
                return response.read().decode()
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"nothing answers at {url}")
