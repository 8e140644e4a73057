"""Whose words are these: which of a session's mixed tasks is judged by what was said.

A right answer in time to one trial's trigger is that trial's affair and no other's. Sound without
words is nobody's answer.
"""

from __future__ import annotations

from tmi.evals.answers import occurrences
from tmi.evals.onsets import Segment
from tmi.evals.trace import HeardWord, Trace

EARLY_S = 0.2  # an answer may sound this long before its trigger's time
LATEST_S = 2.0  # what is said later after a trigger is no answer to it


def window(time_s: float, window_s: float) -> Segment:
    """Where the onset of an answer may lie whose trigger is at `time_s`."""
    return time_s - EARLY_S - 1e-6, time_s + window_s + 1e-6


def matches(trace: Trace, trial: dict, window_s: float) -> dict[int, tuple[float, list[int]]]:
    """Trigger index -> (onset, indices into trace.heard of its words), for the triggers that were
    met.

    Triggers in order take the earliest answer that is left: with windows of equal length no other
    choice meets more.
    """
    found: dict[int, tuple[float, list[int]]] = {}
    taken: set[int] = set()
    triggers = trial["triggers"]
    for k in sorted(range(len(triggers)), key=lambda k: triggers[k]["time_s"]):
        start, end = window(triggers[k]["time_s"], window_s)
        for onset, at in occurrences(trace.heard, triggers[k]["answer"]):
            if start <= onset <= end and taken.isdisjoint(at):
                found[k] = (onset, list(at))
                taken.update(at)
                break
    return found


def elsewhere(trace: Trace, truth: dict, trial: dict) -> set[int]:
    """Indices into trace.heard of right answers to the triggers of the session's *other* trials."""
    out: set[int] = set()
    for other in truth["trials"]:
        if other is not trial and other.get("triggers"):
            met = matches(trace, other, LATEST_S)
            out.update(i for _, at in met.values() for i in at)
    return out


def own_words(
    trace: Trace, truth: dict, trial: dict, start_s: float, end_s: float
) -> list[HeardWord]:
    """The heard words with their onset in [start_s, end_s), right answers to other trials' triggers
    left out.
    """
    skip = elsewhere(trace, truth, trial)
    heard = enumerate(trace.heard)
    return [w for i, w in heard if i not in skip and start_s <= w.onset_s < end_s]


def wordless(trace: Trace) -> list[Segment]:
    """Stretches of sound in which no word begins."""
    return [
        (s, e) for s, e in trace.segments if not any(s - 1e-6 <= w.onset_s < e for w in trace.heard)
    ]
