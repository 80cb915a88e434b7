"""Keys from one image that the attacker has in plain and encrypted; they decode every other image under them.

A cipher b_hat = b M uses the same M for all blocks, so one image is hundreds of known plaintexts. Both grids below are
flattened (channel, row, column), the plain one in [-1, 1], and block n of one belongs to block n of the other.

- `match_traces`, for the permutation families: the values of a pixel position over all blocks, its trace, are the same
  in the ciphertext, up to a sign and in another place. Positions are paired by the distance of their traces (Hungarian
  method: Kuhn, Naval Research Logistics Quarterly 2, 1955). Li et al., "A general quantitative cryptanalysis of
  permutation-only multimedia ciphers against plaintext attacks", Signal Processing: Image Communication 23(3), 2008,
  show that such ciphers fall to known plaintexts whatever their key space. Cost: O(n L^2 + L^3), less than a second
  for L = 768.
- `regress`, for any linear key: least squares from ciphertexts to plaintexts. Where there are fewer blocks than L
  pixels, or flat blocks, some directions of M stay unseen, and the prior estimates them from those that are seen.
  Cost: O(n L^2 + L^3), about a second.
- `fit_rotation`, for orthogonal keys: the nearest rotation (Schoenemann, "A generalized solution of the orthogonal
  Procrustes problem", Psychometrika 31, 1966). With L independent blocks of noisy ciphertexts it averages more of the
  noise than `regress`.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from .tools.blocks import LinearDecoder, as_rows
from .tools.statistics import BlockStatistics

RELATIVE_NOISE = 1e-10  # of the variance of a ciphertext's pixel; rounding to float32 or to 16 bits adds less


@dataclass(frozen=True)
class RecoveredPermutation:
    """A guess of the key of a permutation family, b_hat[i] = signs[i] * b[order[i]].

    Attributes:
        order: (L,) int64.
        signs: (L,) float64 of -1 and 1.
        ambiguous: (L,) bool, true where another position fits as well, for example because all known blocks are
            white.
    """

    order: np.ndarray
    signs: np.ndarray
    ambiguous: np.ndarray

    def decode(self, grid: np.ndarray) -> np.ndarray:
        """(down, across, L) ciphertext -> (down, across, L), its pixels in [-1, 1]."""
        plain = np.empty_like(grid)
        plain[..., self.order] = grid * self.signs
        return np.clip(plain, -1.0, 1.0)


def match_traces(plain: np.ndarray, encrypted: np.ndarray, *, signed: bool = True) -> RecoveredPermutation:
    """One image, plain and encrypted, (down, across, L) each -> key of a permutation family.

    Args:
        plain: in [-1, 1].
        encrypted: the ciphertext, centred as the plain pixels are.
        signed: whether a position may be negated; False where the family is known to be `permutation`.

    Raises:
        ValueError: the grids differ in shape.
    """
    known, seen = _paired_rows(plain, encrypted)
    products = seen.T @ known
    overlap = np.abs(products) if signed else products
    distance = np.maximum((seen**2).sum(axis=0)[:, None] + (known**2).sum(axis=0) - 2 * overlap, 0.0)
    order = linear_sum_assignment(distance)[1]
    place = np.arange(len(order))
    signs = np.where(products[place, order] < 0, -1.0, 1.0) if signed else np.ones(len(order))
    best = distance[place, order]
    slack = 1e-9 * len(known) + best  # an equal trace, up to rounding, is no evidence
    ambiguous = (distance <= slack[:, None]).sum(axis=1) > 1
    return RecoveredPermutation(order.astype(np.int64), signs, ambiguous)


def regress(
    plain: np.ndarray,
    encrypted: np.ndarray,
    prior: BlockStatistics | None = None,
    *,
    relative_noise: float = RELATIVE_NOISE,
) -> LinearDecoder:
    """Blocks plain and encrypted, (down, across, L) and (down, across, M) -> decoder, for any linear key.

    Args:
        plain: in [-1, 1]; several images can be laid side by side.
        encrypted: M may differ from L, as with what the server computes.
        prior: moments of other images. Without it, directions that were never seen decode to zero.
        relative_noise: variance of the noise in the ciphertexts, relative to their own: the ridge.

    Raises:
        ValueError: the grids hold different numbers of blocks.
    """
    known, seen = _paired_rows(plain, encrypted)
    floor = relative_noise * float(np.mean(seen**2)) * len(seen)
    gram = seen.T @ seen + floor * np.eye(seen.shape[1])
    matrix = np.linalg.solve(gram, seen.T @ known)
    if prior is None:
        return LinearDecoder(matrix, np.zeros(known.shape[1]))
    filled, offset = _fill_in(known, floor, prior)
    return LinearDecoder(matrix @ filled, offset)


def fit_rotation(plain: np.ndarray, encrypted: np.ndarray) -> LinearDecoder:
    """Blocks plain and encrypted, (down, across, L) each -> decoder by the nearest rotation, for orthogonal keys.

    Raises:
        ValueError: the grids differ in shape.
    """
    known, seen = _paired_rows(plain, encrypted)
    left, _, right = np.linalg.svd(seen.T @ known)
    return LinearDecoder(left @ right, np.zeros(known.shape[1]))


def _fill_in(known: np.ndarray, floor: float, prior: BlockStatistics) -> tuple[np.ndarray, np.ndarray]:
    """Known blocks and a prior -> the (L, L) map and the (L,) offset from what least squares shows to a whole block.

    Least squares shows a block b as b P, where P projects on the span of the known blocks. The best linear estimate of
    b under the prior is m + (b P - m P) (P C P)^-1 P C.
    """
    values, vectors = np.linalg.eigh(known.T @ known)
    weight = np.maximum(values, 0.0) / (np.maximum(values, 0.0) + floor)
    kept = weight > 0.5
    basis = vectors[:, kept]
    within = basis.T @ prior.covariance @ basis
    within += RELATIVE_NOISE * np.trace(within) / len(within) * np.eye(len(within))
    filled = basis @ np.linalg.solve(within, basis.T @ prior.covariance)
    return filled, prior.mean - prior.mean @ filled


def _paired_rows(plain: np.ndarray, encrypted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if plain.ndim != 3 or encrypted.ndim != 3 or plain.shape[:2] != encrypted.shape[:2]:
        raise ValueError(
            "expected the plain and the encrypted blocks of the same images, (down, across, length) each, got "
            f"{plain.shape} and {encrypted.shape}"
        )
    return as_rows([plain]), as_rows([encrypted])
