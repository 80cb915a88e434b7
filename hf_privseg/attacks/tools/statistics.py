"""Second moments of blocks and of neighbouring blocks: what a fixed linear cipher cannot hide.

A cipher b_hat = b M turns each of the three matrices C below into M^T C M, with the same M: blocks stay in place and
share the key. The C of natural images are similar everywhere, and the ciphertext-only attacks rest on that.
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
        num_blocks: how many blocks were seen; 0 where the moments come from a formula.
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
        raise ValueError("expected at least one grid of 2 x 2 blocks or more, since neighbouring blocks are compared")
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


def with_equal_channels(
    statistics: BlockStatistics, num_channels: int, num_wanted: int, *, correlation: float
) -> BlockStatistics:
    """Moments of blocks of `num_channels` -> of `num_wanted` channels, which are all alike.

    Every channel gets the moments of the given blocks, averaged over all pairs of channels.

    Args:
        statistics: of blocks of num_channels * patch_size**2 pixels, flattened (channel, row, column).
        num_channels: channels of the given blocks.
        num_wanted: channels of the result.
        correlation: between two channels of one pixel of the result.
    """
    colours = np.full((num_wanted, num_wanted), correlation)
    np.fill_diagonal(colours, 1.0)

    def spread(moment: np.ndarray) -> np.ndarray:
        size = len(moment) // num_channels
        return np.kron(colours, moment.reshape(num_channels, size, num_channels, size).mean(axis=(0, 2)))

    mean = np.tile(statistics.mean.reshape(num_channels, -1).mean(axis=0), num_wanted)
    covariance, right, below = map(spread, (statistics.covariance, statistics.right, statistics.below))
    return BlockStatistics(mean, covariance, right, below, statistics.num_blocks)


def correlations(statistics: BlockStatistics) -> list[np.ndarray]:
    """Moments -> correlations [inside a block, with its right neighbour, with its lower neighbour]."""
    scale = 1 / np.sqrt(np.diag(statistics.covariance) + 1e-6)
    return [moment * np.outer(scale, scale) for moment in (statistics.covariance, statistics.right, statistics.below)]


def without_block_mean(moments: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The correlations of pixels minus the mean of their block, which no order of pixels changes."""
    centred = [moment - moment.mean(0) - moment.mean(1)[:, None] + moment.mean() for moment in moments]
    scale = 1 / np.sqrt(np.maximum(np.diag(centred[0]), 0) + 1e-6)
    return [moment * np.outer(scale, scale) for moment in centred]
