"""Whatever holds a segmentation map becomes class indices, or is refused with a reason."""

import numpy as np
import pytest
import torch
from PIL import Image

from hf_privseg import InvalidImageError
from hf_privseg.setr.segmentation_map_inputs import (
    flat_segmentation_maps,
    segmentation_map_to_indices,
    segmentation_maps_to_indices,
)

RNG = np.random.default_rng(7)
PIXELS = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)  # height 20, width 30
IMAGE = Image.fromarray(PIXELS)
INDICES = RNG.integers(0, 200, (20, 30), dtype=np.uint8)


@pytest.mark.parametrize(
    "label_map",
    [
        INDICES,
        INDICES.astype(np.int32),
        INDICES.astype(">u2"),
        torch.from_numpy(INDICES),
        INDICES[None],
        INDICES[..., None],
        Image.fromarray(INDICES),
        Image.fromarray(INDICES.astype(np.uint16)),
        Image.fromarray(INDICES.astype(np.int32)),
    ],
    ids=["uint8", "int32", "big endian", "torch", "1HW", "HW1", "L", "I;16", "I"],
)
def test_label_maps_of_every_kind_give_the_same_indices(label_map):
    (flat,) = flat_segmentation_maps(label_map)
    indices = segmentation_map_to_indices(flat)
    assert indices.dtype == torch.int64
    assert np.array_equal(indices, INDICES)


def test_a_palette_label_map_gives_indices_not_colours():
    image = Image.fromarray(np.array([[0, 1, 2, 255]], np.uint8), "P")
    image.putpalette([200, 100, 50] * 256)
    assert segmentation_map_to_indices(image).tolist() == [[0, 1, 2, 255]]


@pytest.mark.parametrize("mode", ["LA", "RGB", "RGBA"])
def test_an_index_in_every_colour_is_the_index_whatever_the_opacity(mode):
    stored = Image.fromarray(INDICES.astype(np.uint8)).convert(mode)
    if mode != "RGB":
        stored.putalpha(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30).astype(np.uint8)))
    assert np.array_equal(segmentation_map_to_indices(stored), INDICES)
    assert np.array_equal(segmentation_map_to_indices(np.array(stored)), INDICES)


def test_label_maps_beyond_8_bits_and_negative_ones_are_kept():
    assert segmentation_map_to_indices(np.array([[-100, 70000]])).tolist() == [[-100, 70000]]
    assert segmentation_map_to_indices(np.array([[True, False]])).tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        (IMAGE, r"got the shape \(20, 30, 3\) of a PIL image of mode 'RGB'; if it shows classes as colours"),
        (IMAGE.convert("CMYK"), "one channel that holds class indices, got a PIL image of mode 'CMYK'"),
        (PIXELS, r"class indices, got the shape \(20, 30, 3\); if it shows classes as colours"),
        (INDICES / 2, r"map of integers, got torch\.float64; .* \.astype\('int64'\)"),
        (np.zeros((0, 3), int), r"got an array of shape \(0, 3\)"),
        (None, "got a NoneType"),
    ],
    ids=["RGB", "CMYK", "array", "fractions", "empty", "None"],
)
def test_what_is_no_label_map_is_refused(label_map, message):
    with pytest.raises(InvalidImageError, match=message):
        segmentation_map_to_indices(label_map)


@pytest.mark.parametrize("num_channels", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "form", [np.asarray, torch.from_numpy, lambda array: [array]], ids=["array", "tensor", "list"]
)
def test_an_index_in_every_channel_of_an_array_is_the_index_of_one_image(form, num_channels):
    labels = np.random.default_rng(0).integers(0, 5, (6, 8))
    opacity = np.full((6, 8, 1), 9)
    colours = np.repeat(labels[..., None], 1 if num_channels < 3 else 3, axis=2)
    stored = colours if num_channels % 2 else np.concatenate([colours, opacity], axis=2)
    assert stored.shape[2] == num_channels
    (found,) = segmentation_maps_to_indices(form(stored), [(6, 8)], reduce=False)
    assert np.array_equal(found, labels)
    batch = np.stack([labels, labels[::-1]])
    assert np.array_equal(torch.stack(segmentation_maps_to_indices(batch, [(6, 8)] * 2, reduce=False)), batch)
