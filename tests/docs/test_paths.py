"""The three pages that are whole paths: their commands, run from top to bottom as they stand, with tiny budgets."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("accelerate", reason="the train extra is not installed")
pytest.importorskip("fastapi")

from helpers.paths import ROOT
from helpers.shell import privseg_shell, run_page
from helpers.sources import mmseg_source
from hf_privseg.catalog.datasets import PRESETS

PAGES = ROOT / "docs/paths"
TINY = {
    "train": ["--crop-size", "32", "--max-steps", "1", "--batch-size", "2", "--num-workers", "0", "--cpu"],
    "evaluate": ["--cpu", "--limit", "2"],
    "audit": ["--limit", "2", "--max-minutes", "0.05"],
}
# What a test does not do: installing, downloading, and what needs the download.
NOT_HERE = ("pip install", "git clone", "python examples/prepare_camvid.py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("bash") is None, reason="bash is missing"),
    pytest.mark.filterwarnings("ignore"),
]


def commands(page: str) -> list[str]:
    """The blocks of a page, without the lines that a test leaves out."""
    blocks = re.findall(r"```sh\n(.*?)```", (PAGES / page).read_text(encoding="utf-8"), re.DOTALL)
    kept = ["".join(line for line in block.splitlines(True) if not line.startswith(NOT_HERE)) for block in blocks]
    return [block for block in kept if block.strip()]


def data_set(folder: Path, splits: dict[str, int], names: tuple[str, ...]) -> None:
    """A folder of images of random rectangles, numbered from 0001 over all splits."""
    rng, number = np.random.default_rng(0), 0
    for split, count in splits.items():
        for kind in ("images", "annotations"):
            (folder / kind / split).mkdir(parents=True)
        for _ in range(count):
            number += 1
            labels = np.kron(rng.integers(0, len(names), (3, 4)), np.ones((16, 16))).astype(np.uint8)
            pixels = np.stack([labels * 20, 255 - labels * 20, rng.integers(0, 255, labels.shape)], axis=-1)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / split / f"{number:04}.jpg")
            Image.fromarray(labels).save(folder / "annotations" / split / f"{number:04}.png")
    (folder / "classes.json").write_text(json.dumps(names))


@pytest.fixture
def place(tmp_path, inputs):
    """An empty folder with a ViT at the place that the pages name."""
    (tmp_path / "path/to").mkdir(parents=True)
    (tmp_path / "path/to/vit").symlink_to(inputs / "vit")
    return tmp_path


def equal(one: Path, other: Path) -> float:
    return float((np.array(Image.open(one)) == np.array(Image.open(other))).mean())


def test_deploy_your_own_model(place):
    data_set(place / "data/mine", {"train": 2, "val": 2}, ("road", "plant", "rest"))
    with privseg_shell(place, TINY) as shell:
        run_page(commands("deploy-your-own.md"), shell, "http://127.0.0.1:7861/readyz")
        shell("privseg segment data/mine/images/val/0003.jpg --model my_model --output plain")
    assert (place / "audit/report.html").exists()
    assert equal(place / "plain/0003.segmentation.png", place / "maps/0003.segmentation.png") > 0.99


def test_reproduce_and_compare(place, small_default):
    data_set(place / "data/camvid", {"train": 2, "val": 2, "test": 2}, PRESETS["camvid"].class_names)
    with privseg_shell(place, TINY) as shell:
        run_page(commands("reproduce.md"), shell, "")
    text = (place / "outputs/table1/results.md").read_text()
    assert all(f"| {family} |" in text for family in ("permutation", "signed_permutation", "orthogonal", "matrix"))
    compared = json.loads((place / "outputs/compared/results.json").read_text())["records"]
    assert {row["model"] for row in compared.values()} == {"embedded", "mine"}
    assert (place / "outputs/audit/report.json").exists()


CONFIG = """
_base_ = ['../_base_/models/setr_mla.py']
model = dict(
    pretrained=None, decode_head=dict(num_classes=5),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)))
"""
BASE = """
norm_cfg = dict(type='SyncBN', requires_grad=True)
data_preprocessor = dict(
    type='SegDataPreProcessor', mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], bgr_to_rgb=True)
model = dict(
    type='EncoderDecoder', data_preprocessor=data_preprocessor,
    backbone=dict(type='VisionTransformer', num_heads=2, out_indices=(0, 1, 2, 3), with_cls_token=False),
    neck=dict(type='MLANeck'), decode_head=dict(type='SETRMLAHead', norm_cfg=norm_cfg, num_classes=150))
"""


def test_migrate_from_mmsegmentation(place):
    data_set(place / "data/mine", {"train": 2, "val": 1}, ("a", "b", "c", "d", "e"))
    for name, text in {"setr/setr_mine.py": CONFIG, "_base_/models/setr_mla.py": BASE}.items():
        (place / "configs" / name).parent.mkdir(parents=True)
        (place / "configs" / name).write_text(text)
    _, weights = mmseg_source("mla", out_indices=[0, 1, 2, 3], patch_size=16, image_size=64)
    meta = {"dataset_meta": {"classes": ["a", "b", "c", "d", "e"]}}
    torch.save({"state_dict": weights, "meta": meta}, place / "iter_160000.pth")
    with privseg_shell(place, TINY) as shell:
        outputs = run_page(commands("migrate.md"), shell, "")
    assert "evaluates it by windows: --window 512 --stride 341" in outputs[0]
    assert (place / "measured/results.md").exists()
    assert equal(place / "plain/0003.segmentation.png", place / "maps/0003.segmentation.png") > 0.99
    assert (place / "my_model/model.safetensors").exists()
