"""The published hMLP stem: what each of its layers folds, and how wide it is, for any depth."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import linear_sum_assignment

Folds = tuple[tuple[int, int], ...]


def stem_plan(num_layers: int, patch: int) -> tuple[Folds, tuple[int, ...]]:
    """Folds and widths of the published hMLP stem of `num_layers` for patches of 2 x patch x patch
    pixels: (frames, pixels) of each layer, and what each but the last writes.

    The grid grows by the prime factors of the patch, the largest first, then by the frames. Of
    these grids one is chosen a layer, so that the volumes of the cells grow as evenly as may be.
    """
    grids, side = [(1, 1, 3)], 1
    for factor in sorted(_prime_factors(patch), reverse=True):
        side *= factor
        grids.append((1, side, math.ceil(side * side * 3 / 64) * 64))
    grids.append((2, side, side * side * 3 * 2 * 64))
    volumes = np.array([t * n * n for t, n, _ in grids], np.float32)
    even = np.linspace(0, np.log(np.float32(patch * patch * 2 * 3)), num_layers + 1)
    cost = np.abs(even.astype(np.float32)[:, None] - np.log(volumes))
    if num_layers >= len(grids):
        chosen = cost.argmin(axis=1)
    else:
        chosen = np.asarray(linear_sum_assignment(cost)[1])
    chosen[0], chosen[-1] = 0, len(grids) - 1
    used = [grids[i] for i in chosen]
    folds = tuple((b[0] // a[0], b[1] // a[1]) for a, b in zip(used, used[1:], strict=False))
    return folds, tuple(width for _, _, width in used[1:-1])


def _prime_factors(n: int) -> list[int]:
    out, p = [], 2
    while n > 1:
        while n % p == 0:
            out.append(p)
            n //= p
        p += 1
    return out
