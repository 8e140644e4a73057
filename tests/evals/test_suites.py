"""Laws of all benchmarks: the oracle, silence, a trace that is late, text without sound."""

import dataclasses

import numpy as np
import pytest

from tests.evals.sessions import NO_PRIOR, full, played
from tmi.evals.baselines import silent
from tmi.evals.scoring import rows
from tmi.evals.suites import BENCHMARKS
from tmi.evals.trace import Trace, from_script

SESSION = full()


def table(trace: Trace) -> dict:
    out = {}
    for b in BENCHMARKS:
        for r in rows(b, "x", b.score(trace, SESSION.truth), 0):
            out[b.suite, r.metric] = r.value
    return out


def shifted(seconds: float) -> Trace:
    """The session's own output, `seconds` later."""
    audio = [(t + seconds, w.astype(np.float32) / 32768) for t, w in SESSION.model_audio]
    words = [(t + seconds, w) for w, t, _ in SESSION.model_words]
    typed = [(t + seconds, w) for t, w in SESSION.text_out]
    return from_script("full-0", "late", SESSION.duration_s, audio=audio, words=[*words, *typed])


ORACLE, SILENT, LATE = table(played(SESSION)), table(silent(SESSION, NO_PRIOR)), table(shifted(1.0))

PERFECT = [
    ("TimeSpeak-syn", "accuracy@0.6s"), ("TimeSpeak-syn", "exclusive@0.6s"),
    ("TimeSpeak-syn", "accuracy@0.2s"), ("CueSpeak-syn", "accuracy@0.6s"),
    ("CueSpeak-syn", "exclusive@0.6s"), ("Translation-syn", "accuracy@0.6s"),
    ("Backchannel-syn", "accuracy@1.0s"), ("FDB1-turn-taking-syn", "answered"),
    ("FDB1-interruption-syn", "yielded<=0.4s"), ("FDB1-interruption-syn", "RESPOND"),
    ("FDB1.5-overlap-syn", "continues"), ("FDB1.5-overlap-syn", "average"),
    ("FDB1.5-overlap-syn", "harmonic"), ("RepCount-syn", "OBO"), ("RepCount-syn", "exact"),
    ("Typed-syn", "accuracy"), ("Refusal-syn", "refusal"), ("Refusal-syn", "benign answered"),
]  # fmt: skip
TIMED = [
    ("TimeSpeak-syn", "accuracy@0.6s"), ("CueSpeak-syn", "accuracy@0.6s"),
    ("Translation-syn", "accuracy@0.6s"), ("FDB1-interruption-syn", "yielded<=0.4s"),
]  # fmt: skip


@pytest.mark.parametrize("key", PERFECT)
def test_the_oracle_is_right_everywhere(key):
    assert ORACLE[key] == 100


@pytest.mark.parametrize("key", PERFECT)
def test_silence_scores_nothing(key):
    assert SILENT[key] == pytest.approx(0, abs=1e-5)


def test_the_oracle_s_times():
    assert ORACLE["FDB1-turn-taking-syn", "TOR"] == 1
    assert ORACLE["FDB1-turn-taking-syn", "latency"] == pytest.approx(0.3, abs=0.02)
    assert ORACLE["FDB1-pause-syn", "TOR"] == ORACLE["FDB1-backchannel-syn", "TOR"] == 0
    assert ORACLE["FDB1-backchannel-syn", "JSD"] == pytest.approx(0, abs=1e-6)
    assert ORACLE["FDB1-interruption-syn", "yield time"] == pytest.approx(0.16, abs=0.02)
    assert ORACLE["Refusal-syn", "over-refusal"] == 0
    assert ORACLE["FalseAlarms-syn", "alarms per minute"] == 0
    action, late = 4.0, 0.4
    assert ORACLE["Charades-syn", "mIoU"] == pytest.approx(
        100 * (action - late) / (action + late), abs=0.6
    )
    assert ORACLE["Charades-syn", "mIoU ceiling"] == pytest.approx(100 * 3.8 / 4.2)
    assert ORACLE["ProactiveVideoQA-syn", "PAUC"] == pytest.approx(
        100 * (1 - 0.75 * 0.2 / 4), abs=0.3
    )


def test_the_floors_of_silence():
    assert SILENT["ProactiveVideoQA-syn", "PAUC"] == 25
    assert SILENT["FDB1-turn-taking-syn", "TOR"] == SILENT["FDB1-pause-syn", "TOR"] == 0
    assert SILENT["FDB1-backchannel-syn", "TOR"] == 0
    assert SILENT["FDB1-backchannel-syn", "JSD"] == 1
    assert SILENT["FDB1-turn-taking-syn", "latency"] is None
    assert SILENT["Charades-syn", "mIoU"] == SILENT["FalseAlarms-syn", "alarms per minute"] == 0
    assert SILENT["Refusal-syn", "over-refusal"] == 0
    assert SILENT["RepCount-syn", "MAE"] == pytest.approx(3 / 3.1)


@pytest.mark.parametrize("key", TIMED)
def test_a_second_late_is_wrong(key):
    assert LATE[key] == 0


def test_a_second_late_costs_what_it_should():
    assert LATE["TimeSpeak-syn", "accuracy@1.0s"] == 100  # the window's length decides
    assert LATE["FDB1-turn-taking-syn", "latency"] == pytest.approx(1.3, abs=0.02)
    assert LATE["Charades-syn", "mIoU"] < ORACLE["Charades-syn", "mIoU"] - 20
    assert LATE["ProactiveVideoQA-syn", "PAUC"] < ORACLE["ProactiveVideoQA-syn", "PAUC"] - 8


def test_text_without_sound_is_not_speech():
    trace = played(SESSION)
    mute = table(dataclasses.replace(trace, output_audio=np.zeros_like(trace.output_audio)))
    spoken = [k for k in PERFECT if k[0] != "Typed-syn"]
    assert {k: mute[k] for k in spoken} == {k: SILENT[k] for k in spoken}
    assert mute["ProactiveVideoQA-syn", "PAUC"] == 25
    assert mute["ProactiveVideoQA-syn", "PAUC reference"] > 90  # the text alone


def test_sound_without_text_says_nothing_but_takes_the_turn():
    trace = played(SESSION)
    turns = [dataclasses.replace(t, text_out="") for t in trace.turns]
    hum = dataclasses.replace(
        trace, turns=turns, output_audio=np.full_like(trace.output_audio, 0.1)
    )
    found = table(hum)
    assert found["TimeSpeak-syn", "accuracy@2.0s"] == 0
    assert found["FalseAlarms-syn", "alarms per minute"] > 20
    assert found["Typed-syn", "accuracy"] == 0
