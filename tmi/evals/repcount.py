"""RepCount (TransRAC, arXiv 2204.01018), streaming: "count out the reps".

The prediction is the last number said after the end of repetition N-1 and at most 2 s after the end
of the last. OBO = mean(|p - N| <= 1), MAE = mean(|p - N| / (N + 0.1)). Nothing said counts as 0 in
`reference` and as a failure in `strict`. With N <= 2 always saying "one" wins, hence the buckets.
"""

from __future__ import annotations

from tmi.evals.answers import numbers
from tmi.evals.scoring import Benchmark, Metric, Trial, trials_of
from tmi.evals.trace import Trace

GRACE_S = 2.0
BUCKETS = ((1, 2), (3, 5), (6, 8), (9, 99))


def predicted(trace: Trace, trial: dict) -> int | None:
    """The count the model arrived at; None if it said no number in time."""
    reps = trial["reps"]
    start = reps[-2][1] if len(reps) > 1 else 0.0
    end = (reps[-1][1] if reps else trial["region"][1]) + GRACE_S
    first, last = trial["region"]
    said = [
        n for t, n in numbers(trace.heard) if max(start, first) <= t <= min(end, last + GRACE_S)
    ]
    return said[-1] if said else None


def bucket(count: int) -> str:
    low, high = next(b for b in BUCKETS if b[0] <= max(1, count) <= b[1])
    return f"N={low}-{high}" if high < 99 else f"N>={low}"


def score(trace: Trace, truth: dict) -> list[Trial]:
    out = []
    for trial in trials_of(truth, "RepCount"):
        said, count = predicted(trace, trial), trial["count"]
        error = abs((said or 0) - count)
        values = {
            "OBO": float(said is not None and error <= 1),
            "reference OBO": float(error <= 1),
            "MAE": error / (count + 0.1),
            "exact": float(said == count),
        }
        out.append(Trial(truth["id"], bucket(count), values))
    return out


REPCOUNT = Benchmark(
    "RepCount-syn",
    ("RepCount",),
    score,
    (
        Metric("OBO", "OBO"),
        Metric("OBO reference", "reference OBO", mode="reference"),
        Metric("MAE", "MAE", scale=1.0, lower_is_better=True),
        Metric("exact", "exact"),
        *(Metric(f"OBO {name}", "OBO", category=name) for name in map(bucket, (1, 3, 6, 9))),
    ),
)
