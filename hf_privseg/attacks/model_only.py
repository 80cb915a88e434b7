"""A permutation key from the encrypted model alone: trained filters are smooth, so near pixels have similar rows.

E_hat = E_enc E has a row for each pixel, which holds the weights with which the pixel enters the D features. With a
permutation key the rows are those of E in another order. Neighbouring pixels have similar rows, most of all the
channels of one pixel. For the orthogonal family E_hat shows only E_hat^T E_hat = E^T E, and every rotation is equally
likely, so there is nothing to attack.

Each row is linked to the 12 rows with the largest |cosine|. The distances along this graph are laid out in the plane
by multidimensional scaling (Isomap: Tenenbaum, de Silva and Langford, "A global geometric framework for nonlinear
dimensionality reduction", Science 290, 2000), turned by several angles and put on the grid of pixels. The layout in
which near pixels have the most similar rows is the estimate. Signs do not disturb this and are not recovered; one
ciphertext gives them (`permutation`).

Distances have the symmetries of a square, so the order is one of eight (`orientations`), and the channels come out in
any order. Assumption: a trained patch embedding (Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021,
figure 7, show how smooth it is). The attack needs no image and no other model.

Cost: some assignments of L pixels to L places, seconds for 16 x 16 x 3 on one core.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import shortest_path

from .tools.blocks import LinearDecoder
from .tools.matching import matching_value
from .tools.priors import synthetic_prior

_REACH_IN_PIXELS = 1.3  # cosines fall to a half at a distance of one pixel in trained embeddings
_COLOUR_CORRELATION = 0.7
_NUM_NEIGHBOURS = 12
_NUM_ANGLES = 6
_RANK_FOR_COLOURS = 20


@dataclass(frozen=True)
class ModelOnlyEstimate(LinearDecoder):
    """An estimated key, right up to a symmetry of the square and the order of colours, and its decoder.

    Attributes:
        order: (L,) int64, row i of E_hat is that of pixel order[i] (channel, row, column).
    """

    order: np.ndarray


def recover_from_model(weight: np.ndarray, *, patch_size: int, num_channels: int = 3) -> ModelOnlyEstimate:
    """(hidden_size, L) encrypted weight E_hat^T, flattened (channel, row, column) -> the estimated key.

    Raises:
        ValueError: the weight is not of that block length.
    """
    length = num_channels * patch_size**2
    if weight.ndim != 2 or weight.shape[1] != length:
        raise ValueError(f"expected a weight (hidden_size, {length}), got {weight.shape}; reshape it to (D, -1)")
    kernel = synthetic_prior(
        patch_size,
        num_channels=num_channels,
        reach_in_pixels=_REACH_IN_PIXELS,
        colour_correlation=_COLOUR_CORRELATION,
    ).statistics.covariance
    kernel = kernel / kernel[0, 0]
    cosines = row_cosines(weight)
    pairs = [(np.abs(cosines), kernel)]
    layouts = _layouts(pairs[0][0], patch_size, num_channels)
    order = max(layouts, key=lambda layout: matching_value(pairs, layout))
    return _estimate(order)


def row_cosines(weight: np.ndarray) -> np.ndarray:
    """(hidden_size, L) weight -> (L, L) cosines of the L rows of E_hat."""
    rows = np.asarray(weight, dtype=np.float64).T
    rows = rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-12)
    return rows @ rows.T


def most_similar(weight: np.ndarray, count: int) -> np.ndarray:
    """(hidden_size, L) weight, signed or not -> (L, count) int64: the pixels whose rows resemble each one's most.

    The leading 20 singular directions of the weight alone are compared: they tell pixels apart, not colours.
    """
    _, values, directions = np.linalg.svd(np.asarray(weight, np.float64), full_matrices=False)
    likeness = np.abs(row_cosines((values[:, None] * directions)[:_RANK_FOR_COLOURS]))
    np.fill_diagonal(likeness, -1.0)
    return np.argsort(-likeness, axis=1, kind="stable")[:, :count]


def _layouts(likeness: np.ndarray, patch_size: int, num_channels: int) -> Iterator[np.ndarray]:
    """(L, L) |cosines| -> orders (L,) that put the pixels on the grid, one for each angle tried."""
    least = np.sort(likeness, axis=1)[:, -min(_NUM_NEIGHBOURS, len(likeness) - 1) - 1]
    lengths = np.where(likeness >= least[:, None], 1.1 - np.minimum(likeness, 1.0), 0.0)
    steps = shortest_path(lengths, directed=False)
    finite = np.isfinite(steps)
    squares = np.where(finite, steps, steps[finite].max()) ** 2
    inner = -0.5 * (squares - squares.mean(0) - squares.mean(1)[:, None] + squares.mean())
    plane = np.linalg.eigh(inner)[1][:, -2:]
    side = np.linspace(-1, 1, patch_size)
    grid = np.stack([axis.reshape(-1) for axis in np.meshgrid(side, side, indexing="ij")], axis=1)
    places = np.tile(grid, (num_channels, 1))
    plane = plane / plane.std(axis=0) * places.std(axis=0)
    for angle in np.arange(_NUM_ANGLES) * np.pi / 2 / _NUM_ANGLES:
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        distance = ((plane @ turn)[:, None] - places) ** 2
        yield np.asarray(linear_sum_assignment(distance.sum(axis=2))[1], dtype=np.int64)


def orientations(estimate: ModelOnlyEstimate, *, patch_size: int) -> Iterator[ModelOnlyEstimate]:
    """The eight estimates that the symmetries of the square make of one; a look at one decoded image tells which."""
    num_channels = len(estimate.order) // patch_size**2
    block = np.arange(len(estimate.order)).reshape(num_channels, patch_size, patch_size)
    for turned in (block, block.transpose(0, 2, 1)):
        for mirrored in (turned, turned[:, ::-1], turned[:, :, ::-1], turned[:, ::-1, ::-1]):
            yield _estimate(mirrored.reshape(-1)[estimate.order])


def _estimate(order: np.ndarray) -> ModelOnlyEstimate:
    return ModelOnlyEstimate(np.eye(len(order))[order], np.zeros(len(order)), order)
