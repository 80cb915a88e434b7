"""Resizing of 8-bit images with NumPy alone, to the levels that torchvision's antialiased resizing gives.

Each side is resized by itself, the width first. The weights of the source pixels, of a filter that widens with the
reduction, are rounded to 16-bit integers at the highest precision that they fit in, and sums to the nearest level.
torchvision does the same wherever it resizes in 8 bits, which is on processors with AVX2 or AVX-512, and on arm64 from
version 0.27 on.
"""

from collections.abc import Callable

import numpy as np
from PIL.Image import Resampling

_MAX_PRECISION = 22  # bits behind the binary point
_STRIP = 1 << 16  # pixels that are summed at once, so that they stay in the cache


def _triangle(distance: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(distance), 0.0)


def _cubic(distance: np.ndarray) -> np.ndarray:
    """The cubic convolution of Keys (1981) with a = -1/2, as in Pillow."""
    x = np.abs(distance)
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


_FILTERS: dict[int, tuple[Callable[[np.ndarray], np.ndarray], int]] = {  # the filter, and how far it reaches
    Resampling.BILINEAR: (_triangle, 1),
    Resampling.BICUBIC: (_cubic, 2),
}


def resized(levels: np.ndarray, size: tuple[int, int], resample: int | None = None) -> np.ndarray:
    """(channels, height, width) uint8 -> the same at another size (height, width).

    Args:
        levels: the image.
        size: in pixels.
        resample: one of PIL's filters NEAREST, BILINEAR and BICUBIC; None is BILINEAR.

    Raises:
        ValueError: another filter.
    """
    kind = Resampling.BILINEAR if resample is None else Resampling(int(resample))
    if kind not in (Resampling.NEAREST, *_FILTERS):
        raise ValueError(
            f"expected a resample of NEAREST (0), BILINEAR (2) or BICUBIC (3), got {kind.name} ({kind.value}); other "
            "filters need SetrImageProcessor: pip install 'hf-privseg[models]'"
        )
    for axis, side in ((-1, size[1]), (-2, size[0])):
        if side != levels.shape[axis]:
            levels = _along(levels, side, axis, kind)
    return levels


def _along(levels: np.ndarray, side: int, axis: int, kind: Resampling) -> np.ndarray:
    scale = levels.shape[axis] / side
    if kind == Resampling.NEAREST:
        places = (scale * (np.arange(side) + 0.5)).astype(np.int64)
        return np.take(levels, np.minimum(places, levels.shape[axis] - 1), axis=axis)
    first, weights, precision = _weights(levels.shape[axis], side, kind)
    places = [np.minimum(first + offset, levels.shape[axis] - 1) for offset in range(weights.shape[1])]
    factors = list(weights.T if axis == -1 else weights.T[:, :, None])
    shape = list(levels.shape)
    shape[axis] = side
    found = np.empty(shape, np.uint8)
    across, step = -3 - axis, max(1, _STRIP // side)
    for plane, target in zip(levels, found, strict=True):
        for start in range(0, plane.shape[across], step):
            strip = (slice(start, start + step), slice(None))[:: 1 if axis == -1 else -1]
            target[strip] = _weighted_sum(plane[strip], axis, places, factors, precision)
    return found


def _weighted_sum(
    levels: np.ndarray, axis: int, places: list[np.ndarray], factors: list[np.ndarray], precision: int
) -> np.ndarray:
    """(rows, columns) uint8 -> levels as int32, for each of the places along the axis their sum with these factors."""
    total = np.full(1, 1 << (precision - 1), np.int32)  # rounds half up
    for place, factor in zip(places, factors, strict=True):
        total = total + np.take(levels, place, axis=axis, mode="clip") * factor
    return (total >> precision).clip(0, 255)


def _weights(old: int, new: int, kind: Resampling) -> tuple[np.ndarray, np.ndarray, int]:
    """Length before and after -> first source pixel (new,), weights (new, n) int32 from there on, and their scale."""
    shape, reach = _FILTERS[kind]
    scale = old / new
    widening = max(scale, 1.0)
    centre = scale * (np.arange(new) + 0.5)
    first = np.maximum((centre - reach * widening + 0.5).astype(np.int64), 0)
    count = np.minimum((centre + reach * widening + 0.5).astype(np.int64), old) - first
    offsets = np.arange(count.max())
    weights = shape((offsets + first[:, None] - centre[:, None] + 0.5) * (1 / widening))
    weights = np.where(offsets < count[:, None], weights, 0.0)
    weights /= np.add.accumulate(weights, axis=1)[:, -1:]  # in this order; `sum` adds in pairs
    precision = 0
    while precision < _MAX_PRECISION and int(0.5 + weights.max() * (1 << (precision + 1))) < 1 << 15:
        precision += 1
    scaled = weights * (1 << precision)
    return first, np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int32), precision
