"""The encrypted model and no image at all: trained filters are smooth, so the rows of E_hat say which pixels are near.

E_hat = E_enc E has a row a pixel: the weights with which it enters the D features. With a permutation key the rows are
those of E in another order, and neighbouring pixels, most of all the colours of one pixel, have similar rows. For the
orthogonal family E_hat shows E_hat^T E_hat = E^T E, and every rotation of it is equally likely: nothing to attack.

1. signs (signed family): along the maximum spanning tree of |cosine|, whose edges join the surest pairs;
2. colours and neighbours of a pixel: the most similar rows;
3. order: cosines of the rows matched with a kernel that falls with distance (`matching`). A kernel has the symmetries
   of a square and of the colours, so the order is one of eight (`orientations`), and colours are in any order.

Assumes: a trained patch embedding; no photograph, no other model. Cost: a second or two for 16 x 16 x 3 on one core.
Source: the smoothness of learned patch embeddings is shown in Dosovitskiy et al., "An Image is Worth 16x16 Words",
ICLR 2021, figure 7; matching by FAQ as in `matching`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from .blocks import LinearDecoder
from .matching import match
from .priors import synthetic_prior

_REACH_IN_PIXELS = 5.0
_COLOUR_CORRELATION = 0.9


@dataclass(frozen=True)
class ModelOnlyEstimate(LinearDecoder):
    """An estimated key, right up to a symmetry of the square and the order of colours, and its decoder.

    Attributes:
        order: (L,) int64, row i of E_hat is that of pixel order[i] (channel, row, column).
        signs: (L,) float64 of +1 and -1, up to one sign; all +1 for a family without signs.
    """

    order: np.ndarray
    signs: np.ndarray


def recover_from_model(
    weight: np.ndarray, *, patch_size: int, num_channels: int = 3, signed: bool = False
) -> ModelOnlyEstimate:
    """(hidden_size, L) encrypted weight E_hat^T, flattened (channel, row, column) -> the estimated key.

    Raises:
        ValueError: the weight is not of that block length.
    """
    length = num_channels * patch_size**2
    if weight.ndim != 2 or weight.shape[1] != length:
        raise ValueError(f"expected a weight (hidden_size, {length}), got {weight.shape}; reshape it to (D, -1)")
    signs = signs_along_tree(weight) if signed else np.ones(length)
    model = synthetic_prior(
        patch_size,
        num_channels=num_channels,
        reach_in_pixels=_REACH_IN_PIXELS,
        colour_correlation=_COLOUR_CORRELATION,
    ).statistics.covariance
    cosines = row_cosines(weight * signs)
    order = match([(cosines, model / model[0, 0])])
    return _estimate(order, signs)


def row_cosines(weight: np.ndarray) -> np.ndarray:
    """(hidden_size, L) weight -> (L, L) cosines of the L rows of E_hat."""
    rows = np.asarray(weight, dtype=np.float64).T
    rows = rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-12)
    return rows @ rows.T


def most_similar(weight: np.ndarray, count: int) -> np.ndarray:
    """(hidden_size, L) weight, signed or not -> (L, count) int64: the pixels whose rows resemble each one's most."""
    likeness = np.abs(row_cosines(weight))
    np.fill_diagonal(likeness, -1.0)
    return np.argsort(-likeness, axis=1, kind="stable")[:, :count]


def signs_along_tree(weight: np.ndarray) -> np.ndarray:
    """(hidden_size, L) weight under a signed permutation -> (L,) float64 of +1 and -1, up to one sign."""
    cosines = row_cosines(weight)
    tree = minimum_spanning_tree(1.0 + 1e-9 - np.abs(cosines))  # an entry of 0 would be no edge
    nodes, parents = breadth_first_order(tree, 0, directed=False)
    signs = np.ones(len(cosines))
    for node in nodes[1:]:
        signs[node] = signs[parents[node]] * (1.0 if cosines[node, parents[node]] >= 0 else -1.0)
    return signs


def orientations(estimate: ModelOnlyEstimate, *, patch_size: int) -> Iterator[ModelOnlyEstimate]:
    """The eight estimates that the symmetries of the square make of one; a look at one decoded image tells which."""
    num_channels = len(estimate.order) // patch_size**2
    block = np.arange(len(estimate.order)).reshape(num_channels, patch_size, patch_size)
    for turned in (block, block.transpose(0, 2, 1)):
        for mirrored in (turned, turned[:, ::-1], turned[:, :, ::-1], turned[:, ::-1, ::-1]):
            yield _estimate(mirrored.reshape(-1)[estimate.order], estimate.signs)


def _estimate(order: np.ndarray, signs: np.ndarray) -> ModelOnlyEstimate:
    matrix = np.zeros((len(order), len(order)))
    matrix[np.arange(len(order)), order] = signs
    return ModelOnlyEstimate(matrix, np.zeros(len(order)), order, signs)
