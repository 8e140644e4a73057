"""Full-Duplex-Bench v1 (arXiv 2503.04721): turn-taking, pause handling, user interruption.

`reference` follows the public scorer on the text stream's times, its quirks included (a barge-in
counts as a latency of 0 s). `strict` is ours: energy onsets, any word that is no backchannel takes
the turn, barge-ins and missing answers count as failed. A latency is the mean over the trials with
TOR = 1, so read it beside the TOR and the pause TOR.
"""

from __future__ import annotations

import functools
import math

from tmi.evals import onsets
from tmi.evals.answers import occurrences, takes_turn
from tmi.evals.attribution import own_words, wordless
from tmi.evals.scoring import Benchmark, Metric, Trial, trials_of
from tmi.evals.trace import Trace

YIELD_S = 0.4
RESPOND_S = 2.0  # tau-voice's window: a response later than this is none

Word = tuple[str, float, float]  # text, start and end in seconds


def took_turn(words: list[Word]) -> bool:
    """The public predicate: some words, unless they last less than 1.0 s and are at most 3."""
    if not words:
        return False
    return not (words[-1][2] - words[0][1] < 1.0 and len(words) <= 3)


def reference(trace: Trace, start_s: float, end_s: float, user_end_s: float) -> dict[str, float]:
    """TOR and latency as the public scorer has them, over the text stream's words within [start_s,
    end_s).
    """
    words = [w for w in trace.words() if start_s <= w[1] < end_s]
    taken = took_turn(words)
    values = {"reference TOR": float(taken)}
    if taken:
        values["reference latency"] = max(0.0, words[0][1] - user_end_s)
    return values


def barged_in(trace: Trace, truth: dict, trial: dict, start_s: float, end_s: float) -> bool:
    """Whether the model began to speak within [start_s, end_s): a word that takes the turn, or
    sound without words.
    """
    if takes_turn(own_words(trace, truth, trial, start_s, end_s)):
        return True
    return any(start_s <= s < end_s for s, _ in wordless(trace))


def turn(trace: Trace, truth: dict, trial: dict) -> dict[str, float]:
    """The strict figures of one turn: who speaks before the user's end fails, who says nothing
    after it too.
    """
    (start, end), user_end = trial["region"], trial["user_end_s"]
    early = barged_in(trace, truth, trial, start, user_end)
    after = takes_turn(own_words(trace, truth, trial, user_end, end))
    taken = bool(after) and not early
    right = any(user_end <= t < end for t, _ in occurrences(trace.heard, trial["answer"]))
    values = {
        "TOR": float(taken),
        "barge-in": float(early),
        "answered": float(right and not early),
    }
    if taken:
        values["latency"] = after[0].onset_s - user_end
    return values


def score_turns(trace: Trace, truth: dict) -> list[Trial]:
    out = []
    for trial in trials_of(truth, "TurnTaking"):
        (start, end), user_end = trial["region"], trial["user_end_s"]
        values = turn(trace, truth, trial)
        values |= reference(trace, start, end, user_end)
        out.append(Trial(truth["id"], trial["category"], values))
    return out


def score_pauses(trace: Trace, truth: dict) -> list[Trial]:
    """Turns with pauses: everything said before the user's end. TOR should be 0."""
    out = []
    for trial in trials_of(truth, "TurnTaking"):
        if trial.get("pauses"):
            start, user_end = trial["region"][0], trial["user_end_s"]
            words = [w for w in trace.words() if start <= w[1] < user_end]
            values = {
                "TOR": float(barged_in(trace, truth, trial, start, user_end)),
                "reference TOR": float(took_turn(words)),
            }
            out.append(Trial(truth["id"], trial["category"], values))
    return out


def yield_time(trace: Trace, start_s: float, end_s: float) -> float | None:
    """Seconds from an interruption's start until the model is silent up to the interruption's end.

    None if it was not speaking in the half second before, so that there was nothing to yield;
    infinite if it still speaks in the last 0.2 s.
    """
    if onsets.sounding_s(trace.activity, start_s - 0.5, start_s) < 0.1:
        return None
    stopped = onsets.last_sound(trace.activity, start_s, end_s)
    if stopped is None:
        return 0.0
    return math.inf if stopped > end_s - 0.2 else stopped - start_s


def spoke_up(trace: Trace, truth: dict, trial: dict, start_s: float, end_s: float) -> bool:
    """Whether a stretch of sound that takes the turn began within (start_s, end_s)."""
    begun = [(s, e) for s, e in trace.segments if start_s < s < end_s]
    return any(barged_in(trace, truth, trial, s - 1e-6, min(e, end_s)) for s, e in begun)


def score_interruptions(trace: Trace, truth: dict) -> list[Trial]:
    out = []
    for trial in trials_of(truth, "Interruption"):
        (start, end), region_end = trial["interrupt"], trial["region"][1]
        silent_after = yield_time(trace, start, end)
        soon = min(region_end, end + RESPOND_S)
        said = any(end <= t < soon for t, _ in occurrences(trace.heard, trial["answer"]))
        after = takes_turn(own_words(trace, truth, trial, end, region_end))
        yielded = silent_after is not None and silent_after <= YIELD_S + 1e-6
        again = spoke_up(trace, truth, trial, start + YIELD_S, end)
        stopped = silent_after is not None and math.isfinite(silent_after)
        taken = bool(after) and stopped and not again
        values = {
            "speaking": float(silent_after is not None),
            "yielded": float(yielded),
            "RESPOND": float(said and taken),
            "TOR": float(taken),
            "barge-in": float(again),
        } | reference(trace, end, region_end, end)
        if silent_after is not None and math.isfinite(silent_after):
            values["yield time"] = silent_after
        if taken:
            values["latency"] = after[0].onset_s - end
        out.append(Trial(truth["id"], "user_interruption", values))
    return out


_silence = functools.partial(Metric, lower_is_better=True)
_LATENCY = (
    _silence("latency", "latency", scale=1.0),
    _silence("latency reference", "reference latency", scale=1.0, mode="reference"),
)
_TOR = (
    Metric("TOR", "TOR", scale=1.0),
    Metric("TOR reference", "reference TOR", scale=1.0, mode="reference"),
)

TURN_TAKING = Benchmark(
    "FDB1-turn-taking-syn",
    ("TurnTaking",),
    score_turns,
    (*_LATENCY, *_TOR, Metric("answered", "answered"), _silence("barge-in", "barge-in")),
)
PAUSE = Benchmark(
    "FDB1-pause-syn",
    ("TurnTaking",),
    score_pauses,
    (
        _silence("TOR", "TOR", scale=1.0),
        _silence("TOR reference", "reference TOR", scale=1.0, mode="reference"),
    ),
)
INTERRUPTION = Benchmark(
    "FDB1-interruption-syn",
    ("Interruption",),
    score_interruptions,
    (
        Metric("yielded<=0.4s", "yielded", asr="none", judge="none"),
        _silence("yield time", "yield time", scale=1.0, asr="none", judge="none"),
        Metric("RESPOND", "RESPOND"),
        *_TOR,
        *_LATENCY,
        _silence("barge-in", "barge-in"),
        Metric("speaking", "speaking", asr="none", judge="none"),
    ),
)
