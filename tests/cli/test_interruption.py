"""What is interrupted while it writes leaves what was there, and no half of what was to come."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from helpers.paths import ROOT
from hf_privseg import SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.setr.files import new_folder
from hf_privseg.storage.images import save_picture

WRITES_FOREVER = """
import sys, time
from pathlib import Path
from files import new_folder  # the module alone: the package would take seconds to import
with new_folder(Path(sys.argv[1]), overwrite=True) as folder:
    (folder / "config.json").write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def model(tmp_path):
    """A folder with something in it."""
    folder = tmp_path / "place" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("former")
    return folder


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_a_process_that_ends_in_the_middle_changes_no_folder(model, ending):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "hf_privseg" / "setr")}
    command = [sys.executable, "-c", WRITES_FOREVER, str(model)]
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # shells have background processes ignore it
    with subprocess.Popen(
        command,
        env=environment,
        preexec_fn=listen,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(ending)
        assert process.wait(timeout=60) != 0
    assert contents(model) == {"config.json": "former"}
    left = [path for path in model.parent.iterdir() if path != model]
    assert all(path.name.startswith(".model.") for path in left)
    assert ending == signal.SIGKILL or not left


def test_an_interruption_between_the_renames_brings_the_former_folder_back(model, monkeypatch):
    rename, calls = Path.rename, []

    def interrupted(path, target):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), new_folder(model, overwrite=True) as folder:
        (folder / "config.json").write_text("new")
    assert len(calls) == 3
    assert contents(model) == {"config.json": "former"}
    assert list(model.parent.iterdir()) == [model]


def test_without_an_interruption_the_folder_is_replaced(model):
    with new_folder(model, overwrite=True) as folder:
        (folder / "weights").write_text("new")
    assert contents(model) == {"weights": "new"}
    assert list(model.parent.iterdir()) == [model]


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path, picture = tmp_path / "map.png", Image.new("L", (4, 4), 7)
    save_picture(picture, path)
    with pytest.raises(FileExistsError, match=r"map\.png exists; choose another path or pass overwrite=True"):
        save_picture(picture, path)
    former = path.read_bytes()

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_picture(Image.new("L", (4, 4), 8), path, overwrite=True)
    assert path.read_bytes() == former
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("owner", [SetrForSemanticSegmentation, SetrImageProcessor], ids=["weights", "settings"])
def test_an_interrupted_command_ends_with_130_and_changes_nothing(place, monkeypatch, owner):
    output = place.encrypted_model()
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    real = owner.save_pretrained

    def interrupted(self, *arguments, **settings):
        real(self, *arguments, **settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, "save_pretrained", interrupted)
    code, out, _ = place.run("encrypt-model", place.folder / "model", output, "-k", place.key_file, "--force")
    assert (code, out) == (130, "")
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert not list(place.folder.glob(".*"))


def test_an_empty_folder_counts_as_none(place):
    (place.folder / "encrypted_model").mkdir()
    assert (place.encrypted_model() / "config.json").is_file()
