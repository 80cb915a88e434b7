"""The known data sets: names, colours and label maps fit each other, and are the published ones."""

import ast
from pathlib import Path

import pytest

from hf_privseg.catalog import datasets as presets
from hf_privseg.catalog.datasets import PRESETS, preset_named

VOID_IDS = {0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30}  # of Cityscapes' 34, not evaluated


@pytest.mark.parametrize(("name", "count"), [("cityscapes", 19), ("ade20k", 150), ("camvid", 11)])
def test_every_class_has_a_name_and_a_colour(name, count):
    preset = preset_named(name)
    assert len(preset.class_names) == len(set(preset.class_names)) == len(preset.palette) == count
    assert all(len(colour) == 3 and 0 <= min(colour) <= max(colour) <= 255 for colour in preset.palette)


def test_cityscapes_maps_what_is_evaluated():
    label_map = PRESETS["cityscapes"].label_map
    assert label_map is not None
    assert set(label_map) == set(range(34)) - VOID_IDS
    assert list(label_map.values()) == list(range(19))


@pytest.mark.parametrize(
    ("name", "index", "label", "colour"),
    [
        ("cityscapes", 0, "road", (128, 64, 128)),
        ("cityscapes", 16, "train", (0, 80, 100)),
        ("cityscapes", 18, "bicycle", (119, 11, 32)),
        ("ade20k", 0, "wall", (120, 120, 120)),
        ("ade20k", 44, "chest of drawers", (6, 51, 255)),
        ("ade20k", 149, "flag", (92, 0, 255)),
        ("camvid", 4, "pavement", (60, 40, 222)),
    ],
)
def test_names_and_colours_at_their_published_places(name, index, label, colour):
    preset = PRESETS[name]
    assert (preset.class_names[index], preset.palette[index]) == (label, colour)


def test_an_unknown_name_lists_the_choices():
    with pytest.raises(ValueError, match=r"one of the presets cityscapes, ade20k, camvid, got 'coco'"):
        preset_named("coco")


def test_the_table_imports_nothing_heavy():
    tree = ast.parse(Path(presets.__file__).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"dataclasses"}
    assert not any(isinstance(node, ast.Import) for node in ast.walk(tree))
