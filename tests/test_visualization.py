"""Palettes, label maps as pictures, and shares of classes."""

import numpy as np
import pytest
from PIL import Image
from tiny_setr import tiny_config

from hf_privseg import visualization


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
    visualization.label_map_to_picture(labels, palette).save(tmp_path / "map.png")
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
