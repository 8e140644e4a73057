"""From scored items to rows. A benchmark is one file with a `Benchmark`, listed in suites.py."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from tmi.evals import bootstrap
from tmi.evals.trace import Trace


@dataclasses.dataclass(frozen=True)
class Trial:
    """One scored item of a session. A value that is missing or NaN leaves the item out of that
    metric.
    """

    scenario: str  # the session: the bootstrap's unit
    category: str
    values: dict[str, float]


Score = Callable[[Trace, dict], list[Trial]]

# How the ratios of categories become one figure.
COMBINE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "pooled": lambda r: r[..., 0],
    "mean of categories": lambda r: r.mean(-1),
    "harmonic mean of categories": lambda r: r.shape[-1] / (1 / np.maximum(r, 1e-9)).sum(-1),
}


@dataclasses.dataclass(frozen=True)
class Metric:
    """scale * sum(value) / sum(per) over the trials that have both; `per` empty counts each trial
    once.
    """

    name: str
    value: str
    per: str = ""
    scale: float = 100.0
    category: str = ""  # only trials of this category
    combine: str = "pooled"
    mode: str = "strict"
    asr: str = "text-stream"
    judge: str = "oracle"
    clock: str = "stream"
    lower_is_better: bool = False


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A suite: how a session is scored, what is made of it. The first metric is the headline."""

    suite: str
    trial_suites: tuple[str, ...]  # the trials of the truth it reads
    score: Score
    metrics: tuple[Metric, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of scores.json; its fields are the contract's. `value` is None where nothing can be
    averaged.
    """

    suite: str
    metric: str
    system: str
    value: float | None
    n: int
    ci95: tuple[float | None, float | None]
    mode: str
    asr: str
    judge: str
    clock: str


def rows(benchmark: Benchmark, system: str, trials: Sequence[Trial], seed: int) -> list[Row]:
    """One row a metric with trials of its category; `n` counts those that have the value."""
    categories = {t.category for t in trials} | {""}
    metrics = [m for m in benchmark.metrics if m.category in categories]
    return [row(benchmark.suite, m, system, trials, seed) for m in metrics]


def row(suite: str, metric: Metric, system: str, trials: Sequence[Trial], seed: int) -> Row:
    used = [
        (t, t.values[metric.value], t.values[metric.per] if metric.per else 1.0)
        for t in trials
        if (not metric.category or t.category == metric.category)
        and _finite(t.values, metric.value)
        and (not metric.per or _finite(t.values, metric.per))
    ]
    by_category = metric.combine != "pooled"
    value, low, high = bootstrap.ratio_interval(
        [t.scenario for t, _, _ in used],
        [v for _, v, _ in used],
        [d for _, _, d in used],
        [t.category if by_category else "" for t, _, _ in used],
        COMBINE[metric.combine],
        seed,
    )
    figures = [_number(x * metric.scale) for x in (value, low, high)]
    return Row(
        suite, metric.name, system, figures[0], len(used), (figures[1], figures[2]),
        metric.mode, metric.asr, metric.judge, metric.clock,
    )  # fmt: skip


def trials_of(truth: dict, suite: str) -> list[dict]:
    """The trials of `suite` in a session's ground truth."""
    return [t for t in truth["trials"] if t["suite"] == suite]


def _finite(values: dict[str, float], key: str) -> bool:
    return key in values and math.isfinite(values[key])


def _number(x: float) -> float | None:
    return round(x, 6) if math.isfinite(x) else None
