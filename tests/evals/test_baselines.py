"""Baselines: what they may know and what they may not."""

import numpy as np
import pytest

from tests.evals.sessions import NO_PRIOR, full, record, trial
from tmi.evals import baselines, vad
from tmi.evals.scoring import rows
from tmi.evals.suites import BENCHMARKS

SESSION = full()
PRIOR = baselines.learn([SESSION])


@pytest.fixture
def tones_are_speech(monkeypatch):
    """The detector knows tones for no speech, so their energy stands in for it."""
    from tmi.evals import onsets

    monkeypatch.setattr(vad, "speech", lambda w: onsets.segments(onsets.activity(w), 0.1))


def table(trace):
    return {
        (b.suite, r.metric): r.value
        for b in BENCHMARKS
        for r in rows(b, "x", b.score(trace, SESSION.truth), 0)
    }


def test_every_baseline_gives_a_trace_of_the_session(tones_are_speech):
    for name, make in baselines.BASELINES.items():
        trace = make(SESSION, PRIOR)
        assert (trace.system, trace.id) == (name, SESSION.id)
        assert trace.duration_s == pytest.approx(SESSION.duration_s)
        assert np.isfinite(trace.output_audio).all()


def test_the_timer_knows_means_and_the_commonest():
    two = [
        record([trial("TimeSpeak", 1.0, 9.0, triggers=[{"time_s": 1.0 + t, "answer": a}])])
        for t, a in ((2.0, "tea"), (4.0, "tea"), (6.0, "now"))
    ]
    prior = baselines.learn(two)
    assert prior.times["TimeSpeak"] == pytest.approx((4.0,))
    assert prior.answer["TimeSpeak"] == "tea"
    blind = record([trial("TimeSpeak", 3.0, 12.0, triggers=[{"time_s": 11.0, "answer": "lunch"}])])
    (word,) = baselines.timer(blind, prior).heard
    assert word.text == "tea" and word.onset_s == pytest.approx(7.0, abs=0.02)


def test_the_timer_counts_on_to_the_end_of_the_task():
    task = trial("RepCount", 64.0, 72.0, count=3, reps=[[65, 66], [66, 67], [67, 68]])
    session = record([task], duration_s=80.0)
    words = [w.text for w in baselines.timer(session, PRIOR).heard]
    assert words[:4] == ["one", "two", "three", "four"] and len(words) == 7


def test_the_harness_has_the_right_words_and_not_the_time(tones_are_speech):
    found = table(baselines.vad_half_duplex(SESSION, PRIOR))
    assert found["FDB1-pause-syn", "TOR"] == 1  # 0.8 s of pause are an end to it
    assert found["FDB1-interruption-syn", "yielded<=0.4s"] == 100
    assert found["FDB1-interruption-syn", "latency"] >= 0.5 - 0.011
    assert found["CueSpeak-syn", "accuracy@0.6s"] == 0
    assert found["RepCount-syn", "OBO"] == 0
    assert found["Typed-syn", "accuracy"] == 0


def test_who_never_yields_does_not_hear_the_interruption(tones_are_speech):
    user = [(1.0, 2.0), (5.0, 8.0)]
    task = trial("Interruption", 1.0, 14.0, interrupt=[5.0, 8.0], answer="the word is red")
    said = [
        (2.4, "one two three four five six seven eight nine ten eleven twelve thirteen fourteen")
    ]
    session = record([task], [*said, (8.4, "the word is red")], user=user)
    deaf = baselines.never_yield(session, NO_PRIOR)
    hears = baselines.vad_half_duplex(session, NO_PRIOR)
    score = BENCHMARKS[5].score
    assert BENCHMARKS[5].suite == "FDB1-interruption-syn"
    assert score(deaf, session.truth)[0].values["yielded"] == 0
    assert score(hears, session.truth)[0].values["yielded"] == 1


def test_always_talk_never_stops():
    trace = baselines.always_talk(SESSION, PRIOR)
    assert trace.activity[30:-30].mean() > 0.9


def test_nothing_learnt_still_runs():
    empty = baselines.learn([])
    for make in (baselines.silent, baselines.timer, baselines.always_talk):
        make(SESSION, empty)


def test_silero_hears_speech_and_not_silence():
    assert vad.speech(np.zeros(16000, np.float32)) == []
