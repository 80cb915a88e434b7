"""A key that moves blocks and, alike in all of them, pixels, from one image known in plain and encrypted.

Neither order hides which values a block has. So the plain and the encrypted blocks are paired by their sorted values
(Hungarian method); then `match_traces` finds the order of the pixels. Blocks whose values are alike but lie otherwise
are told apart last, with the pixels in place. This ends restricted permutations
(`hf_privseg.baselines.RestrictedCipher`) whatever share of them stays in place, none included, as Li et al. show of
permutation-only ciphers (see `known_plaintext`).

Assumptions: both images are of one size and share the key. A key of its own for every image leaves nothing to decode.
Cost: O(N^2 L + N^3 + L^3) for N blocks of L values, about a second for N = 165, L = 768 on one core.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from .known_plaintext import RecoveredPermutation, match_traces


@dataclass(frozen=True)
class MovedBlocks:
    """An estimated key, and the decoder that undoes it.

    Attributes:
        blocks: (N,) int64, block i of a ciphertext, counted row by row, is block blocks[i] of the image.
        pixels: the order of a block's values, without signs.
    """

    blocks: np.ndarray
    pixels: RecoveredPermutation

    def decode(self, grid: np.ndarray) -> np.ndarray:
        """(down, across, L) ciphertext in [-1, 1] -> the same shape, plain pixels.

        Raises:
            ValueError: the grid has another number of blocks, which another order moves.
        """
        rows = grid.reshape(-1, grid.shape[-1])
        if len(rows) != len(self.blocks):
            raise ValueError(
                f"expected a ciphertext of {len(self.blocks)} blocks, as the known image has, got {len(rows)}"
            )
        plain = np.empty_like(rows)
        plain[self.blocks] = self.pixels.decode(rows)
        return plain.reshape(grid.shape)


def recover_moved_blocks(plain: np.ndarray, encrypted: np.ndarray) -> MovedBlocks:
    """One image, plain and encrypted, (down, across, L) each, in [-1, 1] -> the key.

    Raises:
        ValueError: the grids differ in shape.
    """
    if plain.ndim != 3 or plain.shape != encrypted.shape:
        raise ValueError(
            "expected the plain and the encrypted blocks of one image, (down, across, L) both, got "
            f"{plain.shape} and {encrypted.shape}"
        )
    known, seen = (grid.reshape(-1, grid.shape[-1]) for grid in (plain, encrypted))
    blocks = _paired(np.sort(seen, axis=1), np.sort(known, axis=1))
    pixels = match_traces(known[blocks][None], seen[None], signed=False)
    return MovedBlocks(_paired(pixels.decode(seen), known), pixels)


def _paired(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, L) each -> (N,) int64, for each row the one of the others that it is nearest to, each taken once."""
    return np.asarray(linear_sum_assignment(cdist(rows, others, "sqeuclidean"))[1], dtype=np.int64)
