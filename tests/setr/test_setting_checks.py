"""Settings of an image processor that anyone may have written: accepted, or refused with one kind of error."""

import json
import random

import numpy as np
import pytest

from hf_privseg import SetrImageProcessor
from hf_privseg.setr.patch_grid import PatchGrid

IMAGE = np.zeros((24, 32, 3), np.uint8)
NAMES = [
    *("patch_size", "num_channels", "do_resize", "size", "resize_factor", "resample", "do_pad", "pad_value"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "do_convert_rgb"),
    *("do_reduce_labels", "do_center_crop", "crop_size", "pad_size"),
]
VALUES: list[object] = [
    *(None, True, 0, -1, 1, 3, 16, 2**31, 10**30, 10**400, 1e308, -1.5, 0.5, float("nan"), float("inf"), "", "16"),
    *([], [None], [1], [64, 64], [0.5] * 3, [0.5] * 4, ["a"] * 3, [[[]]], {}, {"a": {"b": {}}}),
    *({"height": None, "width": 3}, {"height": 16, "width": 16}, {"height": 10**9, "width": 10**9}),
    *({"height": 2**20, "width": 2**20}, {"shortest_edge": 10**12}, {"shortest_edge": "a"}, {"shortest_edge": -1}),
    *({"height": 1.5, "width": 2}, {"shortest_edge": float("nan")}, {"longest_edge": 5}, {"shortest_edge": 10**5}),
]


def outcome(settings):
    """Whether an image is processed by these settings; raises whatever else than ValueError comes."""
    try:
        SetrImageProcessor.from_dict(dict(settings))(IMAGE)
    except ValueError:
        return "refused"
    return "accepted"


@pytest.mark.parametrize("name", NAMES)
def test_each_setting_of_any_value_is_accepted_or_refused(name):
    outcomes = {outcome({name: value}) for value in VALUES}
    assert "refused" in outcomes


def test_settings_together_are_accepted_or_refused():
    rng = random.Random(0)
    outcomes = [outcome({name: rng.choice(VALUES) for name in rng.sample(NAMES, 2)}) for _ in range(500)]
    assert set(outcomes) == {"accepted", "refused"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": [None]}, r"size is whole pixels from 1 to 1048576: .*, got \[None\]"),
        ({"do_pad": "yes"}, "do_pad is True or False, got 'yes'"),
        (
            {"image_std": [0.5, 0.0, 0.5]},
            r"image_std is a positive number, or one a channel, got \[0\.5, 0\.0, 0\.5\]",
        ),
        ({"resample": 9}, "resample is one of PIL's resampling filters, 0 to 5, got 9"),
        ({"num_channels": 10**9}, "num_channels is an int from 1 to 1024, got 1000000000"),
        (
            {"size": {"height": 2**20, "width": 2**20}},
            "at most 134217728 pixels, .* make 1048576 x 1048576 of 24 x 32",
        ),
        ({"resize_factor": 1e6}, "at most 134217728 pixels, .* resize_factor=1000000.0, which make"),
    ],
    ids=str,
)
def test_the_error_names_the_setting(settings, message):
    for use in (
        lambda: SetrImageProcessor(**settings)(IMAGE),
        lambda: SetrImageProcessor()(IMAGE, **settings),
    ):
        with pytest.raises(ValueError, match=message):
            use()


def test_a_file_of_huge_sizes_is_refused_before_anything_is_allocated(tmp_path):
    SetrImageProcessor().save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"patch_size": 10**6}))
    with pytest.raises(ValueError, match="patch_size is an int from 1 to 4096, got 1000000"):
        SetrImageProcessor.from_pretrained(tmp_path)


def test_a_long_thin_image_is_not_enlarged_without_bound():
    grid = PatchGrid(16, True, {"shortest_edge": 4096}, 1.0, False)
    with pytest.raises(ValueError, match="which make 4096 x 409600 of 1 x 100"):
        grid.valid_region((1, 100))
    assert grid.valid_region((100, 100)) == (4096, 4096)
