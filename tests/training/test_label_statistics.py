"""The look at the labels with which every training and evaluation starts: counts, warnings, remedies, refusals."""

import json
import re
import warnings

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("datasets", reason="the train extra is not installed")

from hf_privseg.catalog.datasets import PRESETS
from hf_privseg.training.arguments import DataArguments
from hf_privseg.training.data import load_segmentation_dataset
from hf_privseg.training.label_map import LabelMap
from hf_privseg.training.label_statistics import LabelStatistics
from hf_privseg.training.stored_labels import StoredLabels, form_of

NAMES = {0: "background", 1: "object"}


def folder_with(root, maps, ending=".png"):
    """A data set with these segmentation maps in its split train."""
    for kind in ("images", "annotations"):
        (root / kind / "train").mkdir(parents=True)
    for index, stored in enumerate(maps):
        stored = np.asarray(stored)
        Image.new("RGB", stored.shape[1::-1]).save(root / "images" / "train" / f"{index}.png")
        Image.fromarray(stored).save(root / "annotations" / "train" / f"{index}{ending}")
    (root / "classes.json").write_text(json.dumps(NAMES))
    return root


def half(left, right, columns=10, dtype=np.uint8):
    """A map of two rows, half of it with one label and half with the other."""
    return np.repeat(np.array([[left] * (columns // 2) + [right] * (columns - columns // 2)], dtype), 2, axis=0)


def statistics(root, maps, label_map, names=NAMES):
    rows = load_segmentation_dataset(folder_with(root, maps), split="train")
    return LabelStatistics.of(StoredLabels.of("train", rows), label_map, names)


def test_the_table_counts_pixels_and_images(tmp_path):
    found = statistics(tmp_path, [half(0, 1), half(0, 0), half(0, 255)], LabelMap(2))
    assert found.pixels.tolist() == [10 + 20 + 10, 10]
    assert found.images.tolist() == [3, 1]
    assert found.void == {255: 10}
    assert found.rows() == [
        ["0", "background", "66.67%", "3"],
        ["1", "object", "16.67%", "1"],
        ["", "void", "16.67%", ""],
    ]
    assert found.warnings() == []


def test_labels_of_any_size_are_counted(tmp_path):
    stored = np.array([[0, 0, 3], [70000, 70000, 70000]], np.int32)
    rows = load_segmentation_dataset(folder_with(tmp_path, [stored], ".tif"), split="train")
    assert StoredLabels.of("train", rows).counts == ({0: 2, 3: 1, 70000: 3},)


def test_a_sample_is_evenly_spaced_and_says_how_large_it_is(tmp_path):
    rows = load_segmentation_dataset(folder_with(tmp_path, [half(k, k) for k in range(9)]), split="train")
    stored = StoredLabels.of("train", rows, limit=3)
    assert [list(counts) for counts in stored.counts] == [[0], [4], [8]]
    assert stored.describe() == "3 of the 9 images of train"
    stream = load_segmentation_dataset(tmp_path, split="train", streaming=True)
    stored = StoredLabels.of("train", stream, limit=3)
    assert [list(counts) for counts in stored.counts] == [[0], [1], [2]]
    assert stored.describe() == "3 images of train"


def test_masks_of_0_and_255_warn_with_the_label_map_that_mends_them(tmp_path):
    arguments = DataArguments(dataset=str(folder_with(tmp_path, [half(0, 255)] * 3)))
    rows = arguments.load_split("train")
    with pytest.warns(UserWarning, match="of one class") as caught:
        arguments.inspect_labels("train", rows, NAMES)
    (warning,) = [str(each.message) for each in caught]
    assert "all labelled pixels in 3 images of train are of one class, background" in warning
    assert "the stored labels 255 count as void" in warning
    (tmp_path / "map.json").write_text(warning.partition("--label-map FILE with ")[2])
    arguments.label_map = str(tmp_path / "map.json")
    with warnings.catch_warnings(action="error"):
        label_map, found = arguments.inspect_labels("train", rows, NAMES)
    assert found.pixels.tolist() == [30, 30]
    assert label_map(rows[0]["annotation"])[0].tolist() == [0] * 5 + [1] * 5


MOSTLY_VOID = np.where(np.arange(40) < 38, 7, np.arange(40) % 3)[None].astype(np.uint8)


@pytest.mark.parametrize(
    ("stored", "ignored", "message"),
    [
        (
            half(0, 1),
            255,
            r"no pixel in 1 image of train is of the classes 2 \(c\)\. .*stored labels are 0, 1$",
        ),
        (MOSTLY_VOID, 7, r"^95\.0% of the pixels in 1 image of train are void: the stored labels 7 count as void\. "),
        (half(1, 1), 255, "are of one class, b, from which a model learns nothing. If that is wrong, .*FILE with"),
    ],
    ids=["absent", "void", "single"],
)
def test_what_looks_wrong_is_a_warning(tmp_path, stored, ignored, message):
    found = statistics(tmp_path, [stored], LabelMap(3, (ignored,)), {0: "a", 1: "b", 2: "c"}).warnings()
    assert re.search(message, found[0])


def test_no_labelled_pixel_is_an_error(tmp_path):
    found = statistics(tmp_path, [half(0, 255)], LabelMap(2, (0, 255)))
    with pytest.raises(
        ValueError, match=r"got none in 1 image of train, for example .*0\.png: the stored labels 0, 255 count as void"
    ):
        found.warnings()


def test_a_stored_label_without_class_names_its_file(tmp_path):
    with pytest.raises(ValueError, match=r"annotations/train/1\.png: expected labels 0 \.\. 1, .* got \[7\]"):
        statistics(tmp_path, [half(0, 1), half(0, 7)], LabelMap(2))


def test_a_map_of_colours_names_its_file(tmp_path):
    colours = np.zeros((2, 4, 3), np.uint8)
    colours[0, 0] = 1, 2, 3
    rows = load_segmentation_dataset(folder_with(tmp_path, [half(0, 1), colours]), split="train")
    with pytest.raises(ValueError, match=r"annotations/train/1\.png: expected a segmentation map .* mode 'RGB'"):
        StoredLabels.of("train", rows)


class TestCityscapesForms:
    """The form is told by names, else by values; `names` gives the files' ending."""

    def form(self, tmp_path, maps, ending="", pattern=None):
        folder_with(tmp_path, maps, f"{ending}.png")
        pattern = pattern or f"{{stem}}{ending}"
        rows = load_segmentation_dataset(tmp_path, split="train", annotation_pattern=pattern)
        return form_of(StoredLabels.of("train", rows), PRESETS["cityscapes"])

    @pytest.mark.parametrize(
        ("ending", "stored", "expected"),
        [
            ("_labelIds", half(7, 8), [0, 1]),
            ("_labelTrainIds", half(7, 8), [7, 8]),
            ("", half(7, 26), [0, 13]),
            ("", half(7, 18), [7, 18]),
            ("", half(0, 255), [0, 255]),
        ],
        ids=["raw name", "class name", "raw values", "class values", "void is 255 in both"],
    )
    def test_raw_ids_and_classes_are_told_apart(self, tmp_path, ending, stored, expected):
        form = self.form(tmp_path, [stored], ending)
        label_map = LabelMap.from_files(19, None, None, None, "cityscapes", form.label_map)
        assert label_map(stored)[0, [0, -1]].tolist() == expected

    def test_ids_of_objects_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"\*_labelIds or \*_labelTrainIds, got \*_instanceIds with ids of"):
            self.form(tmp_path, [half(7, 26001, dtype=np.uint16)])

    def test_a_preset_with_one_form_needs_no_choice(self, tmp_path):
        rows = load_segmentation_dataset(folder_with(tmp_path, [half(0, 1)]), split="train")
        assert form_of(StoredLabels.of("train", rows), PRESETS["ade20k"]) is None

    def test_the_label_map_of_the_options_follows_the_form(self, tmp_path):
        maps = [np.arange(19, dtype=np.uint8)[None], half(3, 255)]
        folder_with(tmp_path, maps)
        arguments = DataArguments(dataset=str(tmp_path), preset="cityscapes")
        names = arguments.load_class_names()
        with warnings.catch_warnings(action="error"):
            label_map, found = arguments.inspect_labels("train", arguments.load_split("train"), names, quiet=True)
        assert label_map(maps[0])[0].tolist() == list(range(19))
        assert found.pixels.tolist() == [11 if label == 3 else 1 for label in range(19)]
