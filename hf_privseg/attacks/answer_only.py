"""An image from its segmentation map alone: the floor under every encryption, because the provider sees the map.

Blocks of pixels are regressed on the classes within and around them, on pairs of the attacker's own: public images,
and their maps by the model or by hand. A network may refine the regression (`learned_inversion.py`). What it recovers
are the outlines between classes and their usual colours.

Assumptions: pairs of maps and images of similar scenes. Cost: a solution of some hundred equations; the network takes
a minute.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .learned_inversion import Budget, LearnedInverter, Progress, train_inverter
from .tools.blocks import LinearDecoder
from .tools.classes import class_raster

RIDGE = 1e-4  # beside mean squares of features, which are shares


@dataclass(frozen=True)
class MapDecoder:
    """Estimates images from segmentation maps.

    Attributes:
        inverter: from the classes in a block to its pixels.
        num_labels: classes of a map.
    """

    inverter: LinearDecoder | LearnedInverter
    num_labels: int

    def decode(self, segmentation_map: np.ndarray, down: int, across: int) -> np.ndarray:
        """(h, w) class ids of an image of down x across blocks -> (down, across, L), estimated pixels in [-1, 1]."""
        return self.inverter.decode(map_features(segmentation_map, down, across, self.num_labels))


def map_features(segmentation_map: np.ndarray, down: int, across: int, num_labels: int) -> np.ndarray:
    """(h, w) class ids -> (down, across, M) float64, the classes on a raster in each block and its eight neighbours.

    Args:
        segmentation_map: of any size; other values than class ids stand for no class.
        down: blocks from top to bottom.
        across: blocks from left to right.
        num_labels: number of classes.
    """
    raster = class_raster(segmentation_map, down, across, num_labels)
    blocks = raster.reshape(down, across, -1)
    shares = np.pad(raster.mean(axis=2), ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = [shares[top : top + down, left : left + across] for top in range(3) for left in range(3)]
    return np.concatenate([blocks, *around], axis=-1)


def train_map_decoder(
    images: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    num_labels: int,
    *,
    budget: Budget | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> MapDecoder:
    """Images and their segmentation maps -> what turns other maps into images.

    Args:
        images: plain grids (down, across, L) of the attacker's own. They must not be the victims.
        maps: (h, w) class ids, one for each image, of any size.
        num_labels: number of classes.
        budget: of a network behind the regression; None for the regression alone.
        seed: of the network's training.
        progress: as for `train_inverter`.

    Raises:
        ValueError: images and maps are not as many, or too few or too small for the network.
    """
    if len(images) != len(maps) or not images:
        raise ValueError(f"expected a segmentation map for each image, got {len(images)} images, {len(maps)} maps")
    seen = [map_features(m, grid.shape[0], grid.shape[1], num_labels) for grid, m in zip(images, maps, strict=True)]
    linear = _regress(seen, images)
    if budget is None:
        return MapDecoder(linear, num_labels)
    length = images[0].shape[-1]
    pairs = [np.concatenate(pair, axis=-1) for pair in zip(images, seen, strict=True)]
    inverter = train_inverter(
        pairs, lambda pair, _: pair[..., length:], linear, length=length, budget=budget, seed=seed, progress=progress
    )
    return MapDecoder(inverter, num_labels)


def _regress(seen: Sequence[np.ndarray], images: Sequence[np.ndarray]) -> LinearDecoder:
    """Ridge regression of blocks on what is seen of them, accumulated image by image."""
    count = sum(grid.shape[0] * grid.shape[1] for grid in images)
    rows = [
        (s.reshape(-1, s.shape[-1]), grid.reshape(-1, grid.shape[-1])) for s, grid in zip(seen, images, strict=True)
    ]
    seen_mean, mean = (sum(part.sum(axis=0) for part in parts) / count for parts in zip(*rows, strict=True))
    products = sum((s - seen_mean).T @ (s - seen_mean) for s, _ in rows) / count
    cross = sum((s - seen_mean).T @ (grid - mean) for s, grid in rows) / count
    ridge = RIDGE * np.eye(len(products))
    matrix = np.linalg.solve(products + ridge, cross)
    return LinearDecoder(matrix, mean - seen_mean @ matrix)
