"""The other example programs, run for real on small generated inputs."""

import numpy as np
import pytest
from PIL import Image

from helpers.example_runs import run, run_here
from helpers.paths import EXAMPLES

pytest.importorskip("accelerate", reason="the train extra is not installed")

from hf_privseg import SetrForSemanticSegmentation


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_help_teaches(script):
    if script == "ray_serve.py":
        pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'hf-privseg[ray,service]'")
    result = run_here(script, "--help")
    assert result.returncode == 0, result.stderr[-2000:]
    assert f"python examples/{script}" in result.stdout, "no example of a command"
    assert any(option in result.stdout for option in ("--dataset", "--source", "--image", "--model")), "no input"


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
        from hf_privseg.catalog.class_files import class_names_of
        from hf_privseg.training.data import load_segmentation_dataset
        from hf_privseg.training.label_map import LabelMap

        result = run_here("prepare_camvid.py", "--source", clone, "--output", tmp_path / "camvid", *options)
        assert result.returncode == 0, result.stderr[-2000:]
        assert "2 train, 2 val, 2 test; 11 classes, void 11" in result.stdout
        assert (tmp_path / "camvid" / "images" / "val" / f"1.{suffix}").exists()
        assert class_names_of(tmp_path / "camvid")[10] == "bicyclist"
        row = load_segmentation_dataset(tmp_path / "camvid", split="test")[1]
        stored = np.array(Image.open(clone / "testannot" / "1.png"))
        assert np.array_equal(LabelMap(11, (11,))(row["annotation"]), np.where(stored == 11, 255, stored))

    def test_another_folder_is_refused(self, tmp_path):
        result = run_here("prepare_camvid.py", "--source", tmp_path, "--output", tmp_path / "camvid")
        assert result.returncode != 0
        assert "expected PNG images, found none" in result.stderr


@pytest.mark.slow
def test_the_trainer_example(inputs, tmp_path):
    paths = ("--dataset", inputs / "data", "--vit", inputs / "vit", "--output_dir", tmp_path / "out")
    settings = ("--crop_size", 32, "--num_train_epochs", 1, "--per_device_train_batch_size", 4, "--use_cpu")
    result = run("train_setr_trainer.py", *paths, *settings, "--remove_unused_columns", "False", "--report_to", "none")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "eval_mean_iou" in result.stdout
    assert SetrForSemanticSegmentation.from_pretrained(tmp_path / "out").config.num_labels == 3
