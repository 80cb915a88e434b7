"""The classes that blocks show: the provider computes the segmentation maps, and knows which block is sky.

Blocks of one class have moments of their own. A fixed linear cipher b_hat = b M turns each of them by the same M as it
does the moments of all blocks, so every class is one more equation for M.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .blocks import as_rows

CELLS = 4  # a side of a block: the classes are read off a raster of so many points
LEAST_SHARE = 0.002  # rarer classes have too few blocks


@dataclass(frozen=True)
class KnownClasses:
    """The classes in the blocks of ciphertexts, and in those of images of the attacker's own.

    Attributes:
        seen: (down, across, n) for each ciphertext, the shares of n classes in each block.
        grids: plain grids (down, across, L) of the attacker's own.
        known: (down, across, n) for each of those.
    """

    seen: Sequence[np.ndarray]
    grids: Sequence[np.ndarray]
    known: Sequence[np.ndarray]


def class_raster(segmentation_map: np.ndarray, down: int, across: int, num_labels: int) -> np.ndarray:
    """(h, w) class ids of an image of down x across blocks -> (down, across, CELLS**2, num_labels), 1 or 0.

    Args:
        segmentation_map: of any size; other values than class ids stand for no class.
        down: blocks from top to bottom.
        across: blocks from left to right.
        num_labels: number of classes.
    """
    places = (
        ((np.arange(count * CELLS) + 0.5) * side / (count * CELLS)).astype(int)
        for count, side in zip((down, across), segmentation_map.shape, strict=True)
    )
    cells = (segmentation_map[np.ix_(*places)][..., None] == np.arange(num_labels)).astype(np.float64)
    blocks = cells.reshape(down, CELLS, across, CELLS, num_labels).transpose(0, 2, 1, 3, 4)
    return blocks.reshape(down, across, -1, num_labels)


def known_classes(
    seen: Sequence[np.ndarray],
    sizes: Sequence[tuple[int, int]],
    grids: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
) -> KnownClasses:
    """Segmentation maps of ciphertexts and of the attacker's own images -> the classes in their blocks.

    Args:
        seen: (h, w) class ids, one map for each ciphertext, of any size.
        sizes: (down, across) of the ciphertexts' grids.
        grids: plain grids (down, across, L) of the attacker's own.
        maps: (h, w) class ids, one for each of those: by another model, or by hand.
    """
    num_labels = 1 + max(int(each.max()) for each in (*seen, *maps))
    own_sizes = [(grid.shape[0], grid.shape[1]) for grid in grids]
    return KnownClasses(_shares(seen, sizes, num_labels), grids, _shares(maps, own_sizes, num_labels))


def class_moments(
    encrypted: Sequence[np.ndarray], plain: Sequence[np.ndarray], classes: KnownClasses
) -> tuple[np.ndarray, np.ndarray]:
    """Components (down, across, m) of ciphertexts and of `classes.grids` -> twice (n, m, m), n common classes.

    Both are E[x^T x] within a class, about the mean of all blocks, times the smaller of the class's two shares.
    """
    (seen, seen_shares), (known, known_shares) = (
        _within(encrypted, classes.seen),
        _within(plain, classes.known),
    )
    weights = np.minimum(seen_shares, known_shares)
    common = weights >= LEAST_SHARE
    weights = weights[common, None, None]
    return seen[common] * weights, known[common] * weights


def is_negative_by_classes(aligned: Sequence[np.ndarray], plain: Sequence[np.ndarray], classes: KnownClasses) -> bool:
    """Components of ciphertexts, aligned up to one sign, and of `classes.grids` -> whether the sign is wrong.

    The means of classes differ alike in both: sky is brighter than road.
    """
    (seen, seen_shares), (known, known_shares) = _means(aligned, classes.seen), _means(plain, classes.known)
    weights = np.minimum(seen_shares, known_shares)
    centre = weights / max(weights.sum(), 1e-12)
    return float(weights @ np.sum((seen - centre @ seen) * (known - centre @ known), axis=1)) < 0


def _shares(maps: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]], num_labels: int) -> list[np.ndarray]:
    """-> (down, across, num_labels) for each map."""
    return [
        class_raster(each, down, across, num_labels).mean(axis=2)
        for each, (down, across) in zip(maps, sizes, strict=True)
    ]


def _means(components: Sequence[np.ndarray], shares: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """-> (n, m) E[x | class], and (n,) the share of each class in all blocks."""
    rows, weights = as_rows(components), as_rows(shares)
    totals = weights.sum(axis=0)
    return (weights.T @ rows) / np.maximum(totals, 1e-12)[:, None], totals / len(rows)


def _within(components: Sequence[np.ndarray], shares: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """-> (n, m, m) E[x^T x | class], and (n,) the share of each class in all blocks."""
    rows, weights = as_rows(components), as_rows(shares)
    totals = weights.sum(axis=0)
    sums = np.stack([(rows * weight[:, None]).T @ rows for weight in weights.T])
    return sums / np.maximum(totals, 1e-12)[:, None, None], totals / len(rows)
