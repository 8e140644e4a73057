"""Charades (temporal action localisation), streaming: "say start when ... and stop when ...".

IoU of the action with [onset of the first "start", onset of the first "stop" after it]. No start
scores 0, no stop means the end of the clip. An answer can start 0.2 s late at best, so the ceiling
for an action of D seconds is (D - 0.2) / (D + 0.2).
"""

from __future__ import annotations

from tmi.evals.scoring import Benchmark, Metric, Trial, trials_of
from tmi.evals.trace import Trace

FLOOR_S = 0.2  # the clock's resolution


def said_interval(trace: Trace, region: tuple[float, float]) -> tuple[float, float] | None:
    """[start, stop] as the model said it within `region`; None without a start."""
    words = trace.heard_within(*region)
    start = next((w.onset_s for w in words if w.text == "start"), None)
    if start is None:
        return None
    return start, next(
        (w.onset_s for w in words if w.text == "stop" and w.onset_s > start), region[1]
    )


def iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Intersection over union of two intervals; 0 for empty ones."""
    both = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - both
    return both / union if union > 0 else 0.0


def ceiling(duration_s: float) -> float:
    return max(0.0, duration_s - FLOOR_S) / (duration_s + FLOOR_S)


def score(trace: Trace, truth: dict) -> list[Trial]:
    out = []
    for trial in trials_of(truth, "Charades"):
        said, action = said_interval(trace, tuple(trial["region"])), tuple(trial["action"])
        values = {
            "IoU": iou(said, action) if said else 0.0,
            "ceiling": ceiling(action[1] - action[0]),
            "started": float(said is not None),
        }
        out.append(Trial(truth["id"], trial["category"], values))
    return out


CHARADES = Benchmark(
    "Charades-syn",
    ("Charades",),
    score,
    (
        Metric("mIoU", "IoU"),
        Metric("mIoU ceiling", "ceiling", asr="none", judge="none"),
        Metric("started", "started"),
    ),
)
