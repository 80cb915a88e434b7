"""The rotation between the blocks of ciphertexts and those of the attacker's images, from their second moments.

Components are coordinates of a block in order of decreasing importance, (down, across, m) for an image. The components
of ciphertexts are x_hat = x R^T with an orthogonal R. H_k is the covariance of encrypted blocks with their k-th
neighbour, and C_k that of the attacker's own images. Apart from sampling and from the difference of scenes,
H_k = R C_k R^T. The attack looks for the R that maximises sum_k <H_k R, R C_k>, and so minimises
sum_k |H_k - R C_k R^T|^2.

- Start: both sets are rotated to the eigenvectors of one symmetric matrix, so that R is near a diagonal of signs s.
  The agreement is then s^T W s, with W = sum_k H_k * C_k entry by entry. The signs are those of the leading
  eigenvector of W, flipped one by one as long as that helps (synchronisation over Z_2: Singer, "Angular
  synchronization by eigenvectors", 2011).
- Refinement: R becomes the orthogonal matrix nearest to sum_k H_k R C_k^T + H_k^T R C_k (orthogonal Procrustes:
  Schoenemann 1966), again and again (the power method of Journee et al. 2010). This rotates components of nearly equal
  eigenvalue, such as horizontal and vertical waves, into each other, for which signs alone do not suffice.
- Growth: the first four components are aligned first, then the first eight and so on. New components take their signs
  from their coupling with those that are aligned. The alignment is better with diagonal neighbours and those two
  blocks away than with the two nearest ones alone.

Moments of second order cannot tell R from -R, which is an image from its negative. Moments of third order can
(`is_negative`).

Cost: one singular value decomposition of (m, m) for each step, some seconds in all for m = 64.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0))  # (down, across), in blocks
NEAREST = NEIGHBOURS[:2]  # those that `BlockStatistics` has
_MAX_STEPS = 60
_SKEWED = 8  # leading components whose third moments decide between an image and its negative


def neighbour_covariances(
    components: Sequence[np.ndarray], offsets: Sequence[tuple[int, int]] = NEIGHBOURS
) -> np.ndarray:
    """Grids (down, across, m) of zero mean over all of them -> (K, m, m): E[x^T y], y the block at an offset from x.

    Raises:
        ValueError: no grid is 3 x 3 blocks or more.
    """
    if all(min(grid.shape[:2]) < 3 for grid in components):
        raise ValueError("expected at least one image of 3 x 3 blocks or more, since neighbouring blocks are compared")
    length = components[0].shape[-1]
    sums, counts = np.zeros((len(offsets), length, length)), np.zeros(len(offsets))
    for grid in components:
        for kind, (down, across) in enumerate(offsets):
            rows, columns = grid.shape[0] - down, grid.shape[1] - abs(across)
            if rows < 1 or columns < 1:
                continue
            left = max(0, -across)
            here = grid[:rows, left : left + columns]
            there = grid[down:, left + across : left + across + columns]
            sums[kind] += here.reshape(-1, length).T @ there.reshape(-1, length)
            counts[kind] += rows * columns
    return sums / counts[:, None, None]


def align(seen: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Moments (K, m, m) of the components of ciphertexts and of images -> R (m, m): x_hat R estimates x.

    Args:
        seen: H_k, in components that are those of `known` but for signs and rotations among neighbours.
        known: C_k.
    """
    length = seen.shape[-1]
    rotation = np.zeros((0, 0))
    for settled, size in pairwise((0, *growth(length))):
        grown = np.eye(size)
        grown[:settled, :settled] = rotation
        here, there = seen[:, :size, :size], known[:, :size, :size]
        agreement = np.sum(grown.T @ here @ grown * there, axis=0)
        rotation = refine(here, there, grown * synchronise_signs(agreement, settled))
    return rotation


def growth(length: int) -> list[int]:
    """How many components are aligned at each stage, 4, 8, 16, 24, 32, 48, 64, 96, ... and all of them at last."""
    sizes = [4, 8, 16, 24, 32]
    while sizes[-1] < length:
        sizes.append(sizes[-1] * 3 // 2 if sizes[-1].bit_count() == 1 else sizes[-1] * 4 // 3)
    return [size for size in sizes if size < length] + [length]


def synchronise_signs(agreement: np.ndarray, settled: int = 0) -> np.ndarray:
    """W (m, m) -> signs s (m,) that make s^T W s large; the first `settled` of them stay +1."""
    coupling = agreement + agreement.T
    np.fill_diagonal(coupling, 0)
    signs = np.ones(len(coupling))
    if settled:
        for i in range(settled, len(signs)):
            signs[i] = 1.0 if signs[:i] @ coupling[:i, i] >= 0 else -1.0
    else:
        signs = np.where(np.linalg.eigh(coupling)[1][:, -1] < 0, -1.0, 1.0)
    while True:
        gain = signs * (coupling @ signs)
        gain[:settled] = 0
        worst = int(np.argmin(gain))
        if gain[worst] >= 0:
            return signs
        signs[worst] *= -1


def refine(seen: np.ndarray, known: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Moments (K, m, m) twice and a first guess (m, m) -> an orthogonal matrix that agrees with them better."""
    turned, best = known.transpose(0, 2, 1), -np.inf
    for _ in range(_MAX_STEPS):
        ahead = seen @ rotation
        value = float(np.sum(ahead * (rotation @ known)))
        if value - best < 1e-9 * abs(value):
            break
        best = value
        rotation = nearest_rotation(np.sum(ahead @ turned + seen.transpose(0, 2, 1) @ rotation @ known, axis=0))
    return rotation


def nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """(m, m) -> the orthogonal matrix R with the largest <R, matrix> (Schoenemann 1966)."""
    left, _, right = np.linalg.svd(matrix)
    return left @ right


def is_negative(aligned: Sequence[np.ndarray], known: Sequence[np.ndarray]) -> bool:
    """Components of ciphertexts, aligned up to one sign, and of images -> whether the sign is wrong.

    Images are not symmetric in black and white, so E[x_i x^T x] of the leading components has a sign.
    """
    agreement = sum(np.sum(a * b) for a, b in zip(_third_moments(aligned), _third_moments(known), strict=True))
    return bool(agreement < 0)


def darkens_upwards(brightness: Sequence[np.ndarray]) -> bool:
    """Brightness (down, across) of the blocks of images -> whether the lower parts are brighter than the upper ones.

    Light comes from above in most outdoor scenes. This rule serves where the prior holds no images.
    """
    return sum(float(np.sum(light.mean(axis=1) * np.linspace(1, -1, len(light)))) for light in brightness) < 0


def _third_moments(components: Sequence[np.ndarray]) -> list[np.ndarray]:
    rows = np.concatenate([grid.reshape(-1, grid.shape[-1]) for grid in components])
    return [(rows * rows[:, i, None]).T @ rows / len(rows) for i in range(min(_SKEWED, rows.shape[1]))]
