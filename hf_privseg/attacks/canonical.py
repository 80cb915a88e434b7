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


def reconstruct_canonical(
    ciphertexts: Sequence[np.ndarray], prior: ImagePrior, *, num_components: Sequence[int] = NUM_COMPONENTS
) -> LinearDecoder:
    """Encrypted grids (down, across, M) of one invertible key and an image prior -> decoder; M may be of any size.

    Args:
        ciphertexts: of any family, or z = b E, or ciphertexts of the embedding family; sixteen or more.
        prior: of the attacker's images, which must not be the victims.
        num_components: how many principal components are whitened, in each of the estimates.

    Raises:
        ValueError: no ciphertext has 3 x 3 blocks or more.
    """
    moments = mean_and_covariance(ciphertexts)
    most = min(ciphertexts[0].shape[-1], len(prior.statistics.mean))
    numbers = sorted({min(number, most) for number in num_components})  # larger ones would repeat an estimate
    estimates = [_reconstruct(ciphertexts, moments, prior, number) for number in numbers]
    return consensus(estimates, moments, prior.statistics.mean)


def _reconstruct(
    ciphertexts: Sequence[np.ndarray], moments: tuple[np.ndarray, np.ndarray], prior: ImagePrior, num_components: int
) -> LinearDecoder:
    statistics = prior.statistics
    seen = principal_components(*moments, num_components, whitening=1.0)
    known = principal_components(statistics.mean, statistics.covariance, len(seen.axes.T), whitening=1.0)
    seen = seen.first(len(known.axes.T))
    correlations = np.sum(neighbour_covariances(seen.of_grids(ciphertexts), NEAREST), axis=0)
    own = known.axes.T @ (statistics.right + statistics.below) @ known.axes
    return reconstruct(_canonical(seen, correlations), ciphertexts, _canonical(known, own), prior)


def _canonical(components: Components, correlations: np.ndarray) -> Components:
    """Whitened components and their correlations (m, m) with neighbours -> the same, rotated to canonical variates."""
    order = np.linalg.eigh(correlations + correlations.T)[1][:, ::-1]
    return Components(components.mean, components.axes @ order, components.covariance)
