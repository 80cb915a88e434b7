"""Sizes on the patch grid."""

from typing import Any

import pytest

from hf_privseg import InvalidImageError
from hf_privseg.setr.centring import Centring
from hf_privseg.setr.patch_grid import (
    PatchGrid,
    check_on_grid,
    nearest_multiple,
    whole_patches,
)


def grid(**settings: object) -> PatchGrid:
    defaults = {"patch_size": 16, "do_resize": True, "size": None, "resize_factor": 1.0, "do_pad": False}
    return PatchGrid.of({**defaults, "other": "ignored", **settings})


@pytest.mark.parametrize(
    ("settings", "size", "expected"),
    [
        ({}, (480, 352), (480, 352)),
        ({}, (487, 361), (480, 368)),
        ({}, (488, 360), (496, 368)),
        ({}, (1, 7), (16, 16)),
        ({"patch_size": 14}, (480, 352), (476, 350)),
        ({"patch_size": 4}, (30, 45), (32, 44)),
        ({"resize_factor": 1.5}, (480, 352), (720, 528)),
        ({"resize_factor": 0.01}, (480, 352), (16, 16)),
        ({"size": {"height": 100, "width": 200}}, (480, 352), (96, 208)),
        ({"size": {"height": 100, "width": 200}, "resize_factor": 2.0}, (480, 352), (96, 208)),
        ({"size": {"shortest_edge": 256}}, (480, 352), (352, 256)),
        ({"size": {"shortest_edge": 256, "longest_edge": 300}}, (480, 240), (304, 144)),
        ({"size": {"shortest_edge": 256, "longest_edge": 1000}}, (480, 240), (512, 256)),
        ({"do_resize": False}, (487, 361), (487, 361)),
        ({"do_resize": None}, (487, 361), (487, 361)),
        ({"do_pad": True}, (487, 361), (487, 361)),
        ({"do_pad": True, "resize_factor": 0.5}, (487, 361), (244, 181)),
    ],
    ids=str,
)
def test_the_valid_region_is_the_size_after_resizing(settings, size, expected):
    assert grid(**settings).valid_region(size) == expected


def test_padding_goes_to_whole_patches_and_only_where_asked_for():
    assert grid(do_pad=True).padded((487, 361)) == (496, 368)
    assert grid(do_pad=True).padded((480, 352)) == (480, 352)
    assert grid().padded((487, 361)) == (487, 361)
    assert whole_patches((1, 32), 16) == (16, 32)


def test_the_nearest_size_on_the_grid_is_rounded_half_upwards_and_holds_one_patch():
    assert [nearest_multiple(side, 16) for side in (1, 23, 24, 39, 40, 40.5)] == [16, 16, 32, 32, 48, 48]


def test_a_size_off_the_grid_is_refused_with_the_nearest():
    check_on_grid((32, 48), 16, what="a size", advice="resize it")
    for sides, got in (((37, 48), "37 x 48; the nearest is 32 x 48: "), ((0,), "0; the nearest is 16: ")):
        with pytest.raises(ValueError, match=f"a size must be a multiple of the patch size 16, got {got}resize it"):
            check_on_grid(sides, 16, what="a size", advice="resize it")
    with pytest.raises(InvalidImageError, match="got 5; the nearest is 4: resize it"):
        check_on_grid((5,), 4, what="a size", advice="resize it", error=InvalidImageError)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 0}, "patch_size is an int from 1 to 4096, got 0"),
        ({"patch_size": 16.0}, "patch_size is an int from 1 to 4096, got 16.0"),
        ({"patch_size": True}, "got True"),
        ({"resize_factor": 0}, "resize_factor is a positive number, got 0"),
        ({"resize_factor": float("nan")}, "got nan"),
        ({"resize_factor": float("inf")}, "got inf"),
        ({"size": {"height": 100}}, r"size is None, .* got \{'height': 100\}"),
        ({"size": {"longest_edge": 100}}, r"got \{'longest_edge': 100\}"),
        ({"size": {"max_height": 1, "max_width": 2}}, "got {'max_height': 1, 'max_width': 2}"),
        ({"size": {"height": 0, "width": 5}}, "got {'height': 0, 'width': 5}"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        grid(**settings)


def pad_level(pad_value: Any, is_8_bits: bool = True, **centring: Any) -> object:
    return Centring(**{"image_mean": 0.5, "image_std": 0.5, **centring}).before(pad_value, is_8_bits=is_8_bits)


def test_padding_is_the_nearest_level_before_centring():
    assert pad_level(0.0) == 128
    assert [pad_level(-1.0), pad_level(1.0)] == [0, 255]
    assert pad_level([-1.0, 0.5, 1.0], image_mean=(0.5,) * 3, image_std=(0.5,) * 3) == [0, 191, 255]
    assert pad_level(0.0, image_mean=(0.485, 0.456, 0.406), image_std=(0.229, 0.224, 0.225)) == [124, 116, 104]
    assert pad_level(0.25, False, do_rescale=False) == 0.625
    assert pad_level(7, do_rescale=False, do_normalize=False) == 7


def test_padding_beyond_8_bits_is_refused():
    with pytest.raises(ValueError, match=r"pad_value in normalised units, got 128: 16448\.0 in 0\.\.255"):
        pad_level(128)
