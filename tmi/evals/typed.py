"""Typed text in, text-only answers out: the right words in writing, and not a sound but of due
answers to other tasks.
"""

from __future__ import annotations

from tmi.evals.answers import contains, normalise
from tmi.evals.attribution import own_words, wordless
from tmi.evals.scoring import Benchmark, Metric, Trial, trials_of
from tmi.evals.trace import Trace


def score(trace: Trace, truth: dict) -> list[Trial]:
    out = []
    for trial in trials_of(truth, "Typed"):
        start, end = trial["typed_s"], trial["region"][1]
        words = [w for w in trace.words() if start <= w[1] < end]
        right = contains(" ".join(w for w, _, _ in words), trial["answer"])
        silent = not own_words(trace, truth, trial, start, end) and not any(
            s < end and start < e for s, e in wordless(trace)
        )
        values = {"accuracy": float(right and silent), "right words": float(right)}
        if right:
            first = normalise(trial["answer"])[0]
            values["latency"] = next(s for w, s, _ in words if first in normalise(w)) - start
        out.append(Trial(truth["id"], trial["category"], values))
    return out


TYPED = Benchmark(
    "Typed-syn",
    ("Typed",),
    score,
    (
        Metric("accuracy", "accuracy"),
        Metric("right words", "right words"),
        Metric("latency", "latency", scale=1.0, lower_is_better=True),
    ),
)
