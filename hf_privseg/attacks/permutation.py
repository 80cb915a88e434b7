"""The permutation families, with and without signs, from ciphertexts alone: the attack that bounds them.

A key moves (and turns) the pixels of all blocks alike, b_hat[i] = s[i] b[l(i)], and leaves the blocks in place. So the
moments of ciphertexts are those of photographs in another order. Three steps:

1. signs: photographs have pixels that are positively correlated, so the leading eigenvector of the ciphertexts'
   correlation matrix has the signs of the key, up to one for all (Perron and Frobenius);
2. order: the correlations inside a block, with its right and with its lower neighbour are matched with the attacker's
   own photographs, a quadratic assignment (`matching`). The neighbours tell up from down and left from right. First
   the correlations as they are, which are mostly brightness and put pixels near their places, then what remains
   of them without the block's mean, which tells exact places and colours;
3. the one sign that is left: which of the picture and its negative looks like photographs.

Assumes: one key for all ciphertexts given, photographs of any kind or a distance kernel (`priors`). Jigsaw attacks on
block scrambling (Chuman, Kurihara and Kiya, "On the security of block scrambling-based EtC systems against extended
jigsaw puzzle solver attacks", IEICE Trans. Inf. & Syst. E101-D, 2018) put blocks into place; here blocks are in place.

Cost: two runs of `match`; for 16 x 16 x 3 a few seconds on one core beside the prior's moments.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .tools.blocks import LinearDecoder, as_rows
from .tools.matching import Pair, Progress, improve, match, matching_value
from .tools.priors import ImagePrior
from .tools.statistics import BlockStatistics, block_statistics

_MEAN_BINS, _CONTRAST_BINS = 32, 12
_COLOUR_CORRELATION = 0.95
_CLEAR_LIGHT = 0.1


@dataclass(frozen=True)
class PermutationEstimate(LinearDecoder):
    """An estimated key, and the decoder that undoes it.

    Attributes:
        order: (L,) int64, pixel i of a ciphertext is pixel order[i] of the plain block (channel, row, column).
        signs: (L,) float64 of +1 and -1, all +1 for a family without signs.
        fit: correlation of the two sets of moments, -1 to 1, without the blocks' means.
    """

    order: np.ndarray
    signs: np.ndarray
    fit: float


def recover_permutation(
    ciphertexts: Sequence[np.ndarray],
    prior: ImagePrior,
    *,
    signed: bool = False,
    colour_blind: bool | None = None,
    num_exchanges: int = 200,
    progress: Progress | None = None,
) -> PermutationEstimate:
    """Grids (down, across, L) encrypted with one key, and what photographs are like -> the estimated key.

    Args:
        ciphertexts: one or more grids of 2 x 2 blocks or more.
        prior: of plain blocks of the same length.
        signed: whether the family turns pixels, as "signed_permutation" does.
        colour_blind: take the prior's colours to be alike (correlation .95) and only its brightness from photographs.
            Right where the scenes are unrelated, for their colours differ most; colours then come out in any order.
            By default for the prior named "photos".
        num_exchanges: of two pixels each, at most, after the matching.
        progress: as `matching.match` calls it.

    Raises:
        ValueError: the prior is of another block length, or no grid has neighbours.
    """
    length = ciphertexts[0].shape[-1] if ciphertexts else len(prior.statistics.mean)
    if len(prior.statistics.mean) != length:
        raise ValueError(
            f"the ciphertexts have blocks of {length} values and the prior of {len(prior.statistics.mean)}; "
            "make the prior with the ciphertexts' patch size and channels"
        )
    signs = recover_signs(ciphertexts, prior) if signed else np.ones(length)
    seen = _correlations(block_statistics([grid * signs for grid in ciphertexts]))
    blind = prior.name == "photos" if colour_blind is None else colour_blind
    statistics = prior.statistics
    model = _correlations(_without_colours(statistics) if blind else statistics)
    coarse = match(list(zip(seen, model, strict=True)), progress=progress)
    pairs = list(zip(_without_block_mean(seen), _without_block_mean(model), strict=True))
    order = match(pairs, start=np.eye(length)[coarse], progress=progress)
    order = improve(pairs, order, max_exchanges=num_exchanges)
    matrix = np.zeros((length, length))
    matrix[np.arange(length), order] = signs
    return PermutationEstimate(matrix, np.zeros(length), order, signs, _fit(pairs, order))


def recover_signs(ciphertexts: Sequence[np.ndarray], prior: ImagePrior) -> np.ndarray:
    """Grids (down, across, L) encrypted with one key -> (L,) float64 of +1 and -1, in the ciphertext's order.

    All up to one sign from the correlations; that one as `brightness_evidence` says.
    """
    rows = as_rows(ciphertexts)
    covariance = np.cov(rows, rowvar=False)
    deviation = np.sqrt(np.diag(covariance)) + 1e-9
    leading = np.linalg.eigh(covariance / np.outer(deviation, deviation))[1][:, -1]
    signs = np.where(leading < 0, -1.0, 1.0)
    return signs if brightness_evidence([grid * signs for grid in ciphertexts], prior) >= 0 else -signs


def brightness_evidence(grids: Sequence[np.ndarray], prior: ImagePrior) -> float:
    """Grids (down, across, L) whose pixels may be in any order -> the evidence for them against their negatives.

    Light comes from above: the correlation of the blocks' brightness with their height, over all grids, if it is
    clear (.1 and more). Else, with a prior that holds photographs, the log-likelihood ratio of each block's mean and
    contrast, which no order of pixels changes (bright skies are flat, shadows are not black). The sign is what counts.
    """
    light = float(np.mean([_light_from_above(grid) for grid in grids]))
    if abs(light) >= _CLEAR_LIGHT or not prior.grids:
        return light
    counts = _mean_and_contrast_counts(prior.grids) + 0.5
    ratio = np.log(counts) - np.log(counts[::-1])
    return float((_mean_and_contrast_counts(grids) * ratio).sum())


def _light_from_above(grid: np.ndarray) -> float:
    """The correlation of the blocks' brightness with their height in the image, -1 to 1."""
    brightness = grid.mean(axis=2) - grid.mean()
    height = np.broadcast_to(np.linspace(1, -1, len(grid))[:, None], brightness.shape)
    return float((brightness * height).sum() / (np.linalg.norm(brightness) * np.linalg.norm(height) + 1e-12))


def _mean_and_contrast_counts(grids: Sequence[np.ndarray]) -> np.ndarray:
    """(mean bins, contrast bins): how many blocks have that mean in [-1, 1] and that logarithm of their deviation."""
    rows = as_rows(grids)
    contrast = np.clip(np.log(rows.std(axis=1) + 1e-3), -7, 0)
    bins = [np.linspace(-1, 1, _MEAN_BINS + 1), np.linspace(-7, 0, _CONTRAST_BINS + 1)]
    return np.histogram2d(np.clip(rows.mean(axis=1), -1, 1), contrast, bins=bins)[0]


def _correlations(statistics: BlockStatistics) -> list[np.ndarray]:
    """Moments -> [inside a block, with its right, with its lower neighbour], scaled to pixels of variance 1."""
    scale = 1 / np.sqrt(np.diag(statistics.covariance) + 1e-6)
    return [moment * np.outer(scale, scale) for moment in (statistics.covariance, statistics.right, statistics.below)]


def _without_block_mean(moments: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The correlations of pixels less the mean of their block: no order changes that mean."""
    centred = [moment - moment.mean(0) - moment.mean(1)[:, None] + moment.mean() for moment in moments]
    scale = 1 / np.sqrt(np.maximum(np.diag(centred[0]), 0) + 1e-6)
    return [moment * np.outer(scale, scale) for moment in centred]


def _without_colours(statistics: BlockStatistics, num_channels: int = 3) -> BlockStatistics:
    """Moments averaged over pairs of channels, then given to all of them with one correlation between colours."""
    size = len(statistics.mean) // num_channels
    if size * num_channels != len(statistics.mean):
        return statistics
    colours = np.full((num_channels, num_channels), _COLOUR_CORRELATION)
    np.fill_diagonal(colours, 1.0)

    def blind(moment: np.ndarray) -> np.ndarray:
        return np.kron(colours, moment.reshape(num_channels, size, num_channels, size).mean(axis=(0, 2)))

    covariance, right, below = map(blind, (statistics.covariance, statistics.right, statistics.below))
    return BlockStatistics(statistics.mean, covariance, right, below, statistics.num_blocks)


def _fit(pairs: Sequence[Pair], order: np.ndarray) -> float:
    norms = [sum(np.vdot(matrix, matrix) for matrix in side) for side in zip(*pairs, strict=True)]
    return matching_value(pairs, order) / float(np.sqrt(norms[0] * norms[1]))
