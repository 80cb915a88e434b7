"""Ciphertexts of one orthogonal key alone: the photographs, from principal components and neighbouring blocks.

A rotation b_hat = b Q^T leaves the eigenvalues of the blocks' covariance as they are and turns its eigenvectors with
the blocks. Photographs everywhere have similar eigenvectors in a similar order, so the leading ones of the
ciphertexts are matched with those of the attacker's photographs (`alignment.py`), and each block is put together
again from them.

Assumptions: one key for all blocks; some photographs of the attacker's own, similar scenes best; no plaintext, no
model. The permutation families are orthogonal too. The `matrix` family, of condition 10, is near enough to a
rotation: the variances of photographs fall by thousands.

Source: eigenvectors, then a correction, is how Umeyama matches graphs ("An eigendecomposition approach to weighted
graph matching problems", 1988); blocks that share a rotation are matched so here.

Measured on CamVid and left out: more components and moments of third and fourth order gained nothing; less or more
whitening gained on some sequences and lost on others.

Cost: the covariance of the ciphertexts (L, L) and its eigenvectors, then `alignment.align`: seconds.
"""

from collections.abc import Sequence

import numpy as np

from .tools.blocks import LinearDecoder
from .tools.components import mean_and_covariance, principal_components, reconstruct
from .tools.priors import ImagePrior

NUM_COMPONENTS = 64
# Small components settle little when left as they are, and when all have one variance, the noise of sampling settles
# too much: halfway.
WHITENING = 0.5


def reconstruct_orthogonal(
    ciphertexts: Sequence[np.ndarray], prior: ImagePrior, *, num_components: int = NUM_COMPONENTS
) -> LinearDecoder:
    """Encrypted grids (down, across, L), all of one key, and an image prior -> decoder of such ciphertexts.

    The sign, photograph or negative, is that of the prior's third moments; unrelated photographs may mistake it.

    Args:
        ciphertexts: one is enough to recognise objects, sixteen for most of a photograph.
        prior: the attacker's photographs, which must not be the victims.
        num_components: how many of a block's L dimensions are recovered.

    Raises:
        ValueError: the blocks are not as long as the prior's, or no ciphertext has 3 x 3 blocks or more.
    """
    length, expected = ciphertexts[0].shape[-1], len(prior.statistics.mean)
    if length != expected:
        raise ValueError(
            f"expected ciphertext blocks of length {expected}, as the prior has them, got {length}; "
            "make the prior with the model's patch size"
        )
    seen = principal_components(*mean_and_covariance(ciphertexts), num_components, whitening=WHITENING)
    statistics = prior.statistics
    known = principal_components(statistics.mean, statistics.covariance, num_components, whitening=WHITENING)
    return reconstruct(seen, ciphertexts, known, prior)
