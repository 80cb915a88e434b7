"""An audit that is stopped: a report of what was found, and the rest by the same command."""

import json
import re

import numpy as np
import pytest

pytest.importorskip("skimage", reason="the attacks extra is not installed")

from helpers.tiny_setr import tiny_model
from hf_privseg import SetrImageProcessor
from hf_privseg.audit.audit import audit
from hf_privseg.audit.trial import Trial
from hf_privseg.catalog.sample_images import sample_image
from hf_privseg.cli.app import main

pytestmark = pytest.mark.usefixtures("small_samples")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model, and images of two sizes."""
    monkeypatch.chdir(tmp_path)
    tiny_model(patch_size=4).save_pretrained("model")
    SetrImageProcessor(do_resize=False, patch_size=4).save_pretrained("model")
    image = sample_image("china").resize((320, 240))
    for name in ("victims", "others"):
        (tmp_path / name).mkdir()
    for n in range(3):
        image.crop((64 * n, 64, 64 * n + 64, 128)).save(tmp_path / "victims" / f"{n}.png")
    image.crop((64, 128, 128, 192)).save(tmp_path / "others" / "0.png")
    return tmp_path


class Runs:
    """The attacks that were run, and the number of the one that is interrupted."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.stop_at: int | None = None


@pytest.fixture
def runs(monkeypatch):
    runs, find = Runs(), Trial.find

    def counted(trial):
        if len(runs.names) == runs.stop_at:
            raise KeyboardInterrupt
        runs.names.append(trial.name)
        return find(trial)

    monkeypatch.setattr(Trial, "find", counted)
    return runs


def command(capsys, *options, images="victims"):
    with pytest.raises(SystemExit) as ended:
        main(["audit", "model", images, "--family", "orthogonal", "-o", "found", "--json", *options])
    out, err = capsys.readouterr()
    return ended.value.code or 0, out, " ".join(err.split())


def test_an_interrupted_audit_leaves_a_report_and_goes_on(folder, capsys, runs):
    runs.stop_at = 7
    code, _, err = command(capsys)
    assert code == 130
    partial, kept = json.loads((folder / "found/report.json").read_text()), folder / "found/findings.jsonl"
    assert len(partial["findings"]) == 7
    total = 7 + partial["attacks_left"]
    assert f"stopped: This audit is not complete: {total - 7} of {total} attacks were not run" in err
    assert "The same command goes on with what is kept in found" in err
    assert "This audit is not complete" in (folder / "found/report.html").read_text()
    assert len(kept.read_bytes().splitlines()) == 8
    assert kept.stat().st_mode & 0o077 == 0
    kept.write_bytes(kept.read_bytes()[:-20])  # as a kill in the middle of a line leaves it
    runs.stop_at = None
    code, out, _ = command(capsys)
    assert code == 0
    assert len(runs.names) == total + 1  # the last one again
    whole = json.loads(out)
    assert (len(whole["findings"]), whole["attacks_left"]) == (total, 0)
    assert whole["findings"][:6] == partial["findings"][:6]
    assert not kept.exists()
    assert "not complete" not in (folder / "found/report.html").read_text()
    assert "--force" in command(capsys)[2]  # a whole report is not overwritten


def test_the_time_is_kept(folder, capsys, runs):
    code, out, err = command(capsys, "--max-minutes", "0")
    assert (code, runs.names, json.loads(out)["findings"]) == (0, [], [])
    assert "No attack that reconstructs images was run." in err + out
    assert re.search(r"\d+ attacks: about \d+ minutes? on a machine such as ", err)
    command(capsys)
    assert runs.names


def test_findings_on_other_images_are_refused_and_kept(folder, capsys, runs):
    runs.stop_at = 2
    command(capsys)
    code, _, err = command(capsys, images="others")
    assert code == 1
    assert "found/findings.jsonl holds the findings of an audit of other images" in err
    assert len(runs.names) == 2
    (folder / "found/findings.jsonl").write_text('{"format": "x"}\n{"attack": 1}\n')
    assert "expected the findings of an audit in found/findings.jsonl, got something else" in command(capsys)[2]
    runs.stop_at = None
    assert command(capsys, "--force", "--max-minutes", "0")[0] == 0


def test_pictures_are_kept(tmp_path, monkeypatch):
    image = np.asarray(sample_image("china").resize((64, 64)))
    model, processor = tiny_model(patch_size=4), SetrImageProcessor(do_resize=False, patch_size=4)
    written = {"processor": processor, "families": ["matrix"], "progress": False, "findings_file": tmp_path / "f"}
    first = audit(model, [image], **written)
    monkeypatch.setattr(Trial, "find", None)  # nothing is run again
    again = audit(model, [image], **written)
    assert again.num_left == 0
    assert [f.to_dict() for f in again.findings] == [f.to_dict() for f in first.findings]
    pictures = [(a.picture, b.picture) for a, b in zip(again.findings, first.findings, strict=True)]
    assert sum(picture is not None for picture, _ in pictures) > 5
    for found, expected in pictures:
        np.testing.assert_array_equal(found, expected)
