"""Matching finds planted orders, its search is exact where it says so, and it refuses what cannot be matched."""

import numpy as np
import pytest

from hf_privseg.attacks.tools.matching import improve, match, matching_value


def planted(length=40, num_pairs=3, noise=0.0, seed=0):
    """Random matrices, one symmetric and the others not, and the same ones in another order."""
    rng = np.random.default_rng(seed)
    models = [rng.normal(size=(length, length)) for _ in range(num_pairs)]
    models[0] = models[0] + models[0].T
    order = rng.permutation(length)
    return [(m[np.ix_(order, order)] + noise * rng.normal(size=m.shape), m) for m in models], order


def test_a_planted_order_is_found_through_noise():
    pairs, order = planted(noise=0.3)
    assert np.array_equal(match(pairs), order)


def test_the_value_reached_never_falls_and_progress_tells_it():
    pairs, order = planted(noise=0.3)
    values = []
    match(pairs, progress=lambda step, value: values.append((step, value)))
    assert [step for step, _ in values] == list(range(len(values)))
    assert np.all(np.diff([value for _, value in values]) >= -1e-9)
    assert values[-1][1] == pytest.approx(matching_value(pairs, order), rel=0.05)


def test_exchanges_repair_an_order_and_end_where_no_exchange_helps():
    pairs, order = planted(length=12)
    damaged = order.copy()
    damaged[[0, 5, 7, 2]] = order[[5, 0, 2, 7]]
    assert np.array_equal(improve(pairs, damaged), order)
    stuck = improve(pairs, np.arange(12))
    best = matching_value(pairs, stuck)
    assert best >= matching_value(pairs, np.arange(12))
    for a in range(12):
        for b in range(a):
            swapped = stuck.copy()
            swapped[[a, b]] = stuck[[b, a]]
            assert matching_value(pairs, swapped) <= best + 1e-9


def test_no_exchange_is_made_when_none_is_allowed():
    pairs, _ = planted(length=12)
    assert np.array_equal(improve(pairs, np.arange(12), max_exchanges=0), np.arange(12))


def test_matrices_of_several_sizes_are_refused():
    with pytest.raises(ValueError, match=r"square matrices of one size, got shapes \[\(3, 3\), \(4, 4\)\]"):
        match([(np.eye(3), np.eye(4))])
    with pytest.raises(ValueError, match=r"got shapes \[\(3, 4\)\]"):
        improve([(np.ones((3, 4)), np.ones((3, 4)))], np.arange(3))
