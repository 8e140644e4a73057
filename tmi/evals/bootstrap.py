"""95 % intervals by bootstrap over scenarios (sessions), for figures that are ratios of sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 1000
INTERVAL = (0.025, 0.975)


def ratio_interval(
    scenarios: Sequence[str],
    numerators: Sequence[float],
    denominators: Sequence[float],
    groups: Sequence[str],
    combine: Callable[[np.ndarray], np.ndarray],
    seed: int,
    resamples: int = RESAMPLES,
) -> tuple[float, float, float]:
    """(value, low, high) of `combine` over the groups' ratios sum(numerators) / sum(denominators).

    Item i belongs to `scenarios[i]`, which is drawn as a whole, and to `groups[i]`. combine: [...,
    groups] -> [...]. Draws in which a group has no weight are left out. NaN for all three if
    nothing can be divided.
    """
    names, row = np.unique(np.asarray(scenarios, object).astype(str), return_inverse=True)
    kinds, column = np.unique(np.asarray(groups, object).astype(str), return_inverse=True)
    top, bottom = np.zeros((2, len(names), len(kinds)))
    np.add.at(top, (row, column), numerators)
    np.add.at(bottom, (row, column), denominators)
    if not len(names) or not (bottom.sum(0) > 0).all():
        return float("nan"), float("nan"), float("nan")
    value = float(combine(top.sum(0) / bottom.sum(0)))
    draws = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), resamples
    )
    weight = draws @ bottom
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (draws @ top) / weight
    figures = combine(ratios[(weight > 0).all(1)])
    low, high = np.quantile(figures, INTERVAL)
    return value, float(low), float(high)
