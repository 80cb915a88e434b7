"""The demo, end to end with a tiny model: what it writes, and that its server process really lacks the key."""

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers import preloaded
from helpers.leaks import assert_no_secret
from helpers.tiny_setr import tiny_model
from hf_privseg import EncryptedImage, SecretKey, SetrConfig, SetrImageProcessor
from hf_privseg.cli import demo_run as module
from hf_privseg.cli.app import main

pytest.importorskip("matplotlib")


@dataclass
class Run:
    """A finished demo: its folder, what it printed, its report, and how the server process was started."""

    folder: Path
    printed: str
    report: module.DemoReport
    command: list[str]
    environment: dict[str, str]

    @property
    def key(self):
        return SecretKey.from_file(self.folder / "secret.key")


@pytest.fixture(scope="module")
def plain_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model(num_labels=3, id2label={0: "sky", 1: "road", 2: "tree"}).save_pretrained(folder)
    SetrImageProcessor(patch_size=4, resize_factor=0.25).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, small_default_folder):
    """The demo, with the embedded model, which scales images down, on a street image.

    PRIVSEG_KEY is set, and the key's file is away during the server's turn.
    """
    folder = tmp_path_factory.mktemp("demo") / "out"
    started: dict[str, Any] = {}

    def without_key_file(command, **kwargs):
        started.update(command=command, environment=kwargs["env"])
        assert not folder.exists()
        key_file = Path(command[command.index("--model") + 1]).parent / "secret.key"
        away = key_file.rename(folder.parent / "away")
        try:
            assert command[0] == sys.executable
            return preloaded.run("hf_privseg", *command[1:], env=kwargs["env"])
        finally:
            away.rename(key_file)

    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr("hf_privseg.checkpoints._DEFAULT", small_default_folder)
        patch.setenv("PRIVSEG_KEY", SecretKey.generate().to_text())
        patch.setattr(subprocess, "run", without_key_file)
        report = module.run_demo(image=None, family="permutation", output_dir=folder, model="default")
    return Run(folder, printed.getvalue(), report, **started)


def test_the_server_process_is_given_two_paths_and_no_key(run):
    given = run.command[run.command.index("segment") + 1 :]
    folder = Path(given[0]).parent  # becomes run.folder as a whole, at the end
    assert folder.parent == run.folder.parent
    assert not folder.exists()
    image, model, output = (folder / name for name in ("image.encrypted.png", "encrypted_model", "segmentation.png"))
    assert given == [str(image), "--model", str(model), "--output", str(output), "--force"]
    assert "PRIVSEG_KEY" not in run.environment
    assert "PATH" in run.environment or os.name != "posix"
    assert_no_secret(" ".join([*run.command, *run.environment.values()]), run.key)


def test_nothing_but_the_key_file_holds_the_key(run):
    assert_no_secret(run.printed, run.key)
    for path in run.folder.rglob("*"):
        if path.is_file() and path.name != "secret.key":
            assert_no_secret(path.read_bytes(), run.key)


def test_everything_is_made_with_the_new_key(run):
    facts = SetrConfig.from_pretrained(run.folder / "encrypted_model").key_facts
    image = EncryptedImage.from_file(run.folder / "image.encrypted.png")
    assert facts == run.key.facts
    assert image.fingerprint == run.key.fingerprint
    assert run.key.fingerprint in run.printed


def test_encryption_changes_no_result_and_its_absence_ruins_it(run):
    equal = run.report.equal_pixels
    assert equal["plain"] == 1
    assert equal["encrypted"] > 0.99  # a tie may fall the other way
    assert equal["no_encryption"] < 0.9
    assert equal["wrong_key"] < 0.9
    maps = {
        name: np.array(Image.open(run.folder / f"segmentation{name}.png")) for name in ("", "_plain", "_wrong_key")
    }
    assert maps[""].shape == (360, 640)
    assert (maps[""] == maps["_plain"]).mean() == equal["encrypted"]
    assert (maps["_wrong_key"] == maps["_plain"]).mean() == equal["wrong_key"]
    assert f"{equal['encrypted']:.3%}" in run.printed


def test_credit_and_the_honest_note_stand_beside_the_picture(run):
    with Image.open(run.folder / "demo.png") as picture:
        assert min(picture.size) > 800
        assert len(picture.convert("RGB").resize((64, 64)).getcolors(4096) or ()) > 100
    for text in (run.printed, (run.folder / "README.txt").read_text()):
        assert module.HONEST_NOTE in text
        assert "2016-2018 Udacity, Inc., MIT License" in text
        assert "https://github.com/udacity/CarND-Advanced-Lane-Lines" in text


def in_this_process(command, **_):
    """In place of subprocess.run, where starting Python once more would prove nothing new."""
    with pytest.raises(SystemExit) as ended:
        main(command[3:])
    return subprocess.CompletedProcess(command, int(ended.value.code or 0), "", "")


def test_an_image_of_one_s_own_is_turned_flattened_and_bounded(run, plain_model, capsys, monkeypatch):
    """RGBA, lying on its side by EXIF, large; the former demo's results are replaced, those of its family too."""
    own = Image.new("RGBA", (1500, 1000), (255, 0, 0, 0))
    exif = own.getexif()
    exif[0x0112] = 6  # turn by 90 degrees
    monkeypatch.setattr(subprocess, "run", in_this_process)
    path = run.folder.parent / "own.png"
    own.save(path, exif=exif)
    output = run.folder.parent / "again"
    output.mkdir()
    (output / "README.txt").write_text((run.folder / "README.txt").read_text())
    (output / "image.encrypted.png").touch()
    arguments = ["demo", "--image", str(path), "--model", str(plain_model), "--output-dir", str(output)]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 1
    assert f"{output} holds the results of a former demo; choose another --output-dir" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--force"])
    assert not ended.value.code
    assert "The image of 1000 x 1500 is reduced to 427 x 640" in capsys.readouterr().out
    with Image.open(output / "image.png") as reduced:
        assert reduced.size == (427, 640)
        assert reduced.getpixel((5, 5)) == (255, 255, 255)
    assert not (output / "image.encrypted.png").exists()
    assert EncryptedImage.from_file(output / "image.encrypted.safetensors").original_size == (640, 427)
    assert "danielbuechele" not in (output / "README.txt").read_text()


def test_a_folder_of_somebody_else_is_left_alone(plain_model, tmp_path):
    key = SecretKey.generate()
    key.to_file(tmp_path / "secret.key")
    with pytest.raises(FileExistsError, match=f"{tmp_path} holds files that no demo made"):
        module.run_demo(image=None, family="orthogonal", output_dir=tmp_path, model=str(plain_model))
    assert SecretKey.from_file(tmp_path / "secret.key") == key


def test_a_failure_of_the_server_process_is_reported(monkeypatch, tmp_path):
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="error: no such model\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ChildProcessError, match=r"in the other process failed: error: no such model$"):
        module._segment_without_key(tmp_path / "nowhere", tmp_path / "image.encrypted.png")


def test_missing_extras_are_named_with_the_command_that_installs_them(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "matplotlib" else name)
    with pytest.raises(ImportError, match=r"the demo needs matplotlib; install it: pip install 'hf-privseg\[demo\]'"):
        module.run_demo(image=None, family="orthogonal", output_dir=tmp_path / "out", model="default")
    assert not (tmp_path / "out").exists()
