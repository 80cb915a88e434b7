"""Palettes, segmentation maps as pictures, shares of classes, and comparisons."""

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
    assert palette[0].tolist() == [0x8B, 0xD1, 0xF3]


# What is seen of linear RGB (Machado, Oliveira and Fernandes 2009, severity 1; their table 1).
SIGHTS = {
    "normal": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("sight", SIGHTS)
def test_any_two_of_the_first_twelve_colours_stay_apart_for_colour_blind_readers(sight: str) -> None:
    color = pytest.importorskip("skimage.color")
    seen = visualization.palette_for(tiny_config(num_labels=12)) / 255
    linear = np.where(seen <= 0.04045, seen / 12.92, ((seen + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.transpose(SIGHTS[sight]), 0, 1)
    shown = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    lab = color.rgb2lab(shown[None])[0]
    apart = color.deltaE_ciede2000(lab[:, None], lab[None]) + 100 * np.eye(12)
    assert apart.min() >= 10


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


def test_an_overlay_lies_between_image_and_colours() -> None:
    palette = np.array([[200, 0, 100]], np.uint8)
    tinted = visualization.overlay(Image.new("RGB", (2, 1), (100, 100, 100)), np.zeros((1, 2), int), palette, 0.5)
    assert np.array(tinted).tolist() == [[[150, 50, 100]] * 2]


def test_shares_count_every_pixel_of_every_map_once() -> None:
    shares = visualization.class_shares([np.zeros((1, 1), int), np.array([[1, 1, 2]])], 4)
    assert shares.tolist() == [0.25, 0.5, 0.25, 0.0]


def test_a_legend_names_every_colour_that_a_picture_shows() -> None:
    config = tiny_config(num_labels=4, id2label={0: "sky", 1: "road", 2: "tree", 3: "car"})
    few = np.array([[0] * 9990 + [1] * 9 + [3] * 11])
    maps = [few, np.array([[2, 2, 255]]), np.array([[255]])]
    found = visualization.colouring_for(config, maps)
    palette = visualization.palette_for(config)
    assert list(found.legend) == ["sky", "tree", "car", "other"]  # 9 of 10 010 pixels are too few for a name
    for name, index in {"sky": 0, "tree": 2, "car": 3}.items():
        assert found.legend[name].tolist() == found.palette[index].tolist() == palette[index].tolist()
    assert found.legend["other"].tolist() == found.palette[1].tolist() == [128, 128, 128]
    named = {tuple(colour) for colour in found.legend.values()}
    assert {tuple(found.palette[label]) for each in maps for label in each.ravel() if label < 4} == named


def test_a_legend_lists_the_forty_largest_classes_at_most() -> None:
    shares = [np.full(1000 - 10 * index, index) for index in range(60)]
    found = visualization.colouring_for(tiny_config(num_labels=60), [np.concatenate(shares)])
    assert list(found.legend) == [*(f"LABEL_{index}" for index in range(40)), "other"]
    assert "other" not in visualization.colouring_for(tiny_config(num_labels=2), [np.array([0, 1])]).legend
    assert visualization.colouring_for(tiny_config(num_labels=2), [np.array([255])]).legend == {}


@pytest.mark.parametrize("size", [(31, 22), (640, 427), (3000, 2000)])
def test_below_a_picture_its_legend_shows_each_colour_beside_a_name_and_the_picture_stays(size) -> None:
    colours = [(139, 209, 243), (131, 20, 56), (20, 131, 77)]
    legend = {f"a class {n}": np.array(colour, np.uint8) for n, colour in enumerate(colours)}
    picture = Image.new("RGB", size, (1, 2, 3))
    shown = np.array(visualization.with_legend(picture, legend))
    assert (shown[: size[1], : size[0]] == (1, 2, 3)).all()
    below = shown[size[1] :]
    text = max(12, max(size) // 50)
    for colour in colours:
        rows, columns = np.nonzero((below == colour).all(axis=-1))
        assert rows.size == pytest.approx((text - 1) ** 2, rel=0.3)
        beside = below[rows.min() : rows.max(), columns.max() + 2 : columns.max() + 5 * text]
        assert (beside.max(axis=-1) < 100).mean() > 0.02  # the name
    assert (below[:, -2:] == 255).all()  # nothing is cut off at the right


SHAPES = {"wide": [(40, 10)], "tall": [(20, 40)], "both": [(40, 20), (20, 30)], "three": [(40, 20)] * 3}


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("num_names", [0, 3, 40])
def test_in_a_comparison_nothing_lies_on_anything_else(shapes, num_names, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    rows = [[visualization.Panel(Image.new("RGB", shape), "A title", "and a note")] * 2 for shape in shapes]
    rows[-1] = rows[-1][: 2 if len(rows) == 1 else 1]  # the last row may have fewer
    legend = {f"a class with a long name {n}": np.zeros(3, np.uint8) for n in range(num_names)}
    captions = ["a caption " * 30, "another " * 60]
    figure = visualization.comparison_figure(rows, legend, captions)
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    panels, below, bottom = figure.subfigs
    boxes = [item.get_window_extent() for item in (*below.legends, *bottom.texts)]
    filled = [axes for axes in panels.axes if axes.images]
    assert len(filled) == sum(map(len, rows))
    for axes in filled:
        title = next(text for text in axes.get_children() if getattr(text, "get_text", str)() == "A title")
        boxes += [item.get_window_extent() for item in (title, *axes.texts, *axes.images)]
    for index, box in enumerate(boxes):
        assert box.width > 0 or not num_names
        assert figure.bbox.padded(1).contains(*box.min), (index, box)
        assert figure.bbox.padded(1).contains(*box.max), (index, box)
        assert [other for other in boxes[:index] if box.padded(-1).overlaps(other)] == [], index
    pictures = [axes.images[0].get_window_extent() for axes in filled]
    assert min(picture.width for picture in pictures) > 0.85 * figure.bbox.width / 2
    if num_names == 3:
        visualization.draw_comparison(tmp_path / "x.png", rows, legend, captions)
        with Image.open(tmp_path / "x.png") as picture:
            assert picture.size == pytest.approx(figure.get_size_inches() * 110, abs=1)


def test_titles_above_pictures_of_slightly_different_shapes_are_not_cut_off(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    sizes = ((640, 427), (1072, 720), (640, 427))
    note = "agrees with the plain model on 100.00% of pixels"
    rows = [[visualization.Panel(Image.new("RGB", size), "Image", note) for size in sizes]] * 2
    visualization.draw_comparison(tmp_path / "x.png", rows, {"sky": np.zeros(3, np.uint8)}, ["a caption " * 50] * 2)
    with Image.open(tmp_path / "x.png") as picture:
        pixels = np.array(picture.convert("L"))
    assert pixels[:4].min() == 255
    assert pixels[4:40].min() < 100
