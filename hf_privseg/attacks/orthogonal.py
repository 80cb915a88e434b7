"""Images from ciphertexts of one orthogonal key alone, by principal components and neighbouring blocks.

A rotation b_hat = b Q^T keeps the eigenvalues of the blocks' covariance and turns its eigenvectors with the blocks.
The eigenvectors of natural images are similar everywhere, and in a similar order. So the attack matches the leading
ones of the ciphertexts with those of the attacker's images (`alignment.py`), and puts each block together from them.

The provider knows the segmentation maps as well. With `classes`, the moments of each class are compared, too, and
fewer ciphertexts are enough.

What the server computes, z = b E, falls to the same attack where E is near a random matrix, as a patch embedding that
was drawn at random and trained for some hundred updates is: a random projection keeps the variances of blocks about
as they are (Johnson and Lindenstrauss 1984). Trained embeddings flatten them (`canonical.py`).

Assumptions: all blocks share one key; the attacker has some images, best of similar scenes, but no plaintext and no
model. The permutation families are orthogonal too. The `matrix` family has condition 10, which is near enough to a
rotation, because the variances of natural images fall by thousands.

Source: Umeyama matches graphs by their eigenvectors, followed by a correction ("An eigendecomposition approach to
weighted graph matching problems", 1988). Here the same is done for blocks that share a rotation.

Tried on CamVid and left out: more components and moments of third and fourth order gained nothing; less or more
whitening gained on some sequences and lost on others.

Cost: the covariance of the ciphertexts (L, L) and its eigenvectors, then `alignment.align`: seconds.
"""

from collections.abc import Sequence

import numpy as np

from .tools.blocks import LinearDecoder
from .tools.classes import KnownClasses
from .tools.components import mean_and_covariance, principal_components, reconstruct
from .tools.priors import ImagePrior

NUM_COMPONENTS = 64
# Components of small variance have little influence as they are; where all have one variance, the noise of sampling
# has too much. This exponent lies halfway.
WHITENING = 0.5


def reconstruct_orthogonal(
    ciphertexts: Sequence[np.ndarray],
    prior: ImagePrior,
    *,
    classes: KnownClasses | None = None,
    num_components: int = NUM_COMPONENTS,
) -> LinearDecoder:
    """Encrypted grids (down, across, L), all of one key, and an image prior -> decoder.

    The third moments of the prior tell the image from its negative; those of unrelated images may mistake it.

    Args:
        ciphertexts: one is enough to recognise objects, sixteen give most of an image.
        prior: of the attacker's images, which must not be the victims.
        classes: what the segmentation maps of the ciphertexts tell; None where they are not known.
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
    return reconstruct_projected(ciphertexts, prior, classes=classes, num_components=num_components)


def reconstruct_projected(
    projected: Sequence[np.ndarray],
    prior: ImagePrior,
    *,
    classes: KnownClasses | None = None,
    num_components: int = NUM_COMPONENTS,
) -> LinearDecoder:
    """Grids (down, across, M) of z = b E, taken for a rotation of plain blocks, and an image prior -> decoder.

    Args:
        projected: what the server computes. M is of any size.
        prior, classes, num_components: as for `reconstruct_orthogonal`.

    Raises:
        ValueError: no grid has 3 x 3 blocks or more.
    """
    seen = principal_components(*mean_and_covariance(projected), num_components, whitening=WHITENING)
    statistics = prior.statistics
    known = principal_components(statistics.mean, statistics.covariance, num_components, whitening=WHITENING)
    return reconstruct(seen, projected, known, prior, classes=classes)
