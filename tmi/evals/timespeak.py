"""TimeSpeak, CueSpeak and translation: the right words at the right time, else nothing.

A trigger at time t is met within w seconds if its answer's energy onset lies in [t - 0.2, t + w].
Each answer said serves one trigger. An example is one trial (a request and its triggers); the
primary figure is the mean over examples. `exclusive`: an example in which the model speaks outside
all windows scores 0. Sessions mix tasks, so speech within the region of another trial is judged by
that trial, unless it is this trial's answer at a wrong time.
"""

from __future__ import annotations

import functools

from tmi.evals.answers import normalise
from tmi.evals.attribution import LATEST_S, elsewhere, matches, window, wordless
from tmi.evals.onsets import Segment
from tmi.evals.scoring import Benchmark, Metric, Trial, trials_of
from tmi.evals.trace import Trace

WINDOWS_S = (0.2, 0.4, 0.6, 0.8, 1.0, 1.5, LATEST_S)  # the curve
FULL_S = (0.6, 1.0, 2.0)  # those with every way of averaging, and exclusive


def strays(trace: Trace, truth: dict, trial: dict, window_s: float) -> list[float]:
    """Onsets within the trial's region of speech that belongs to no window: words, and sound
    without words.
    """
    windows = [window(t["time_s"], window_s) for t in trial["triggers"]]
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
        for w in FULL_S:
            alone = not strays(trace, truth, trial, w)
            values[f"exclusive@{w}"] = values[f"share@{w}"] if alone else 0.0
        out.append(Trial(truth["id"], trial["category"], values))
    return out


def _inside(time_s: float, windows: list[Segment]) -> bool:
    return any(s <= time_s <= e for s, e in windows)


def _metrics(headline_s: float) -> tuple[Metric, ...]:
    others = [w for w in WINDOWS_S if w != headline_s]
    return (
        Metric(f"accuracy@{headline_s}s", f"share@{headline_s}"),
        *(Metric(f"exclusive@{w}s", f"exclusive@{w}") for w in FULL_S),
        *(Metric(f"accuracy@{w}s", f"share@{w}") for w in others),
        *(Metric(f"accuracy@{w}s micro", f"hits@{w}", per="triggers") for w in FULL_S),
        *(
            Metric(f"accuracy@{w}s by category", f"share@{w}", combine="mean of categories")
            for w in FULL_S
        ),
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
