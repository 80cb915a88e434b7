"""Counts in sentences."""

import pytest

from hf_privseg.setr.counts import counted


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [(0, "image", "0 images"), (1, "image", "1 image"), (2, "image", "2 images"), (1, "class", "1 class"),
     (11, "class", "11 classes"), (1000, "channel", "1000 channels")],
)  # fmt: skip
def test_one_is_in_the_singular(number, noun, expected):
    assert counted(number, noun) == expected
