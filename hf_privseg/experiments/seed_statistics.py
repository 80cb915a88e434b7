"""Figures from several seeds: their mean and range, and their order if the ranges are apart."""

import math
from collections.abc import Collection
from statistics import mean


def spread(values: Collection[float]) -> str:
    """Figures of several seeds -> "0.4731 (0.4702 to 0.4765)"; of one seed, the figure; of none, ""."""
    if not values:
        return ""
    return f"{mean(values):.4f}" + (f" ({min(values):.4f} to {max(values):.4f})" if len(values) > 1 else "")


def comparison(name: str, values: Collection[float], other_name: str, other_values: Collection[float]) -> str:
    """Two figures of several seeds each -> one line that says which is higher, if the seeds tell.

    Ranges can be apart by chance: if both figures came from one distribution, those of n and m seeds would be apart in
    2 of (n + m choose n) cases. The line gives that probability, which is 0.10 for three seeds each.
    """
    subject = f"{name} {mean(values):.4f}, {other_name} {mean(other_values):.4f}"
    if len(values) < 2 or len(other_values) < 2:
        return f"{subject}: no order can be told from one seed"
    if min(values) > max(other_values) or max(values) < min(other_values):
        chance = 2 / math.comb(len(values) + len(other_values), len(values))
        order = "higher" if min(values) > max(other_values) else "lower"
        return f"{subject}: {order}, ranges apart (by chance: {chance:.2f})"
    return f"{subject}: within the seeds' ranges, no order"
