"""Cityscapes and ADE20K, in the forms in which they are handed out but of a few pixels, and their presets."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("datasets", reason="the train extra is not installed")

import datasets

from helpers.example_runs import run_here
from hf_privseg import SetrForSemanticSegmentation
from hf_privseg.catalog.class_files import class_names_of
from hf_privseg.catalog.datasets import PRESETS
from hf_privseg.setr.segmentation_map_inputs import IGNORE_INDEX
from hf_privseg.training.arguments import DataArguments
from hf_privseg.training.data import load_segmentation_dataset
from hf_privseg.training.label_map import LabelMap

HEIGHT, WIDTH = 32, 64
RNG = np.random.default_rng(0)
CITIES = {"train": ["aachen", "bremen"], "val": ["lindau"]}


def image():
    return Image.fromarray(RNG.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8))


def raw_ids(licence_plate=255):
    """All ids of Cityscapes, side by side, and below them a licence plate."""
    ids = np.resize(np.arange(34), (HEIGHT, WIDTH)).astype(np.uint16 if licence_plate > 255 else np.uint8)
    ids[HEIGHT // 2 :] = licence_plate
    return ids


def train_ids(ids):
    """The same by the names of the classes, independently of the tables under test."""
    evaluated = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    return [[evaluated.index(k) if k in evaluated else IGNORE_INDEX for k in row] for row in ids.tolist()]


@pytest.fixture
def cityscapes(tmp_path):
    """The folder that the data set's packages unpack to, the files that nobody needs here among it."""
    root = tmp_path / "cityscapes"
    for split, cities in CITIES.items():
        for city in cities:
            for kind in ("leftImg8bit", "gtFine"):
                (root / kind / split / city).mkdir(parents=True)
            for frame in ("000000_000019", "000001_000019"):
                image().save(root / "leftImg8bit" / split / city / f"{city}_{frame}_leftImg8bit.png")
                target = root / "gtFine" / split / city
                Image.fromarray(raw_ids()).save(target / f"{city}_{frame}_gtFine_labelIds.png")
                Image.fromarray(raw_ids() * 7).save(target / f"{city}_{frame}_gtFine_instanceIds.png")
                image().save(target / f"{city}_{frame}_gtFine_color.png")
                (target / f"{city}_{frame}_gtFine_polygons.json").write_text("{}")
    return root


def label_map(preset):
    return LabelMap.from_files(len(PRESETS[preset].class_names), None, None, None, preset)


class TestCityscapes:
    def test_the_folder(self, cityscapes):
        train = load_segmentation_dataset(cityscapes, split="train")
        assert train.column_names == ["image", "annotation"]
        assert len(train) == 4
        assert [Path(image.filename).parent.name for image in train["image"]] == ["aachen"] * 2 + ["bremen"] * 2
        row = load_segmentation_dataset(cityscapes, split="val")[1]
        assert (
            Path(row["annotation"].filename).name
            == Path(row["image"].filename).name.replace("leftImg8bit", "gtFine_labelIds")
            == "lindau_000001_000019_gtFine_labelIds.png"
        )
        assert label_map("cityscapes")(row["annotation"]).tolist() == train_ids(raw_ids())

    def test_its_errors(self, cityscapes):
        with pytest.raises(FileNotFoundError, match=r"leftImg8bit/test; the splits .* are \['train', 'val'\]"):
            load_segmentation_dataset(cityscapes, split="test")
        (cityscapes / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png").unlink()
        with pytest.raises(
            FileNotFoundError, match=r"1 of 2 images .* expected lindau_000000_000019_gtFine_labelIds with"
        ):
            load_segmentation_dataset(cityscapes, split="val")
        for path in (cityscapes / "leftImg8bit/val/lindau").iterdir():
            path.rename(cityscapes / "leftImg8bit/val" / path.name)
        with pytest.raises(
            FileNotFoundError, match=r"Expected images \(<city>/\*_leftImg8bit.png\) in .*val, found no"
        ):
            load_segmentation_dataset(cityscapes, split="val")

    def test_training_ids_are_taken_where_there_are_no_raw_ids(self, cityscapes):
        for path in cityscapes.glob("gtFine/*/*/*_labelIds.png"):
            with Image.open(path) as image:
                classes = Image.fromarray(np.array(train_ids(np.array(image)), np.uint8))
            classes.save(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
            path.unlink()
        arguments = DataArguments(dataset=str(cityscapes), preset="cityscapes")
        row = arguments.load_split("val")[1]
        assert row["annotation"].filename.endswith("lindau_000001_000019_gtFine_labelTrainIds.png")
        with warnings.catch_warnings(action="error"):
            found, statistics = arguments.inspect_labels(
                "val", arguments.load_split("val"), arguments.load_class_names(), quiet=True
            )
        assert found(row["annotation"]).tolist() == train_ids(raw_ids())
        assert statistics.pixels.min() > 0

    def test_colours_are_refused_and_named(self, cityscapes):
        arguments = DataArguments(
            dataset=str(cityscapes), preset="cityscapes", annotation_pattern="{stem}_gtFine_color"
        )
        with pytest.raises(ValueError, match=r"_gtFine_color\.png: .*mode 'RGB'; if it shows classes as colours"):
            arguments.inspect_labels("val", arguments.load_split("val"), arguments.load_class_names())

    @pytest.mark.parametrize("mode", ["RGB", "RGBA"])
    def test_parquet_with_raw_ids_in_every_channel(self, tmp_path, mode):
        mask = Image.fromarray(np.repeat(raw_ids()[..., None], 3, axis=-1)).convert(mode)
        columns = {"image": [image()], "semantic_segmentation": [mask]}
        features = datasets.Features({name: datasets.Image() for name in columns})
        datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "train.parquet")
        rows = load_segmentation_dataset(tmp_path, split="train", annotation_column="semantic_segmentation")
        assert rows[0]["annotation"].mode == mode
        assert label_map("cityscapes")(rows[0]["annotation"]).tolist() == train_ids(raw_ids())

    def test_licence_plates_have_no_class_however_their_minus_one_is_stored(self, tmp_path):
        for stored in (255, 65535):
            Image.fromarray(raw_ids(stored)).save(tmp_path / "labels.png")
            labels = label_map("cityscapes")(Image.open(tmp_path / "labels.png"))
            assert labels.tolist() == train_ids(raw_ids(stored))
            assert (labels[HEIGHT // 2 :] == IGNORE_INDEX).all()
        assert (label_map("cityscapes")(np.full((2, 2), -1)) == IGNORE_INDEX).all()


class TestAde20k:
    @pytest.fixture
    def folder(self, tmp_path):
        root = tmp_path / "ADEChallengeData2016"
        for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
            for kind in ("images", "annotations"):
                (root / kind / split).mkdir(parents=True)
            image().save(root / "images" / split / f"{name}.jpg")
            labels = np.resize(np.arange(151), (HEIGHT, WIDTH)).astype(np.uint8)
            Image.fromarray(labels).save(root / "annotations" / split / f"{name}.png")
        (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tStuff\tName\n")
        return root

    @pytest.mark.parametrize("split", ["training", "validation"])
    def test_the_folder(self, folder, split):
        (row,) = load_segmentation_dataset(folder, split=split)
        labels = label_map("ade20k")(row["annotation"]).ravel()
        assert labels[:151].tolist() == [IGNORE_INDEX, *range(150)]

    def test_parquet(self, folder, tmp_path):
        rows = load_segmentation_dataset(folder, split="training")
        (tmp_path / "parquet").mkdir()
        rows.to_parquet(tmp_path / "parquet" / "train.parquet")
        (row,) = load_segmentation_dataset(tmp_path / "parquet", split="train")
        assert label_map("ade20k")(row["annotation"]).ravel()[:3].tolist() == [IGNORE_INDEX, 0, 1]

    def test_a_label_beyond_its_classes_is_named(self):
        with pytest.raises(
            ValueError, match=r"expected labels 0 \.\. 149, or one of \(255,\) \(ignored\), got \[151\]"
        ):
            label_map("ade20k")(np.array([[150, 151]]))


class TestPresetAndOptions:
    def test_camvid(self):
        assert label_map("camvid")(np.array([[0, 10, 11, 255]])).tolist() == [[0, 10, IGNORE_INDEX, IGNORE_INDEX]]

    def test_without_a_preset_the_defaults_are_the_class_s(self):
        assert LabelMap.from_files(5, None, None, None) == LabelMap(5)

    def test_what_is_given_comes_before_the_preset(self, tmp_path):
        assert LabelMap.from_files(150, [0, 7], None, False, "ade20k") == LabelMap(150, (0, 7))
        (tmp_path / "map.json").write_text('{"7": 0, "8": 1}')
        mapped = LabelMap.from_files(2, None, str(tmp_path / "map.json"), None, "cityscapes")
        assert mapped == LabelMap(2, None, {7: 0, 8: 1})
        (tmp_path / "names.json").write_text('{"classes": ["road", "rest"]}')
        assert class_names_of(tmp_path, tmp_path / "names.json", "cityscapes") == {0: "road", 1: "rest"}

    def test_names_of_a_preset_need_no_file(self, tmp_path):
        names = class_names_of(tmp_path, preset="cityscapes")
        assert (len(names), names[0], names[18]) == (19, "road", "bicycle")
        with pytest.raises(FileNotFoundError, match=r"or one of the presets cityscapes, ade20k, camvid"):
            class_names_of(tmp_path)

    def test_a_model_of_other_classes_is_refused(self):
        with pytest.raises(
            ValueError, match="expected 19 classes, as the preset 'cityscapes' has, got 11; give a label"
        ):
            LabelMap.from_files(11, None, None, None, "cityscapes")

    def test_an_unknown_preset_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="got 'coco'"):
            LabelMap.from_files(11, None, None, None, "coco")
        with pytest.raises(ValueError, match="got 'coco'"):
            class_names_of(tmp_path, preset="coco")


@pytest.mark.slow
def test_training_on_cityscapes_needs_its_folder_and_the_preset(cityscapes, inputs, tmp_path):
    options = {"dataset": cityscapes, "preset": "cityscapes", "vit": inputs / "vit", "output_dir": tmp_path / "out"}
    options |= {"crop_size": 32, "epochs": 1, "batch_size": 2, "num_workers": 0, "warmup_steps": 1}
    settings = [part for name in options for part in (f"--{name}", options[name])]
    done = run_here("train_setr.py", "--cpu", *settings)
    assert done.returncode == 0, done.stderr[-3000:]
    config = SetrForSemanticSegmentation.from_pretrained(tmp_path / "out").config
    assert (config.num_labels, config.id2label[13]) == (19, "car")
    assert [tuple(colour) for colour in config.palette] == list(PRESETS["cityscapes"].palette)
    (record,) = json.loads((tmp_path / "out" / "training.json").read_text())["history"]
    assert 0 <= record["mean_iou"] < 0.5
    assert "--preset cityscapes" in (tmp_path / "out" / "README.md").read_text()
