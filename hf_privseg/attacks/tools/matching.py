"""Matching two sets of second moments by an order of the pixels: the quadratic assignment behind the permutation keys.

Given pairs (A_k, C_k) of (L, L) matrices, find the order l that maximises

    f(P) = sum_k <A_k, P C_k P^T>,      P[i, l(i)] = 1, so that A_k[i, j] is laid over C_k[l(i), l(j)].

A_k are moments of ciphertexts and C_k those of the attacker's own images. `match` relaxes P to doubly stochastic
matrices and walks by Frank and Wolfe's method from the barycentre, each step a linear assignment: the FAQ algorithm
(Vogelstein et al., "Fast Approximate Quadratic Programming for Graph Matching", PLOS ONE 10(4), 2015), here for
several pairs at once, symmetric or not. `improve` takes the best exchange of two pixels as long as one helps (2-opt).

Cost: a step of `match` is one product of (L, L) matrices a symmetric pair, two for any other, and an assignment,
O(L^3); an exchange is O(L^2). L = 768, three pairs: about 0.3 s a step on one core, 2 to 20 steps.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

Pair = tuple[np.ndarray, np.ndarray]
Progress = Callable[[int, float], None]


def match(
    pairs: Sequence[Pair],
    *,
    start: np.ndarray | None = None,
    max_steps: int = 60,
    tolerance: float = 1e-5,
    progress: Progress | None = None,
) -> np.ndarray:
    """Pairs (A_k, C_k) of (L, L) float64 matrices -> (L,) int64 order l with A_k[i, j] like C_k[l(i), l(j)].

    Args:
        pairs: all of one size; the larger a pair's entries, the more it counts.
        start: (L, L) doubly stochastic; the barycentre, all entries 1 / L, by default.
        max_steps: steps of Frank and Wolfe's method at most.
        tolerance: it ends when a step gains less than this share of the value reached.
        progress: called with the number of the step and the value reached.

    Raises:
        ValueError: the matrices are not all square and of one size.
    """
    length = _checked_length(pairs)
    point = np.full((length, length), 1 / length) if start is None else np.array(start, dtype=np.float64)
    slope = _slope(pairs, point)
    value = float(np.vdot(slope, point)) / 2
    for step in range(max_steps):
        order = _assign(slope)
        vertex_slope = _slope_at_order(pairs, order)
        at_vertex = float(slope[np.arange(length), order].sum())  # <slope, vertex>
        vertex_value = float(vertex_slope[np.arange(length), order].sum()) / 2
        share = _best_share(value, at_vertex, vertex_value)
        slope = (1 - share) * slope + share * vertex_slope
        point *= 1 - share
        point[np.arange(length), order] += share
        previous, value = value, float(np.vdot(slope, point)) / 2
        if progress is not None:
            progress(step, value)
        if value - previous < tolerance * abs(value):
            break
    return _assign(point)


def improve(pairs: Sequence[Pair], order: np.ndarray, *, max_exchanges: int = 2000) -> np.ndarray:
    """Pairs (A_k, C_k) and an (L,) order -> (L,) int64 order, of a value f at least as high.

    The best exchange of two pixels is made again and again, until none helps or `max_exchanges` are made.
    """
    length = _checked_length(pairs)
    order = np.array(order, dtype=np.int64)
    models = [np.ascontiguousarray(model[np.ix_(order, order)]) for _, model in pairs]
    slope = np.zeros((length, length))  # along each place: slope[i, j] is that of putting at i what lies at j
    for (seen, _), model in zip(pairs, models, strict=True):
        slope += seen @ model.T + seen.T @ model
    seen_spread = [_spread(seen) for seen, _ in pairs]
    for _ in range(max_exchanges):
        gain = slope + slope.T
        diagonal = np.diag(slope)
        gain -= diagonal[:, None] + diagonal
        for spread, model in zip(seen_spread, models, strict=True):
            gain += spread * _spread(model)
        first, second = divmod(int(gain.argmax()), length)
        if gain[first, second] <= 1e-10 * abs(diagonal.sum()):
            break
        _exchange(pairs, models, slope, first, second)
        order[[first, second]] = order[[second, first]]
    return order


def matching_value(pairs: Sequence[Pair], order: np.ndarray) -> float:
    """Pairs (A_k, C_k) and an (L,) order -> f, what `match` and `improve` maximise."""
    return float(sum(np.vdot(seen, model[np.ix_(order, order)]) for seen, model in pairs))


def _slope(pairs: Sequence[Pair], point: np.ndarray) -> np.ndarray:
    """The gradient of f at any (L, L) matrix."""
    slope = np.zeros_like(point)
    for seen, model in pairs:
        slope += seen @ point @ model.T + seen.T @ point @ model
    return slope


def _slope_at_order(pairs: Sequence[Pair], order: np.ndarray) -> np.ndarray:
    """The gradient of f at a permutation matrix, whose product with a matrix is a choice of rows."""
    slope = np.zeros_like(pairs[0][0])
    for seen, model in pairs:
        slope += seen @ model.T[order]
        slope += seen.T @ model[order]
    return slope


def _best_share(value: float, at_vertex: float, vertex_value: float) -> float:
    """How far to go from a point to a vertex, 0 to 1: f is quadratic on the way, so this is exact.

    f(point + t (vertex - point)) = value (1 - t)^2 + at_vertex t (1 - t) + vertex_value t^2.
    """
    bend = value - at_vertex + vertex_value
    rise = at_vertex - 2 * value
    if bend < 0:
        return min(max(-rise / (2 * bend), 0.0), 1.0)
    return 1.0 if bend + rise > 0 else 0.0


def _assign(slope: np.ndarray) -> np.ndarray:
    return np.asarray(linear_sum_assignment(slope, maximize=True)[1], dtype=np.int64)


def _spread(matrix: np.ndarray) -> np.ndarray:
    """m_ii + m_jj - m_ij - m_ji, the (L, L) part of an exchange that is quadratic in it."""
    diagonal = np.diag(matrix)
    return diagonal[:, None] + diagonal - matrix - matrix.T


def _exchange(pairs: Sequence[Pair], models: list[np.ndarray], slope: np.ndarray, a: int, b: int) -> None:
    """Let places a and b exchange what lies at them: update the reordered models and the slope, in O(L^2)."""
    both, swapped = [a, b], [b, a]
    for (seen, _), model in zip(pairs, models, strict=True):
        slope += np.outer(seen[:, b] - seen[:, a], model[:, a] - model[:, b])
        slope += np.outer(seen[b] - seen[a], model[a] - model[b])
        model[both] = model[swapped]
        model[:, both] = model[:, swapped]
    slope[:, both] = slope[:, swapped]


def _checked_length(pairs: Sequence[Pair]) -> int:
    shapes = {np.shape(matrix) for pair in pairs for matrix in pair}
    if len(shapes) != 1 or any(len(shape) != 2 or shape[0] != shape[1] for shape in shapes):
        raise ValueError(f"expected pairs of square matrices of one size, got shapes {sorted(shapes)}")
    return int(next(iter(shapes))[0])
