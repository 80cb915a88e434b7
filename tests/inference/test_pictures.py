"""Palettes, label maps as pictures, and shares of classes."""

import numpy as np
import pytest
from PIL import Image

from helpers.tiny_setr import tiny_config
from hf_privseg.inference import pictures as visualization


def test_every_label_has_a_colour_of_its_own() -> None:
    palette = visualization.palette_for(tiny_config(num_labels=150))
    assert palette.shape == (150, 3)
    assert palette.dtype == np.uint8
    assert len({tuple(colour) for colour in palette.tolist()}) == 150
    assert palette[0].tolist() == [0x88, 0xCC, 0xEE]


def test_a_palette_of_the_configuration_is_used() -> None:
    config = tiny_config(num_labels=2, palette=[[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    assert visualization.palette_for(config).tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("palette", "message"),
    [
        pytest.param([[1, 2, 3]], r"hold 2 or more .* shape \(1, 3\)", id="too-short"),
        pytest.param([[1, 2], [3, 4]], r"shape \(2, 2\)", id="no-colours"),
        pytest.param([[1, 2, 3], [4, 5, 256]], r"in 0\.\.255", id="out-of-range"),
    ],
)
def test_a_palette_of_another_form_is_refused(palette: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        visualization.palette_for(tiny_config(num_labels=2, palette=palette))


def test_more_labels_than_an_indexed_png_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 256 labels, as an indexed PNG holds, got 257"):
        visualization.palette_for(tiny_config(num_labels=257))


def test_the_pixels_of_the_picture_are_the_labels(tmp_path) -> None:
    labels = np.arange(6).reshape(2, 3)
    palette = visualization.palette_for(tiny_config(num_labels=6))
    visualization.segmentation_map_to_picture(labels, palette).save(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as picture:
        assert np.array_equal(np.array(picture), labels)
        assert np.array_equal(np.array(picture.convert("RGB")), palette[labels])


def test_an_overlay_lies_between_photo_and_colours() -> None:
    palette = np.array([[200, 0, 100]], np.uint8)
    tinted = visualization.overlay(Image.new("RGB", (2, 1), (100, 100, 100)), np.zeros((1, 2), int), palette, 0.5)
    assert np.array(tinted).tolist() == [[[150, 50, 100]] * 2]


def test_shares_count_every_pixel_of_every_map_once() -> None:
    shares = visualization.class_shares([np.zeros((1, 1), int), np.array([[1, 1, 2]])], 4)
    assert shares.tolist() == [0.25, 0.5, 0.25, 0.0]


def test_a_legend_has_the_classes_that_a_map_shows() -> None:
    config = tiny_config(num_labels=3, id2label={0: "sky", 1: "road", 2: "tree"})
    few = np.array([[0] * 999 + [1]])
    legend = visualization.legend_for(config, [few, np.array([[2, 2, 255]]), np.array([[255]])])
    assert list(legend) == ["sky", "tree"]
    assert legend["tree"].tolist() == visualization.palette_for(config)[2].tolist()


def test_a_comparison_makes_room_for_rows_of_any_shape_and_for_every_name(tmp_path) -> None:
    pytest.importorskip("matplotlib")

    def size(*rows, names=2):
        panels = [[visualization.Panel(Image.new("RGB", shape), "title", "note")] * 2 for shape in rows]
        legend = {f"a class with a long name {n}": np.zeros(3, np.uint8) for n in range(names)}
        visualization.draw_comparison(tmp_path / "x.png", panels, legend, ["caption"])
        with Image.open(tmp_path / "x.png") as picture:
            return np.array(picture.size) / 110

    wide, tall, both = size((40, 20)), size((20, 20)), size((40, 20), (20, 20))
    assert tall[1] - wide[1] == pytest.approx(2.2, abs=0.02)  # half of a panel's width
    assert both[1] == pytest.approx(wide[1] + 4.4 + 0.72, abs=0.02)
    assert size((40, 20), names=40)[1] > wide[1] + 2  # forty names do not fit on one line
