"""False alarms: speech where nothing calls for any (the truth's `quiet` intervals), per minute."""

from __future__ import annotations

from tmi.evals import onsets
from tmi.evals.scoring import Benchmark, Metric, Trial
from tmi.evals.trace import Trace

LONG_S = 2.0  # an alarm that goes on counts again after this long
JOIN_S = 0.5


def alarms(trace: Trace, start_s: float, end_s: float) -> int:
    """Utterances that begin within [start_s, end_s), and one more for each LONG_S that one lasts in
    it.
    """
    count = 0
    for s, e in onsets.merge(trace.segments, JOIN_S):
        inside = min(e, end_s) - max(s, start_s)
        if inside > 0:
            count += int(s >= start_s) + int(inside / LONG_S)
    return count


def score(trace: Trace, truth: dict) -> list[Trial]:
    quiet = [(s, min(e, trace.duration_s)) for s, e in truth["quiet"]]
    seconds = sum(max(0.0, e - s) for s, e in quiet)
    if not seconds:
        return []
    values = {
        "alarms": float(sum(alarms(trace, s, e) for s, e in quiet)),
        "minutes": seconds / 60,
        "sound": sum(onsets.sounding_s(trace.activity, s, e) for s, e in quiet),
        "seconds": seconds,
    }
    return [Trial(truth["id"], "quiet", values)]


ALARMS = Benchmark(
    "FalseAlarms-syn",
    (),
    score,
    (
        Metric(
            "alarms per minute", "alarms", per="minutes", scale=1.0,
            asr="none", judge="none", lower_is_better=True,
        ),
        Metric(
            "share of time", "sound", per="seconds", asr="none", judge="none", lower_is_better=True
        ),
    ),
)  # fmt: skip
