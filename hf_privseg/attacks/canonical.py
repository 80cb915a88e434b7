"""Images from ciphertexts of any invertible key, or from what the server computes, by canonical correlations.

An invertible map b_hat = b M changes every covariance, but not the canonical correlations between a block and its
neighbours (Hotelling, "Relations between two sets of variates", 1936): whitened encrypted blocks are whitened plain
blocks, rotated. AMUSE (Tong et al. 1990) and SOBI (Belouchrani et al. 1997) separate mixed sources in this way, from
second moments at several distances. They assume that the sources are independent; here the attacker's own images take
the place of that assumption.

- The blocks of the ciphertexts and those of the attacker's images are cut to their leading principal components,
  whitened, and rotated to the eigenvectors of the correlations with the right and the lower neighbour. The components
  that go on smoothly into the next block come first.
- `alignment.py` finds what remains of the key, and a linear estimate from the prior leads back to pixels.
- Where variances hardly fall about the cut, as those of z under an embedding that was made to whiten blocks, the
  cut keeps arbitrary components. Soft cuts take its place: all components take part, those of variance v weighed by
  (v / (v + w))^q, with the variance w at the cut, and as many of the canonical variates are kept.
- The number of components that are kept changes which of them are mistaken, but hardly how many. The mean of the
  estimates with several numbers is therefore better than each of them (`components.consensus`).

The attack applies to

- the `matrix` family, b_hat = b E_enc^-1;
- z = b E, the D numbers that the server computes of each block whatever the key, where E is unknown. This bounds
  every scheme that keeps the transformer as it is;
- the `embedding` family, b_hat = b U S Q^T with E = U S V^T. These numbers are a rotation of z, so the attack has the
  same result.

Assumptions: all blocks share one key; the attacker has images, best of similar scenes. The leading components of the
ciphertexts span about the same space as those of the plain blocks. This holds for keys of small condition and for
trained embeddings, because the variances of natural images fall much faster.

Cost: that of `orthogonal.py` for each estimate, which is seconds.
"""

from collections.abc import Sequence

import numpy as np

from .tools.alignment import NEAREST, neighbour_covariances
from .tools.blocks import LinearDecoder
from .tools.components import Components, consensus, mean_and_covariance, principal_components, reconstruct
from .tools.priors import ImagePrior

NUM_COMPONENTS = (48, 64, 72, 80, 96)
FLAT = 0.5  # of the variance at a cut, at twice the number: from there on the cut is soft
EXPONENTS = (0.5, 1.0)  # q
MAX_WHITENED = 384
BLOCKS_PER_COMPONENT = 3  # more components than that would be whitened noise of sampling


def reconstruct_canonical(
    ciphertexts: Sequence[np.ndarray], prior: ImagePrior, *, num_components: Sequence[int] = NUM_COMPONENTS
) -> LinearDecoder:
    """Encrypted grids (down, across, M) of one invertible key and an image prior -> decoder; M may be of any size.

    Args:
        ciphertexts: of any family, or z = b E, or ciphertexts of the embedding family; sixteen or more.
        prior: of the attacker's images, which must not be the victims.
        num_components: where the principal components are cut, and how many canonical variates are kept.

    Raises:
        ValueError: no ciphertext has 3 x 3 blocks or more.
    """
    statistics, moments = prior.statistics, mean_and_covariance(ciphertexts)
    num_blocks = sum(grid.shape[0] * grid.shape[1] for grid in ciphertexts)
    most = max(*num_components, min(MAX_WHITENED, num_blocks // BLOCKS_PER_COMPONENT))
    seen = principal_components(*moments, most, whitening=1.0)
    known = principal_components(statistics.mean, statistics.covariance, seen.axes.shape[1], whitening=1.0)
    seen = seen.first(known.axes.shape[1])
    correlations = np.sum(neighbour_covariances(seen.of_grids(ciphertexts), NEAREST), axis=0)
    own = known.axes.T @ (statistics.right + statistics.below) @ known.axes
    estimates = []
    for weights, number in _cuts(1 / np.sum(seen.axes**2, axis=0), num_components):
        variates, own_variates = _variates(seen, correlations, weights), _variates(known, own, weights)
        estimates.append(reconstruct(variates.first(number), ciphertexts, own_variates.first(number), prior))
    return consensus(estimates, moments, statistics.mean)


def _cuts(variances: np.ndarray, numbers: Sequence[int]) -> list[tuple[np.ndarray, int]]:
    """Falling variances (m,) of components and where to cut them -> weights of leading ones, number of variates."""
    cuts = []
    for number in sorted({min(number, len(variances)) for number in numbers}):  # larger ones would repeat an estimate
        if 2 * number <= len(variances) and variances[2 * number - 1] > FLAT * variances[number - 1]:
            soft = variances / (variances + variances[number - 1])
            cuts += [(soft**exponent, number) for exponent in EXPONENTS]
        else:
            cuts.append((np.ones(number), number))
    return cuts


def _variates(whitened: Components, correlations: np.ndarray, weights: np.ndarray) -> Components:
    """Whitened components, their correlations (m, m) with neighbours, weights of leading ones -> variates."""
    size = len(weights)
    weighed = weights[:, None] * (correlations + correlations.T)[:size, :size] * weights
    order = np.linalg.eigh(weighed)[1][:, ::-1]
    return Components(whitened.mean, (whitened.axes[:, :size] * weights) @ order, whitened.covariance)
