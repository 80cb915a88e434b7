"""The block ciphers of the conventional method (Kiya et al., J. Imaging 2022, Table 2) from ciphertexts alone.

SHF moves the values of a block, NP negates some of them, and FFX replaces some of them by means of a table. One key
serves all blocks. The attacks:

    SHF   `recover_shf`   the attack on the permutation families
    NP    `recover_np`    the signs from the leading eigenvector, because the pixels of an image agree up to a sign
    FFX   `recover_ffx`   unmasked pixels stay in the clear. The codes 0..999 show the common divisor and the mask; the
                          mean of the clear pixels around a code is the level that it stands for

Ciphertexts have the form that networks take, in [-1, 1] (2 x' - 1 with x' in [0, 1]), as grids flattened (channel,
row, column). The published code flattens (row, column, channel), and `row_column_channel` translates.

Assumptions: the ciphertexts share one key. SHF needs a prior, NP needs one for the last sign, FFX needs none.
Sirichotedumrong and Kiya, "Visual Security Evaluation of Learnable Image Encryption Methods against Ciphertext-only
Attacks", arXiv:2010.06198, compare earlier attacks on such ciphers. Cost: SHF as `permutation`, the others about a
second an image on one core.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from .permutation import PermutationEstimate, recover_permutation, recover_signs
from .tools.blocks import as_rows
from .tools.priors import ImagePrior

_LEVELS, _CODES = 256, 1000
_ROUNDS = 4


@dataclass(frozen=True)
class FfxEstimate:
    """An estimated key of FFX.

    Attributes:
        mask: (L,) bool, which values are replaced.
        level_of_code: (1000,) int64, the level 0..255 of each code; -1 for codes that were never seen.
        maximum: the integer by which all values are divided.
    """

    mask: np.ndarray
    level_of_code: np.ndarray
    maximum: int

    def decode(self, grid: np.ndarray) -> np.ndarray:
        """(down, across, L) ciphertext in [-1, 1] -> the same shape, plain pixels; codes never seen become grey."""
        codes = _codes(grid, self.maximum)
        masked = np.where(self.level_of_code[codes] < 0, 127.5, self.level_of_code[codes])
        return np.clip(np.where(self.mask, masked, codes) / 127.5 - 1, -1.0, 1.0)


def recover_shf(
    ciphertexts: Sequence[np.ndarray], prior: ImagePrior, *, colour_blind: bool | None = None
) -> PermutationEstimate:
    """Grids (down, across, L) -> the order, as `permutation.recover_permutation` finds it."""
    return recover_permutation(ciphertexts, prior, colour_blind=colour_blind)


def recover_np(ciphertexts: Sequence[np.ndarray], prior: ImagePrior) -> PermutationEstimate:
    """Grids (down, across, L) -> the signs, -1 for negated values, with the order 0..L-1 and the decoder.

    The prior only decides between the image and its negative.
    """
    signs = recover_signs(ciphertexts, prior)
    order = np.arange(len(signs))
    return PermutationEstimate(np.diag(signs), np.zeros(len(signs)), order, signs, 1.0)


def recover_ffx(ciphertexts: Sequence[np.ndarray], *, patch_size: int) -> FfxEstimate:
    """Grids (down, across, L) -> mask, table and divisor; one image of usual size is enough for most of the table.

    Raises:
        ValueError: no integer divides the values as this cipher does: resampled, or another cipher.
    """
    maximum = common_divisor(ciphertexts)
    rows = _codes(as_rows(ciphertexts), maximum)
    mask = rows.max(axis=0) >= _LEVELS
    if not mask.any():
        return FfxEstimate(mask, np.full(_CODES, -1), maximum)
    nearness = _nearness(patch_size, rows.shape[1] // patch_size**2)
    masked_codes = rows[:, mask]
    levels = rows.astype(np.float64)
    weight = nearness * ~mask[:, None]  # at first the clear values alone
    table = np.full(_CODES, -1)
    for _ in range(_ROUNDS):
        around = (levels @ weight / np.maximum(weight.sum(axis=0), 1e-12))[:, mask]
        table = _table(masked_codes, around)
        levels[:, mask] = table[masked_codes]
        weight = nearness
    return FfxEstimate(mask, table, maximum)


def ffx_from_known_plaintext(ciphertexts: Sequence[np.ndarray], plaintexts: Sequence[np.ndarray]) -> FfxEstimate:
    """Grids (down, across, L) and the plain grids behind them -> mask, divisor and all of the table that they show."""
    maximum = common_divisor(ciphertexts)
    rows = _codes(as_rows(ciphertexts), maximum)
    levels = np.clip(((as_rows(plaintexts) + 1) * 127.5).round(), 0, _LEVELS - 1).astype(np.int64)
    mask = (rows != levels).any(axis=0)
    table = np.full(_CODES, -1)
    table[rows[:, mask]] = levels[:, mask]
    return FfxEstimate(mask, table, maximum)


def row_column_channel(order: np.ndarray, patch_size: int) -> np.ndarray:
    """An order (L,) of values flattened (channel, row, column) -> the same one flattened (row, column, channel)."""
    num_channels = len(order) // patch_size**2
    here = np.arange(len(order)).reshape(num_channels, -1).T.reshape(-1)
    return np.argsort(here)[np.asarray(order)[here]]


def common_divisor(ciphertexts: Sequence[np.ndarray]) -> int:
    """Grids in [-1, 1] -> the least integer 255..999 that turns all their values, taken to [0, 1], into integers.

    Raises:
        ValueError: there is none.
    """
    values = np.unique(((as_rows(ciphertexts) + 1) / 2).round(6))
    for divisor in range(_LEVELS - 1, _CODES):
        scaled = values * divisor
        if abs(scaled - scaled.round()).max() < 5e-3:
            return divisor
    raise ValueError(
        f"the {len(values)} values of these ciphertexts are no multiples of 1/255 to 1/999; expected FFX ciphertexts "
        "as they were made, neither resampled nor compressed"
    )


def _codes(grid: np.ndarray, maximum: int) -> np.ndarray:
    return np.clip(((grid + 1) / 2 * maximum).round(), 0, _CODES - 1).astype(np.int64)


def _nearness(patch_size: int, num_channels: int) -> np.ndarray:
    """(L, L): how much one value of a block tells about another one; zero on the diagonal."""
    place = np.arange(patch_size)
    rows, columns = (axis.reshape(-1) for axis in np.meshgrid(place, place, indexing="ij"))
    distance = np.hypot(rows - rows[:, None], columns - columns[:, None])
    near = np.kron(np.eye(num_channels) * 0.75 + 0.25, np.exp(-2 * distance))
    np.fill_diagonal(near, 0.0)
    return near


def _table(codes: np.ndarray, around: np.ndarray) -> np.ndarray:
    """(n, m) codes and the levels expected there -> (1000,) the levels, all different, nearest to them; -1 unseen."""
    counts = np.bincount(codes.reshape(-1), minlength=_CODES)
    totals = np.bincount(codes.reshape(-1), weights=around.reshape(-1), minlength=_CODES)
    seen = np.flatnonzero(counts)
    expected = totals[seen] / counts[seen]
    cost = counts[seen, None] * (expected[:, None] - np.arange(_LEVELS)) ** 2
    table = np.full(_CODES, -1)
    chosen, levels = linear_sum_assignment(cost)
    table[seen[chosen]] = levels
    return table
