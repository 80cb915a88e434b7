"""PNG files: Pillow reads what is written, with every number of channels and either filter, and they are small."""

import io

import numpy as np
import pytest
from PIL import Image

from hf_privseg.setr import png_file
from hf_privseg.setr.png_file import png_bytes

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


@pytest.fixture(autouse=True, params=["isal", "zlib"])
def deflate(request, monkeypatch):
    """Which library packs the pixels."""
    if request.param == "isal":
        pytest.importorskip("isal")
    else:
        monkeypatch.setattr(png_file, "isal_zlib", None)
    return request.param


def read(data: bytes) -> tuple[np.ndarray, Image.Image]:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        array = np.array(image)
    return (array[None] if array.ndim == 2 else array.transpose(2, 0, 1)), image


def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def slope(shape: tuple[int, ...]) -> np.ndarray:
    return (
        np.random.default_rng(0).integers(0, 4, shape).cumsum(axis=-1).astype(np.uint8)
    )  # runs over 255 now and then


@pytest.mark.parametrize("channels", MODES)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (40, 1), (33, 70)], ids=str)
@pytest.mark.parametrize("make", [noise, slope], ids=lambda make: make.__name__)
def test_pillow_reads_what_is_written(channels, size, make):
    levels = make((channels, *size))
    found, image = read(png_bytes(levels, {"one": "a", "two": "\u00e9"}))
    np.testing.assert_array_equal(found, levels)
    assert (image.mode, image.info) == (MODES[channels], {"one": "a", "two": "\u00e9"})


def test_the_filter_is_the_one_that_packs_better():
    sizes = {}
    for make in (noise, slope):
        data = png_bytes(make((3, 64, 512)), {})
        sizes[make] = len(data)
        assert read(data)[1].size == (512, 64)
    assert sizes[noise] < 1.02 * 3 * 64 * 512  # Average would not make it smaller, and None is no larger than raw
    assert sizes[slope] < 0.8 * 3 * 64 * 512  # None takes .99
