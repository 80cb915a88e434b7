"""Folders of images and segmentation maps: which files belong together, and which cannot hold labels."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("datasets", reason="the train extra is not installed")

from hf_privseg.training.data import load_segmentation_dataset
from hf_privseg.training.folders import paired_files

LABELS = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)


def folder_with(root, annotations, images=("a.jpg", "b.png")):
    for kind, names in (("images", images), ("annotations", annotations)):
        (root / kind / "train").mkdir(parents=True)
        for name in names:
            picture = Image.fromarray(LABELS) if kind == "annotations" else Image.new("RGB", (3, 2))
            picture.save(root / kind / "train" / name)
    return root


@pytest.mark.parametrize(
    ("annotations", "pattern"),
    [
        (("a.png", "b.png"), None),
        (("a.PNG", "b.tif"), None),
        (("a.bmp", "b.GIF"), None),
        (("a_mask.png", "b_mask.png"), "{stem}_mask"),
        (("a_L.png", "b_L.TIFF"), "{stem}_L"),
        (("a_labelIds.png", "b_labelIds.png", "a_color.png", "b_color.png"), "{stem}_labelIds"),
        (("label.a.png", "label.b.png"), "label.{stem}"),
    ],
    ids=["png", "PNG and tif", "bmp and GIF", "_mask", "_L", "_labelIds beside _color", "prefix"],
)
def test_segmentation_maps_are_found_by_suffix_and_pattern(tmp_path, annotations, pattern):
    folder = folder_with(tmp_path, annotations, ("a.jpg", "b.png", ".b.png"))
    found_images, found = paired_files(folder, "train", pattern)
    assert [path.name for path in found_images] == ["a.jpg", "b.png"]
    assert [path.name for path in found] == list(annotations[:2])
    rows = load_segmentation_dataset(folder, split="train", annotation_pattern=pattern)
    assert np.array_equal(np.array(rows[1]["annotation"]), LABELS)


@pytest.mark.parametrize(
    ("annotations", "pattern", "error", "message"),
    [
        (
            ("a_mask.png", "b_mask.png"),
            None,
            FileNotFoundError,
            r"2 of 2 images .* expected a with .*; there is a_mask\.png: --annotation-pattern {stem}_mask finds",
        ),
        (
            ("a_mask.png", "b.png"),
            None,
            FileNotFoundError,
            r"no segmentation map for 1 of 2 images .* expected a with [^;]*$",
        ),
        (("a.png", "b.png"), "mask", ValueError, r"an annotation pattern with {stem}, .*, got 'mask'"),
        (("a.jpg", "b.png"), None, ValueError, r"lossless format, got .*a\.jpg: the compression of \.jpg changes"),
        (("a.png", "b.WEBP"), None, ValueError, r"lossless format, got .*b\.WEBP"),
        (("a.png", "b.png", "b.tif"), None, ValueError, r"one segmentation map an image, got .*b\.png and .*b\.tif"),
    ],
    ids=["pattern needed", "one lacks", "no stem", "jpeg", "webp", "two"],
)
def test_what_cannot_be_paired_is_refused_with_the_file(tmp_path, annotations, pattern, error, message):
    with pytest.raises(error, match=message):
        paired_files(folder_with(tmp_path, annotations), "train", pattern)
