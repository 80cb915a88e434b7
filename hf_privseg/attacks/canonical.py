"""Ciphertexts of any invertible key, or what the server computes of them: pictures from canonical correlations alone.

An invertible map b_hat = b M changes every covariance, and yet not the canonical correlations between a block and
its neighbours (Hotelling, "Relations between two sets of variates", 1936): whitened, blocks differ from whitened
plain ones by a rotation only. Separating mixed sources so, from second moments at several distances, is AMUSE (Tong
et al. 1990) and SOBI (Belouchrani et al. 1997); here the attacker's own photographs take the place of the sources'
independence.

- Both sets are cut to their leading principal components, whitened, and rotated to the eigenvectors of the
  correlations with the right and the lower neighbour: what goes on smoothly into the next block comes first.
- What remains of the key is found by `alignment.py`; a linear estimate from the prior leads back to pixels.
- How many components are kept decides which of them are mistaken, and little of how many: the mean of the estimates
  with several numbers of them is better than each (`components.consensus`).

It applies to

- the `matrix` family, b_hat = b E_enc^-1;
- z = b E, which the server computes of each block whatever the key: D numbers, E unknown. It bounds every scheme
  that keeps the transformer as it is;
- the `embedding` family, b_hat = b U S Q^T with E = U S V^T: the same numbers as z but for a rotation, hence the
  same attack and the same result.

Assumptions: one key for all blocks; photographs of the attacker's own, similar scenes best. Leading components of
the ciphertexts span about the space of leading components of the plain blocks, as they do for keys of small
condition and for trained embeddings, since the variances of photographs fall much faster.

Cost: as `orthogonal.py` for each of the estimates, seconds.
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
    """Encrypted grids (down, across, M) of one invertible key, M of any size, and an image prior -> decoder of such.

    Args:
        ciphertexts: of any family, or z = b E, or ciphertexts of the embedding family; sixteen or more.
        prior: the attacker's photographs, which must not be the victims.
        num_components: how many principal components are whitened, in each of the estimates.

    Raises:
        ValueError: no ciphertext has 3 x 3 blocks or more.
    """
    moments = mean_and_covariance(ciphertexts)
    estimates = [_reconstruct(ciphertexts, moments, prior, number) for number in num_components]
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
    """White components and their correlations (m, m) with neighbours -> the same, rotated to canonical variates."""
    order = np.linalg.eigh(correlations + correlations.T)[1][:, ::-1]
    return Components(components.mean, components.axes @ order, components.covariance)
