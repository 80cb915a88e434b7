"""The grey thumbnail of an image from its ciphertext alone, for any orthogonal key: the first principal component.

The pixels of a block rise and fall together, so blocks vary most in their brightness. A rotation turns this direction
and keeps what lies along it: the first principal component (Hotelling, "Analysis of a complex of statistical variables
into principal components", 1933) of the encrypted blocks is that of the plain ones, the brightness of each block. The
attack needs no other image, and an invertible key that is not orthogonal only blurs the thumbnail a little.

The prior gives its sign and scale, because a key may turn black into white. The sign is the one with which the
distribution of the blocks' brightness is nearer to that of the prior's blocks.

Cost: the covariance of one image's blocks and its first eigenvector, less than a second for L = 768.
"""

from collections.abc import Sequence

import numpy as np

from .tools.alignment import darkens_upwards
from .tools.blocks import LinearDecoder
from .tools.components import mean_and_covariance
from .tools.priors import ImagePrior

_QUANTILES = np.linspace(0.02, 0.98, 25)


def reconstruct_thumbnail(ciphertexts: Sequence[np.ndarray], prior: ImagePrior) -> LinearDecoder:
    """Encrypted grids (down, across, M) of one key and an image prior -> decoder to blocks of one grey.

    Args:
        ciphertexts: one is enough. With a key that is not orthogonal, and with z of an unknown embedding, the
            thumbnail is less exact.
        prior: gives sign and scale. Without grids, the sign is the one with which the image is brighter at the top.

    Raises:
        ValueError: the ciphertexts have fewer than two blocks, or no two that differ.
    """
    mean, covariance = mean_and_covariance(ciphertexts)
    variances, axes = np.linalg.eigh(covariance)
    if not variances[-1] > 0:
        raise ValueError(
            "expected ciphertexts of at least two different blocks, got blocks that are all equal; brightness is what "
            "differs most"
        )
    length = len(prior.statistics.mean)
    deviation = np.sqrt(prior.statistics.covariance.mean())  # of the mean of a block's pixels
    axis = axes[:, -1] * deviation / np.sqrt(variances[-1])
    level = prior.statistics.mean.mean()
    if _is_negative([(grid - mean) @ axis for grid in ciphertexts], level, prior):
        axis = -axis
    matrix = np.outer(axis, np.ones(length))
    return LinearDecoder(matrix, level - mean @ matrix)


def _is_negative(brightness: Sequence[np.ndarray], level: float, prior: ImagePrior) -> bool:
    """Brightness (down, across) of blocks, of zero mean and the prior's variance -> whether black is white."""
    if not prior.grids:
        return darkens_upwards(brightness)
    known = np.quantile(_pooled([grid.mean(axis=-1) for grid in prior.grids]) - level, _QUANTILES)
    found = np.quantile(_pooled(brightness), _QUANTILES)
    return bool(np.abs(found - known).sum() > np.abs(-found[::-1] - known).sum())


def _pooled(brightness: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([light.ravel() for light in brightness])
