"""The other example programs, run for real on small generated inputs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_setr import tiny_model

pytest.importorskip("accelerate", reason="the train extra is not installed")

from hf_privseg import SetrForSemanticSegmentation, SetrImageProcessor

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script: str, *options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(EXAMPLES / script), *map(str, options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_help_teaches(script):
    result = run(script, "--help")
    assert result.returncode == 0, result.stderr[-2000:]
    assert f"python examples/{script}" in result.stdout, "no example of a command"
    assert "--dataset" in result.stdout or "--source" in result.stdout


class TestPrepareCamvid:
    @pytest.fixture
    def clone(self, tmp_path):
        rng = np.random.default_rng(0)
        for split in ("train", "val", "test"):
            for name in (split, f"{split}annot"):
                (tmp_path / "CamVid" / name).mkdir(parents=True)
            for index in range(2):
                pixels = rng.integers(0, 256, (24, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "CamVid" / split / f"{index}.png")
                labels = rng.integers(0, 12, (24, 32)).astype(np.uint8)
                Image.fromarray(labels).save(tmp_path / "CamVid" / f"{split}annot" / f"{index}.png")
        return tmp_path / "CamVid"

    @pytest.mark.parametrize(
        ("options", "suffix"), [((), "png"), (("--jpeg_quality", 94), "jpg")], ids=["png", "jpeg"]
    )
    def test_builds_what_the_loader_reads(self, clone, tmp_path, options, suffix):
        from hf_privseg.training.data import LabelMap, class_names, load_segmentation_dataset

        result = run("prepare_camvid.py", "--source", clone, "--output", tmp_path / "camvid", *options)
        assert result.returncode == 0, result.stderr[-2000:]
        assert "2 train, 2 val, 2 test; 11 classes, void 11" in result.stdout
        assert (tmp_path / "camvid" / "images" / "val" / f"1.{suffix}").exists()
        assert class_names(tmp_path / "camvid")[10] == "bicyclist"
        row = load_segmentation_dataset(tmp_path / "camvid", split="test")[1]
        stored = np.array(Image.open(clone / "testannot" / "1.png"))
        assert np.array_equal(LabelMap(11, (11,))(row["annotation"]), np.where(stored == 11, 255, stored))

    def test_another_folder_is_refused(self, tmp_path):
        result = run("prepare_camvid.py", "--source", tmp_path, "--output", tmp_path / "camvid")
        assert result.returncode != 0
        assert "expected PNG images, found none" in result.stderr


@pytest.fixture
def plain_checkpoint(tmp_path):
    folder = tmp_path / "plain"
    tiny_model(num_labels=3).save_pretrained(folder)
    SetrImageProcessor(patch_size=4).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_evaluate_encrypted(inputs, plain_checkpoint, tmp_path):
    options = ("--dataset", inputs / "data", "--model", plain_checkpoint, "--split", "val", "--cpu")
    families = ("--families", "permutation", "orthogonal")
    result = run("evaluate_encrypted.py", *options, "--output_dir", tmp_path / "out", *families)
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = report["conditions"]
    assert report["num_images"] == 3
    assert list(rows) == ["baseline"] + [
        f"{family}: {name}" for family in families[1:] for name in ("correct K", "no enc", "random K'")
    ]
    for family in families[1:]:
        assert rows[f"{family}: correct K"]["equal_pixels"] > 0.999
        assert rows[f"{family}: correct K"]["mean_iou"] == pytest.approx(rows["baseline"]["mean_iou"], abs=1e-3)
        assert rows[f"{family}: correct K"]["embedding_error"] < 1e-5
        for wrong in ("no enc", "random K'"):
            assert rows[f"{family}: {wrong}"]["embedding_error"] > 0.1
    assert "| baseline |" in (tmp_path / "out" / "results.md").read_text()

    # a finished run is not run again, and another experiment is not mixed into it
    stamp = rows["permutation: no enc"]
    again = run("evaluate_encrypted.py", *options, "--output_dir", tmp_path / "out", *families)
    assert again.returncode == 0, again.stderr[-3000:]
    assert json.loads((tmp_path / "out" / "results.json").read_text())["conditions"]["permutation: no enc"] == stamp
    other = run("evaluate_encrypted.py", *options, "--output_dir", tmp_path / "out", "--seed", 1)
    assert other.returncode != 0
    assert "holds another experiment" in other.stderr


@pytest.mark.slow
def test_the_trainer_example(inputs, tmp_path):
    paths = ("--dataset", inputs / "data", "--vit", inputs / "vit", "--output_dir", tmp_path / "out")
    settings = ("--crop_size", 32, "--num_train_epochs", 1, "--per_device_train_batch_size", 4, "--use_cpu")
    result = run("train_setr_trainer.py", *paths, *settings, "--remove_unused_columns", "False", "--report_to", "none")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "eval_mean_iou" in result.stdout
    assert SetrForSemanticSegmentation.from_pretrained(tmp_path / "out").config.num_labels == 3
