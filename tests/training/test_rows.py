"""One decoding for training and prediction: the same pixels from every kind of file, and errors that name the file."""

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("datasets", reason="the train extra is not installed")

from hf_privseg import InvalidImageError, SetrImageProcessor
from hf_privseg.training import augmentation
from hf_privseg.training.augmentation import AugmentedDataset, JointAugmentation
from hf_privseg.training.data import load_segmentation_dataset
from hf_privseg.training.label_map import LabelMap
from hf_privseg.training.rows import decode_row

SIDE = 64
RAMP = np.tile(np.linspace(0, 255, SIDE).astype(np.uint8), (SIDE, 1))
OPACITY = np.where(np.arange(SIDE)[:, None] < 32, 0, 255) * np.ones((1, SIDE))


def turned():
    image = Image.fromarray(np.dstack([RAMP, RAMP // 2, 255 - RAMP]))
    image.getexif()[0x0112] = 6  # a quarter turn
    return image


def transparent_palette():
    image = Image.fromarray(RAMP).convert("P")
    image.info["transparency"] = 0
    return image


IMAGES = {
    "rgba.png": Image.fromarray(np.dstack([RAMP, RAMP, RAMP, OPACITY]).astype(np.uint8)),
    "grey_and_opacity.png": Image.fromarray(np.dstack([RAMP, OPACITY]).astype(np.uint8)),
    "grey_of_16_bits.png": Image.fromarray(RAMP.astype(np.uint16) * 257),
    "float.tif": Image.fromarray((RAMP / 255).astype(np.float32)),
    "int32.tif": Image.fromarray(RAMP.astype(np.int32)),
    "palette.png": transparent_palette(),
    "turned.png": turned(),
    "cmyk.tif": Image.fromarray(np.dstack([RAMP, RAMP, RAMP, RAMP // 2]), mode="CMYK"),
}


@pytest.fixture
def data_set(tmp_path):
    def make(name, image, labels=None):
        for kind in ("images", "annotations"):
            (tmp_path / kind / "train").mkdir(parents=True)
        saved = {"exif": image.getexif()} if name == "turned.png" else {}
        image.save(tmp_path / "images" / "train" / name, **saved)
        labels = np.zeros((SIDE, SIDE), np.uint8) if labels is None else labels
        Image.fromarray(labels).save(tmp_path / "annotations" / "train" / f"{name.partition('.')[0]}.png")
        return load_segmentation_dataset(tmp_path, split="train")

    return make


@pytest.mark.parametrize("name", IMAGES)
def test_training_sees_the_pixels_that_prediction_sees(data_set, tmp_path, monkeypatch, name):
    monkeypatch.setattr(augmentation, "_PHOTOMETRIC", torch.nn.Identity())
    rows = data_set(name, IMAGES[name])
    seen = SetrImageProcessor()(str(tmp_path / "images" / "train" / name), return_tensors="pt").pixel_values[0]
    whole = JointAugmentation(SIDE, 1.0, (1.0, 1.0), max_class_share=1.0)
    trained = AugmentedDataset(rows, whole, LabelMap(2), seed=0)[0]["pixel_values"]
    assert seen.unique().numel() > 20  # no blank image
    difference = min((trained - seen).abs().max(), (trained.flip(-1) - seen).abs().max())
    assert difference < 1e-6  # the processor rescales and normalises in one step


def test_sizes_that_differ_are_refused_with_both_files(data_set, tmp_path):
    rows = data_set("a.png", Image.new("RGB", (SIDE, SIDE)), np.zeros((SIDE, SIDE // 2), np.uint8))
    dataset = AugmentedDataset(rows, JointAugmentation(32), LabelMap(2), seed=0)
    folder = tmp_path
    with pytest.raises(
        InvalidImageError,
        match=rf"got 64 x 64 in {folder}/images/train/a\.png and 32 x 64 in {folder}/annotations/train/a\.png",
    ):
        _ = dataset[0]


def test_an_evaluation_refuses_sizes_that_differ(data_set):
    from accelerate import Accelerator

    from helpers.tiny_setr import tiny_model
    from hf_privseg.training.evaluation import evaluate_mean_iou

    rows = data_set("a.png", Image.new("RGB", (SIDE, SIDE)), np.zeros((SIDE // 2, SIDE), np.uint8))
    with pytest.raises(InvalidImageError, match=r"got 64 x 64 in .*images/train/a\.png and 64 x 32 in"):
        evaluate_mean_iou(
            tiny_model(num_labels=3), SetrImageProcessor(patch_size=4), rows, LabelMap(3), Accelerator(cpu=True)
        )


def test_a_wrong_label_and_a_damaged_image_name_their_file_or_row(data_set, tmp_path):
    rows = data_set("a.png", Image.new("RGB", (SIDE, SIDE)), np.full((SIDE, SIDE), 7, np.uint8))
    with pytest.raises(ValueError, match=r"annotations/train/a\.png: expected labels 0 \.\. 1, .* got \[7\]"):
        decode_row(rows[0], LabelMap(2), "row 0")
    image = Image.new("RGB", (SIDE, SIDE))
    with pytest.raises(ValueError, match=r"^annotation of row 5: expected labels"):
        decode_row({"image": image, "annotation": np.full((SIDE, SIDE), 7)}, LabelMap(2), "row 5")
    with pytest.raises(InvalidImageError, match=r"^image of row 5: expected finite pixels"):
        decode_row({"image": np.full((4, 4, 3), np.nan), "annotation": np.zeros((4, 4), int)}, LabelMap(2), "row 5")
