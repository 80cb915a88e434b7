"""Second moments of blocks and of neighbouring blocks: what a fixed linear cipher cannot hide.

A cipher b_hat = b M turns each of the three matrices C below into M^T C M, with the same M: blocks stay in place and
share the key. Photographs everywhere have similar C, which is what the ciphertext-only attacks rest on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BlockStatistics:
    """Moments of blocks b with mean m, each (L, L) float64 but the mean.

    Attributes:
        mean: (L,), E[b].
        covariance: E[(b - m)^T (b - m)].
        right: E[(b - m)^T (r - m)] with r the block to the right of b.
        below: E[(b - m)^T (d - m)] with d the block below b.
        num_blocks: how many blocks were seen; 0 for a model of them.
    """

    mean: np.ndarray
    covariance: np.ndarray
    right: np.ndarray
    below: np.ndarray
    num_blocks: int = 0


def block_statistics(grids: Sequence[np.ndarray]) -> BlockStatistics:
    """Grids (down, across, L) of any sizes, plain or encrypted with one key -> their moments.

    Raises:
        ValueError: there is no grid, or none has neighbours in both directions.
    """
    if not grids or all(grid.shape[0] < 2 for grid in grids) or all(grid.shape[1] < 2 for grid in grids):
        raise ValueError("expected at least one grid of 2 x 2 blocks or more; the neighbours are what is compared")
    length = grids[0].shape[-1]
    num_blocks = sum(grid.shape[0] * grid.shape[1] for grid in grids)
    mean = np.sum([grid.sum(axis=(0, 1)) for grid in grids], axis=0) / num_blocks
    sums, counts = np.zeros((3, length, length)), np.zeros(3)
    for grid in grids:
        centred = grid - mean
        pairs = ((centred, centred), (centred[:, :-1], centred[:, 1:]), (centred[:-1], centred[1:]))
        for kind, (here, there) in enumerate(pairs):
            sums[kind] += here.reshape(-1, length).T @ there.reshape(-1, length)
            counts[kind] += here.shape[0] * here.shape[1]
    covariance, right, below = sums / counts[:, None, None]
    return BlockStatistics(mean, covariance, right, below, num_blocks)
