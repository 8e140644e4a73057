"""What the streaming decoder cost on the wall clock while it was evaluated.

A micro-turn's time is that of the one call that serves all slots, as each session waited for it:
compilation is over before the first. `real-time factor` is the median over the micro-turn's length:
below 1 a session keeps up with its user. The figures are of the machine as busy as it was;
`tmi.decode.measure` times one session alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tmi.evals import bootstrap
from tmi.evals.scoring import Row
from tmi.evals.trace import Trace

SUITE = "Decoder-syn"
MEDIAN, P99 = "micro-turn ms", "micro-turn ms p99"
FACTOR, SLOTS = "real-time factor", "slots"
RESAMPLES = 200  # each adds up all micro-turns


class WallClock:
    """Collects the cost of micro-turns, session by session."""

    def __init__(self, slots: int):
        self._slots = slots  # sessions that shared a call
        self._ms: list[np.ndarray] = []
        self._seconds = 0.0  # a micro-turn's length

    def add(self, trace: Trace) -> None:
        ms = np.array([t.wall_ms for t in trace.turns if t.wall_ms > 0])
        if len(ms):
            self._ms.append(ms)
            self._seconds = trace.seconds

    def rows(self, system: str, seed: int) -> list[Row]:
        """Median, 99th percentile (ms), real-time factor (median), and the number of slots; with
        clock 'wall', N micro-turns and 95 % intervals by session. Empty if nothing was timed.
        """
        if not self._ms:
            return []
        found = quantiles(self._ms, (0.5, 0.99), seed)
        num = sum(map(len, self._ms))
        factor = tuple(x / 1000 / self._seconds for x in found[0])
        slots = (float(self._slots),) * 3
        figures = {MEDIAN: found[0], P99: found[1], FACTOR: factor, SLOTS: slots}
        return [
            Row(
                SUITE, name, system, round(value, 6), num, (round(low, 6), round(high, 6)),
                "strict", "none", "none", "wall",
            )
            for name, (value, low, high) in figures.items()
        ]  # fmt: skip


def quantiles(
    groups: Sequence[np.ndarray], levels: Sequence[float], seed: int
) -> list[tuple[float, float, float]]:
    """(value, low, high) of each quantile of all values, 95 % intervals by bootstrap over groups.

    groups: float [n] each, at least one. A quantile is the smallest value with at least that share
    of the values at or below it.
    """
    values = np.concatenate(groups)
    owner = np.repeat(np.arange(len(groups)), [len(g) for g in groups])
    order = np.argsort(values)
    values, owner = values[order], owner[order]
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), RESAMPLES)

    def of(weights: np.ndarray) -> list[float]:
        below = np.cumsum(weights[owner])
        at = np.searchsorted(below, np.array(levels) * below[-1] - 1e-9)
        return [float(values[i]) for i in at]

    drawn = np.array([of(d) for d in draws])
    low, high = np.quantile(drawn, bootstrap.INTERVAL, axis=0)
    middle = of(np.ones(len(groups)))
    return [(v, float(a), float(b)) for v, a, b in zip(middle, low, high, strict=True)]
