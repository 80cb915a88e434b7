"""Restricted permutations of blocks and of pixels (`hf_privseg.baselines.RestrictedCipher`), from ciphertexts alone.

One order moves the pixels of all blocks alike, another one moves the blocks, and a share of either keeps its place.
The share is public, and that is what the attack holds on to: the pixels that stay say where those belong that do not,
and the blocks that stay are the pieces of a jigsaw that lie right already. Both orders start from the identity and are
found by assignments, each under a bonus for staying that is just large enough for the share:

1. Pixels. No order of blocks changes the correlations inside a block. A pixel goes where images of the attacker's own
   have correlations like its own with all the others.
2. Blocks. Now that blocks look like pieces of images, a block goes where its seams fit those of its neighbours.
3. Again, with the correlations of neighbouring blocks, which are neighbours now.

Without any restriction there is nothing to hold on to, and this attack finds nothing. Jigsaw attacks on such ciphers
without restriction: Chuman and Kiya, "A Jigsaw Puzzle Solver-Based Attack on Image Encryption Using Vision Transformer
for Privacy-Preserving DNNs", Information 14(6):311, 2023.

Assumptions: all ciphertexts given are of one size and share one key; one is enough. Cost: some tens of assignments of
the L pixels and of the N blocks, about five seconds on one core for L = 768, N = 165.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from .tools.priors import ImagePrior
from .tools.statistics import block_statistics, correlations, without_block_mean

_TURNS = 3  # of pixels and blocks
_ROUNDS = 10  # of assignments, at most; each starts where the one before it ended
_HALVINGS = 8  # of the bonus for staying


@dataclass(frozen=True)
class RestrictedEstimate:
    """An estimated key, and the decoder that undoes it.

    Attributes:
        blocks: (N,) int64, block i of a ciphertext, counted row by row, is block blocks[i] of the image.
        pixels: (L,) int64, pixel i of a ciphertext's block is pixel pixels[i] of the plain one (channel, row, column).
    """

    blocks: np.ndarray
    pixels: np.ndarray

    def decode(self, grid: np.ndarray) -> np.ndarray:
        """(down, across, L) ciphertext in [-1, 1] -> the same shape, estimated plain pixels."""
        return _blocks_undone(_pixels_undone(grid, self.pixels), self.blocks)


def recover_restricted(
    ciphertexts: Sequence[np.ndarray], prior: ImagePrior, *, fixed_blocks: float, fixed_pixels: float
) -> RestrictedEstimate:
    """Grids (down, across, L) of one size, encrypted with one key, and a prior -> the estimated key.

    Args:
        ciphertexts: one or more grids of 2 x 2 blocks or more.
        prior: of plain blocks of the same length.
        fixed_blocks: the share of the blocks that keep their places, 0 to 1.
        fixed_pixels: the share of a block's values that do.

    Raises:
        ValueError: grids of several sizes or of another block length than the prior's, or a share not in 0 .. 1.
    """
    shapes = {grid.shape for grid in ciphertexts}
    length = len(prior.statistics.mean)
    if len(shapes) != 1 or next(iter(shapes))[-1] != length:
        raise ValueError(
            f"expected ciphertexts of one size, with blocks of {length} values as the prior has them, got the shapes "
            f"{sorted(shapes)}; images of another size have another order of blocks"
        )
    if not (0 <= fixed_blocks <= 1 and 0 <= fixed_pixels <= 1):
        raise ValueError(
            f"expected shares in 0 .. 1, got {fixed_blocks} of the blocks and {fixed_pixels} of the pixels"
        )
    down, across, _ = next(iter(shapes))
    blocks, pixels = np.arange(down * across), np.arange(length)
    for turn in range(_TURNS):
        in_place = [_blocks_undone(grid, blocks) for grid in ciphertexts]
        num_moments = 1 if turn == 0 else 3  # neighbours mean little before the blocks are in place
        seen, known = (correlations(each)[:num_moments] for each in (block_statistics(in_place), prior.statistics))
        pixels = _settled(pixels, fixed_pixels, _pixel_scores(seen, known))
        plain = [_pixels_undone(grid, pixels) for grid in ciphertexts]
        blocks = _settled(blocks, fixed_blocks, _block_scores(plain, prior.num_channels))
    return RestrictedEstimate(blocks, pixels)


def _settled(order: np.ndarray, fixed: float, score: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """An order (n,), and what scores each place of each element given an order -> the order at which that settles."""
    for _ in range(_ROUNDS):
        found = _assigned(score(order), fixed)
        if np.array_equal(found, order):
            break
        order = found
    return order


def _assigned(score: np.ndarray, fixed: float) -> np.ndarray:
    """(n, n) scores -> the best order (n,) under the least bonus for staying with which the fixed share stays."""
    stay, wanted = np.eye(len(score)), round(fixed * len(score))

    def under(bonus: float) -> tuple[np.ndarray, bool]:
        order = linear_sum_assignment(score + bonus * stay, maximize=True)[1]
        return order, int(np.count_nonzero(order == np.arange(len(order)))) >= wanted

    best, is_enough = under(0.0)
    if is_enough:
        return best
    low, high = 0.0, float(score.std()) + 1e-12
    while not (found := under(high))[1]:
        low, high = high, 4 * high
    best = found[0]
    for _ in range(_HALVINGS):
        bonus = (low + high) / 2
        order, is_enough = under(bonus)
        if is_enough:
            best, high = order, bonus
        else:
            low = bonus
    return best


def _pixel_scores(seen: Sequence[np.ndarray], known: Sequence[np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Correlations -> for an order, (L, L) how like each pixel's row of them is to each place's."""
    moments = [*zip(seen, known, strict=True), *zip(without_block_mean(seen), without_block_mean(known), strict=True)]
    pairs = [*moments, *((one.T, two.T) for one, two in moments if len(seen) > 1)]

    def score(order: np.ndarray) -> np.ndarray:
        total = np.zeros_like(seen[0])
        for one, two in pairs:
            laid = two[:, order]
            total += 2 * one @ laid.T - (laid**2).sum(axis=1)
        return total

    return score


def _block_scores(grids: Sequence[np.ndarray], num_channels: int) -> Callable[[np.ndarray], np.ndarray]:
    """Grids of blocks out of place -> for an order, (N, N) how well each block fits its neighbours at each place."""
    down, across, _ = grids[0].shape
    places = np.arange(down * across).reshape(down, across)
    beside, below = (np.zeros((places.size, places.size)) for _ in range(2))
    beside[places[:, :-1].ravel(), places[:, 1:].ravel()] = 1
    below[places[:-1].ravel(), places[1:].ravel()] = 1
    pairs = list(zip(_seams(grids, num_channels), (beside, below), strict=True))

    def score(order: np.ndarray) -> np.ndarray:
        total = np.zeros_like(beside)
        for fits, neighbours in pairs:
            total += fits @ neighbours.T[order] + fits.T @ neighbours[order]
        return total

    return score


def _seams(grids: Sequence[np.ndarray], num_channels: int) -> list[np.ndarray]:
    """Grids -> [(N, N), (N, N)]: how well block j goes to the right of block i, and below it, 0 to 1."""
    costs = [np.zeros((grids[0][..., 0].size,) * 2) for _ in range(2)]
    for grid in grids:
        side = int((grid.shape[-1] // num_channels) ** 0.5)
        block = grid.reshape(-1, num_channels, side, side)
        for cost, (first, second) in zip(
            costs, ((block[..., -1], block[..., 0]), (block[..., -1, :], block[..., 0, :])), strict=True
        ):
            one, two = (edge.reshape(len(edge), -1) for edge in (first, second))
            apart = (one**2).sum(axis=1)[:, None] + (two**2).sum(axis=1) - 2 * one @ two.T
            cost += apart / (np.median(apart) + 1e-12)
    for cost in costs:
        np.fill_diagonal(cost, np.inf)
    return [np.exp(-cost / (np.median(cost.min(axis=1)) + 1e-9)) for cost in costs]


def _pixels_undone(grid: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    found = np.empty_like(grid)
    found[..., pixels] = grid
    return found


def _blocks_undone(grid: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    rows = grid.reshape(-1, grid.shape[-1])
    found = np.empty_like(rows)
    found[blocks] = rows
    return found.reshape(grid.shape)
