"""Coordinates of blocks in which an unknown key is near a diagonal of signs, and the way from them to images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .alignment import NEAREST, NEIGHBOURS, align, darkens_upwards, is_negative, neighbour_covariances
from .blocks import LinearDecoder, as_rows
from .classes import KnownClasses, class_moments, is_negative_by_classes
from .priors import ImagePrior
from .statistics import BlockStatistics

_RANK_TOLERANCE = 1e-9  # smaller variances, relative to the largest one, come from rounding


@dataclass(frozen=True)
class Components:
    """m coordinates of blocks of length L, in order of decreasing importance.

    Attributes:
        mean: (L,), of the blocks.
        axes: (L, m): the components of b are (b - mean) @ axes.
        covariance: (L, L), of the blocks.
    """

    mean: np.ndarray
    axes: np.ndarray
    covariance: np.ndarray

    def of_grids(self, grids: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Grids (down, across, L) -> (down, across, m) each."""
        return [(grid - self.mean) @ self.axes for grid in grids]

    def first(self, size: int) -> "Components":
        """The leading ones."""
        return Components(self.mean, self.axes[:, :size], self.covariance)

    @property
    def estimator(self) -> np.ndarray:
        """(m, L): components @ estimator + mean is the best linear estimate of a block."""
        seen = self.axes.T @ self.covariance
        return np.linalg.solve(seen @ self.axes, seen)


def principal_components(
    mean: np.ndarray, covariance: np.ndarray, num_components: int, *, whitening: float
) -> Components:
    """Mean (L,) and covariance (L, L) of blocks -> their leading components, as many as have any variance.

    Args:
        mean: of the blocks.
        covariance: of the blocks.
        num_components: at most so many.
        whitening: the standard deviations are raised to the power 1 - whitening: 0 leaves them, 1 makes them equal.
    """
    variances, axes = np.linalg.eigh(covariance)
    variances, axes = variances[::-1][:num_components], axes[:, ::-1][:, :num_components]
    rank = int(np.sum(variances > _RANK_TOLERANCE * variances[0]))
    return Components(mean, axes[:, :rank] * variances[:rank] ** (-whitening / 2), covariance)


def mean_and_covariance(grids: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Grids (down, across, L) -> (L,), (L, L) of all their blocks."""
    rows = as_rows(grids)
    mean = rows.mean(axis=0)
    return mean, rows.T @ rows / len(rows) - np.outer(mean, mean)


def reconstruct(
    seen: Components,
    ciphertexts: Sequence[np.ndarray],
    known: Components,
    prior: ImagePrior,
    *,
    classes: KnownClasses | None = None,
) -> LinearDecoder:
    """Components of ciphertexts and of the prior's images, which differ by a rotation -> decoder of ciphertexts.

    Args:
        seen: of the ciphertexts' blocks.
        ciphertexts: grids (down, across, M), all of one key.
        known: of the prior's blocks.
        prior: without grids, two neighbours are compared instead of six.
        classes: what the segmentation maps tell of the blocks; the moments of each class are compared as well.
    """
    size = min(seen.axes.shape[1], known.axes.shape[1])
    seen, known = seen.first(size), known.first(size)
    encrypted, plain = seen.of_grids(ciphertexts), known.of_grids(prior.grids)
    if plain:
        moments = _moments(seen, encrypted, NEIGHBOURS), _moments(known, plain, NEIGHBOURS)
    else:
        moments = _moments(seen, encrypted, NEAREST), _model_moments(known, prior.statistics)
    own = [] if classes is None else known.of_grids(classes.grids)
    if classes is not None:
        (here, there), (of_seen, of_known) = moments, class_moments(encrypted, own, classes)
        moments = np.concatenate([here, of_seen]), np.concatenate([there, of_known])
    rotation = align(*moments)
    aligned = [grid @ rotation for grid in encrypted]
    if _is_negative(aligned, plain, known) if classes is None else is_negative_by_classes(aligned, own, classes):
        rotation = -rotation
    matrix = seen.axes @ rotation @ known.estimator
    return LinearDecoder(matrix, known.mean - seen.mean @ matrix)


def consensus(
    decoders: Sequence[LinearDecoder], seen: tuple[np.ndarray, np.ndarray], known_mean: np.ndarray
) -> LinearDecoder:
    """Decoders of the same ciphertexts, each with errors of its own -> their mean.

    Args:
        decoders: up to their signs, of which most are right.
        seen: mean (M,) and covariance (M, M) of the ciphertexts' blocks.
        known_mean: (L,), of plain blocks.
    """
    mean, covariance = seen
    first, *others = (decoder.matrix for decoder in decoders)
    total, votes, weighed = first, 1, covariance @ first
    for matrix in others:
        sign = -1 if np.sum(weighed * matrix) < 0 else 1
        total, votes = total + sign * matrix, votes + sign
    matrix = (-total if votes < 0 else total) / len(decoders)
    return LinearDecoder(matrix, known_mean - mean @ matrix)


def _moments(components: Components, grids: Sequence[np.ndarray], offsets: Sequence[tuple[int, int]]) -> np.ndarray:
    """Covariance and neighbours' covariances of components, (1 + K, m, m)."""
    covariance = components.axes.T @ components.covariance @ components.axes
    return np.stack([covariance, *neighbour_covariances(grids, offsets)])


def _model_moments(known: Components, statistics: BlockStatistics) -> np.ndarray:
    kinds = (statistics.covariance, statistics.right, statistics.below)
    return np.stack([known.axes.T @ moment @ known.axes for moment in kinds])


def _is_negative(aligned: Sequence[np.ndarray], plain: Sequence[np.ndarray], known: Components) -> bool:
    if plain:
        return is_negative(aligned, plain)
    brightness = known.estimator.sum(axis=1)
    return darkens_upwards([grid @ brightness for grid in aligned])
