"""The permutation families, with and without signs, from ciphertexts alone: the attack that bounds them.

A key moves the pixels of all blocks alike, may negate some of them, b_hat[i] = s[i] b[l(i)], and leaves the blocks in
place. So the moments of ciphertexts are those of plain images in another order. The attack has three steps:

1. Signs. The pixels of a natural image are positively correlated, so the leading eigenvector of the ciphertexts'
   correlation matrix has the signs of the key, up to one sign for all of them (Perron and Frobenius).
2. Order. The correlations inside a block and with its right and its lower neighbour are matched with those of the
   attacker's own images, which is a quadratic assignment (`matching`). The neighbours tell up from down and left from
   right. The correlations as they are, which are mostly brightness, put the pixels near their places. The
   correlations without the block's mean then tell exact places and colours.
3. The sign that is left. The image and its negative are compared with what images look like.

Assumptions: all ciphertexts share one key; the attacker has images of any kind, or a distance kernel (`priors`).
Jigsaw attacks on block scrambling (Chuman, Kurihara and Kiya, "On the security of block scrambling-based EtC systems
against extended jigsaw puzzle solver attacks", IEICE Trans. Inf. & Syst. E101-D, 2018) put blocks into place; here
the blocks are in place.

Cost: two runs of `match`; for 16 x 16 x 3 a few seconds on one core, apart from the prior's moments.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .tools.blocks import LinearDecoder, as_rows
from .tools.matching import Pair, Progress, improve, match, matching_value
from .tools.priors import COLOUR_CORRELATION, ImagePrior
from .tools.statistics import block_statistics, correlations, with_equal_channels, without_block_mean

_MEAN_BINS, _CONTRAST_BINS = 32, 12
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
    """Grids (down, across, L) encrypted with one key, and a prior -> the estimated key.

    Args:
        ciphertexts: one or more grids of 2 x 2 blocks or more.
        prior: of plain blocks of the same length.
        signed: whether the family negates pixels, as "signed_permutation" does.
        colour_blind: whether to assume that all channels are alike (correlation .95), and to take only the brightness
            from the prior. This helps where the scenes are unrelated, whose colours differ most; the channels then
            come out in any order. None stands for True where the prior is named "unrelated".
        num_exchanges: how many exchanges of two pixels follow the matching, at most.
        progress: as `matching.match` calls it.

    Raises:
        ValueError: the prior is of another block length, or no grid has neighbours.
    """
    length = ciphertexts[0].shape[-1] if ciphertexts else len(prior.statistics.mean)
    if len(prior.statistics.mean) != length:
        raise ValueError(
            f"the ciphertexts have blocks of {length} values and the prior has {len(prior.statistics.mean)}; "
            "make the prior with the ciphertexts' patch size and channels"
        )
    signs = recover_signs(ciphertexts, prior) if signed else np.ones(length)
    seen = correlations(block_statistics([grid * signs for grid in ciphertexts]))
    blind = prior.name == "unrelated" if colour_blind is None else colour_blind
    statistics, channels = prior.statistics, prior.num_channels
    if blind:
        statistics = with_equal_channels(statistics, channels, channels, correlation=COLOUR_CORRELATION)
    model = correlations(statistics)
    coarse = match(list(zip(seen, model, strict=True)), progress=progress)
    pairs = list(zip(without_block_mean(seen), without_block_mean(model), strict=True))
    order = match(pairs, start=np.eye(length)[coarse], progress=progress)
    order = improve(pairs, order, max_exchanges=num_exchanges)
    matrix = np.zeros((length, length))
    matrix[np.arange(length), order] = signs
    return PermutationEstimate(matrix, np.zeros(length), order, signs, _fit(pairs, order))


def recover_signs(ciphertexts: Sequence[np.ndarray], prior: ImagePrior) -> np.ndarray:
    """Grids (down, across, L) encrypted with one key -> (L,) float64 of +1 and -1, in the ciphertext's order.

    The correlations give them up to one common sign, which `brightness_evidence` decides.
    """
    rows = as_rows(ciphertexts)
    covariance = np.cov(rows, rowvar=False)
    deviation = np.sqrt(np.diag(covariance)) + 1e-9
    leading = np.linalg.eigh(covariance / np.outer(deviation, deviation))[1][:, -1]
    signs = np.where(leading < 0, -1.0, 1.0)
    return signs if brightness_evidence([grid * signs for grid in ciphertexts], prior) >= 0 else -signs


def brightness_evidence(grids: Sequence[np.ndarray], prior: ImagePrior) -> float:
    """Grids (down, across, L) whose pixels may be in any order -> a number that is negative if they are negatives.

    Light comes from above, so the number is the correlation of the blocks' brightness with their height, over all
    grids, where its size is .1 or more. Where it is smaller and the prior holds images, the number is the
    log-likelihood ratio of each block's mean and contrast, which no order of pixels changes: bright skies are flat,
    and shadows are not black.
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


def _fit(pairs: Sequence[Pair], order: np.ndarray) -> float:
    norms = [sum(np.vdot(matrix, matrix) for matrix in side) for side in zip(*pairs, strict=True)]
    return matching_value(pairs, order) / float(np.sqrt(norms[0] * norms[1]))
