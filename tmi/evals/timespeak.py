"""TimeSpeak, CueSpeak and translation: the right words at the right time, else nothing.

A trigger at time t is met within w seconds if its answer's energy onset lies in [t - 0.2, t + w].
Each answer said serves one trigger. An example is one trial (a request and its triggers); the
primary figure is the mean over examples. `exclusive`: an example in which the model speaks outside
all windows scores 0. Sessions mix tasks, so speech within the region of another trial is judged by
that trial, unless it is this trial's answer at a wrong time.
"""

from __future__ import annotations

import functools

from tmi.evals.answers import normalise, occurrences
from tmi.evals.onsets import Segment
from tmi.evals.scoring import Benchmark, Metric, Trial, trials_of
from tmi.evals.trace import HeardWord, Trace

WINDOWS_S = (0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0)
EARLY_S = 0.2
EXCLUSIVE_S = 0.6


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
        start, end = _window(triggers[k]["time_s"], window_s)
        for onset, at in occurrences(trace.heard, triggers[k]["answer"]):
            if start <= onset <= end and taken.isdisjoint(at):
                found[k] = (onset, list(at))
                taken.update(at)
                break
    return found


def strays(trace: Trace, truth: dict, trial: dict, window_s: float = EXCLUSIVE_S) -> list[float]:
    """Onsets within the trial's region of speech that belongs to no window: words, and sound
    without words.
    """
    windows = [_window(t["time_s"], window_s) for t in trial["triggers"]]
    met = {i for _, at in matches(trace, trial, window_s).values() for i in at}
    own = {w for t in trial["triggers"] for w in normalise(t["answer"])}
    others = [tuple(t["region"]) for t in truth["trials"] if t is not trial]
    wrong_words = elsewhere(trace, truth, trial)
    start, end = trial["region"]
    out = []
    for i, w in enumerate(trace.heard):
        excused = i in wrong_words or (w.text not in own and _inside(w.onset_s, others))
        if start <= w.onset_s < end and i not in met and not excused:
            if not _inside(w.onset_s, windows):
                out.append(w.onset_s)
    for s, _ in wordless(trace):
        if start <= s < end and not _inside(s, windows + others):
            out.append(s)
    return sorted(out)


def elsewhere(trace: Trace, truth: dict, trial: dict) -> set[int]:
    """Indices into trace.heard of right answers to the triggers of the session's *other* trials."""
    out: set[int] = set()
    for other in truth["trials"]:
        if other is not trial and other.get("triggers"):
            met = matches(trace, other, max(WINDOWS_S))
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


def score(suite: str, trace: Trace, truth: dict) -> list[Trial]:
    out = []
    for trial in trials_of(truth, suite):
        count = len(trial["triggers"])
        values: dict[str, float] = {"triggers": count}
        for w in WINDOWS_S:
            met = matches(trace, trial, w)
            values[f"hits@{w}"] = len(met)
            values[f"share@{w}"] = len(met) / count
        met = matches(trace, trial, max(WINDOWS_S))
        if met:
            late = [onset - trial["triggers"][k]["time_s"] for k, (onset, _) in met.items()]
            values["delay"] = sum(late) / len(late)
        alone = not strays(trace, truth, trial)
        values["exclusive"] = values[f"share@{EXCLUSIVE_S}"] if alone else 0.0
        values["stray"] = float(not alone)
        out.append(Trial(truth["id"], trial["category"], values))
    return out


def _window(time_s: float, window_s: float) -> Segment:
    return time_s - EARLY_S - 1e-6, time_s + window_s + 1e-6


def _inside(time_s: float, windows: list[Segment]) -> bool:
    return any(s <= time_s <= e for s, e in windows)


def _metrics(headline_s: float) -> tuple[Metric, ...]:
    others = [w for w in WINDOWS_S if w != headline_s]
    return (
        Metric(f"accuracy@{headline_s}s", f"share@{headline_s}"),
        Metric("exclusive@0.6s", "exclusive"),
        *(Metric(f"accuracy@{w}s", f"share@{w}") for w in others),
        *(Metric(f"accuracy@{w}s micro", f"hits@{w}", per="triggers") for w in (0.6, 1.0, 2.0)),
        Metric("accuracy@0.6s by category", "share@0.6", combine="mean of categories"),
        Metric("delay", "delay", scale=1.0, lower_is_better=True),
    )


def _benchmark(suite: str, headline_s: float) -> Benchmark:
    return Benchmark(
        f"{suite}-syn", (suite,), functools.partial(score, suite), _metrics(headline_s)
    )


TIMESPEAK = _benchmark("TimeSpeak", 0.6)
CUESPEAK = _benchmark("CueSpeak", 0.6)
TRANSLATION = _benchmark("Translation", 0.6)
BACKCHANNEL = _benchmark("Backchannel", 1.0)
