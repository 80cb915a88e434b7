"""One decoding for training and prediction: the same pixels from every kind of file, and errors that name the file."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("datasets", reason="the train extra is not installed")

import datasets

from hf_privseg import InvalidImageError, SetrImageProcessor
from hf_privseg.training import augmentation
from hf_privseg.training.augmentation import AugmentedDataset, AugmentedStream, JointAugmentation
from hf_privseg.training.data import load_segmentation_dataset
from hf_privseg.training.label_map import LabelMap
from hf_privseg.training.rows import decode_row, read_row
from hf_privseg.training.stored_labels import StoredLabels

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


def test_the_processor_refuses_sizes_that_differ_with_both_files(tmp_path):
    files = [tmp_path / name for name in ("a.png", "a_mask.png")]
    Image.new("RGB", (SIDE, SIDE)).save(files[0])
    Image.new("L", (SIDE // 2, SIDE)).save(files[1])
    with pytest.raises(InvalidImageError, match=rf"got 1 of \[\(64, 32\)\] \({files[1]} beside {files[0]}\); a map"):
        SetrImageProcessor()(str(files[0]), str(files[1]))


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
        read_row(rows, 0, LabelMap(2))
    row, name_of = {"image": Image.new("RGB", (4, 4)), "annotation": np.full((4, 4), 7)}, "{} of row 5".format
    with pytest.raises(ValueError, match=r"^annotation of row 5: expected labels"):
        decode_row(row, LabelMap(2), name_of)
    row = {"image": np.full((4, 4, 3), np.nan), "annotation": np.zeros((4, 4), int)}
    with pytest.raises(InvalidImageError, match=r"^image of row 5: expected finite pixels"):
        decode_row(row, LabelMap(2), name_of)


@pytest.mark.parametrize("kind", ["images", "annotations"])
def test_a_damaged_or_missing_file_is_named(data_set, tmp_path, kind):
    rows = data_set("a.png", Image.fromarray(np.dstack([RAMP, RAMP.T, RAMP])))
    path = tmp_path / kind / "train" / "a.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidImageError, match=rf"{path}.* cannot be read \(.*"):
        read_row(rows, 0, LabelMap(2))
    path.unlink()
    with pytest.raises(InvalidImageError, match=rf"{path}.* cannot be read \(FileNotFoundError"):
        read_row(rows, 0, LabelMap(2))


def test_a_turned_image_keeps_its_name(data_set, tmp_path):
    rows = data_set("turned.png", turned(), np.zeros((SIDE, SIDE // 2), np.uint8))
    with pytest.raises(InvalidImageError, match=rf"got 64 x 64 in {tmp_path}/images/train/turned\.png and 32 x 64"):
        read_row(rows, 0, LabelMap(2))


CHANNELS = np.stack([np.roll(RAMP, 5 * k, axis=1) // (k + 1) for k in range(13)])


@pytest.mark.parametrize("streaming", [False, True], ids=["stored", "streamed"])
@pytest.mark.parametrize("suffix", ["npy", "png"], ids=["labels in npy", "labels in png"])
def test_a_folder_of_npy_files(tmp_path, monkeypatch, streaming, suffix):
    monkeypatch.setattr(augmentation, "_PHOTOMETRIC", torch.nn.Identity())
    for kind in ("images", "annotations"):
        (tmp_path / kind / "train").mkdir(parents=True)
    stored = (RAMP > 99) * np.uint8(3)
    np.save(tmp_path / "images" / "train" / "a.npy", CHANNELS)
    annotation = tmp_path / "annotations" / "train" / f"a.{suffix}"
    if suffix == "npy":
        np.save(annotation, stored.astype(np.int64))
    else:
        Image.fromarray(stored).save(annotation)
    rows = load_segmentation_dataset(tmp_path, split="train", streaming=streaming)
    counted = StoredLabels.of("train", rows)
    assert (counted.names, set(counted.total)) == ((str(annotation),), {0, 3})
    whole = JointAugmentation(SIDE, 1.0, (1.0, 1.0), max_class_share=1.0, num_channels=len(CHANNELS))
    make: Any = AugmentedStream if streaming else AugmentedDataset
    (sample,) = make(rows, whole, LabelMap(2, mapping={0: 0, 3: 1}), seed=0)
    is_flipped = not np.array_equal(sample["labels"], stored // 3)
    expected = torch.from_numpy(CHANNELS) / 127.5 - 1
    torch.testing.assert_close(sample["pixel_values"], expected.flip(-1) if is_flipped else expected)
    labels = sample["labels"].flip(-1) if is_flipped else sample["labels"]
    assert np.array_equal(labels, stored // 3)
    with pytest.raises(ValueError, match=rf"{annotation}: expected labels 0 \.\. 1, .*, got \[3\]"):
        list(make(rows, whole, LabelMap(2), seed=0))
    (tmp_path / "images" / "train" / "a.npy").write_bytes(b"no array")
    with pytest.raises(InvalidImageError, match=rf"{tmp_path}/images/train/a\.npy: expected an array as numpy\.save"):
        list(make(rows, whole, LabelMap(2), seed=0))


def image_of(num_channels):
    """A file of so many channels, as people have them: its suffix, and how it is saved."""
    pages = [Image.fromarray(channel) for channel in CHANNELS[:num_channels]]
    if num_channels == 1:
        return "png", pages[0], {}
    if num_channels in (2, 4):
        return "png", Image.fromarray(CHANNELS[:num_channels].transpose(1, 2, 0)), {}
    return "tif", pages[0], {"save_all": True, "append_images": pages[1:]}


@pytest.mark.parametrize("num_channels", [1, 2, 4, 13])
@pytest.mark.parametrize("streaming", [False, True], ids=["stored", "streamed"])
def test_images_of_any_number_of_channels(tmp_path, monkeypatch, num_channels, streaming):
    monkeypatch.setattr(augmentation, "_PHOTOMETRIC", torch.nn.Identity())
    suffix, image, saved = image_of(num_channels)
    for kind in ("images", "annotations"):
        (tmp_path / kind / "train").mkdir(parents=True)
    path = tmp_path / "images" / "train" / f"a.{suffix}"
    image.save(path, **saved)
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(tmp_path / "annotations" / "train" / "a.png")
    rows = load_segmentation_dataset(tmp_path, split="train", streaming=streaming)
    whole = JointAugmentation(SIDE, 1.0, (1.0, 1.0), max_class_share=1.0, num_channels=num_channels)
    made = (AugmentedStream if streaming else AugmentedDataset)(rows, whole, LabelMap(2), seed=0)
    sample = next(iter(made)) if isinstance(made, AugmentedStream) else made[0]
    expected = torch.from_numpy(CHANNELS[:num_channels]) / 127.5 - 1
    trained = sample["pixel_values"]
    assert min((trained - expected).abs().max(), (trained.flip(-1) - expected).abs().max()) < 1e-6
    seen = SetrImageProcessor(num_channels=num_channels)(str(path), return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(seen, expected)


@pytest.mark.parametrize("num_channels", [1, 2, 4, 13])
def test_brightness_and_contrast_change_all_channels_alike(num_channels):
    torch.manual_seed(0)
    same = torch.from_numpy(RAMP).expand(num_channels, -1, -1)
    augment = JointAugmentation(SIDE, 1.0, (1.0, 1.0), max_class_share=1.0, num_channels=num_channels)
    changed = 0
    for _ in range(8):
        seen = augment(same, np.zeros((SIDE, SIDE), np.int64))["pixel_values"]
        assert torch.equal(seen, seen[:1].expand_as(seen))
        plain = torch.from_numpy(RAMP) / 127.5 - 1
        changed += float(min((seen[0] - plain).abs().max(), (seen[0].flip(-1) - plain).abs().max())) > 0.02
    assert 0 < changed < 8


def test_arrays_in_a_data_set(tmp_path):
    features = datasets.Features(
        {"image": datasets.Array3D((2, SIDE, SIDE), "uint8"), "annotation": datasets.Array2D((SIDE, SIDE), "uint8")}
    )
    labels = (RAMP > 99).astype(np.uint8)
    rows = datasets.Dataset.from_dict({"image": [CHANNELS[:2]], "annotation": [labels]}, features=features)
    levels, found = read_row(rows, 0, LabelMap(2), 2)
    assert np.array_equal(levels.numpy(), CHANNELS[:2])
    assert np.array_equal(found, labels)


def test_an_image_of_other_channels_is_refused_with_its_file(data_set, tmp_path):
    rows = data_set("a.png", Image.fromarray(np.dstack([RAMP, RAMP // 2, RAMP])))
    with pytest.raises(InvalidImageError, match=rf"{tmp_path}/images/train/a\.png: expected .*4 channels.*, got .*3"):
        read_row(rows, 0, LabelMap(2), 4)
