"""Stop and response latencies of Full-Duplex-Bench v1.5."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evals.sessions import full, played, record, trial
from tmi.evals import onsets, overlap, overlap_timing, vad
from tmi.evals.scoring import Trial, rows

LIST = "one two three four five six seven eight nine ten eleven twelve"  # 2.16 s
SPEECH = st.lists(st.integers(1, 30), max_size=12).map(
    lambda steps: [(sum(steps[:i]) / 10, sum(steps[: i + 1]) / 10) for i in range(1, len(steps), 2)]
)


@pytest.fixture(autouse=True)
def tones_are_speech(monkeypatch):
    monkeypatch.setattr(vad, "speech", lambda w: onsets.segments(onsets.activity(w), 0.1))


def test_by_hand():
    user, model = [(1.0, 3.0), (6.0, 8.0), (9.0, 9.5)], [(0.0, 1.4), (6.5, 7.0), (10.0, 12.0)]
    assert overlap_timing.stops(user, model) == [(1.0, 1.4), (6.5, 7.0)]
    # 3.0 waits for 6.5; 8.0 and 9.5 for 10.0: the shorter is kept.
    assert overlap_timing.responses(user, model) == [(3.0, 6.5), (9.5, 10.0)]


def test_of_stops_with_one_end_the_shortest_is_kept():
    assert overlap_timing.stops([(1.0, 3.0), (2.0, 3.0)], [(0.0, 5.0)]) == [(2.0, 3.0)]


def test_an_answer_begins_strictly_after_the_end():
    assert overlap_timing.responses([(1.0, 3.0)], [(3.0, 4.0)]) == []
    assert overlap_timing.responses([(1.0, 3.0)], [(2.0, 5.0)]) == []


@given(SPEECH, SPEECH)
def test_stops_lie_within_both_and_responses_in_between(user, model):
    for s, e in overlap_timing.stops(user, model):
        assert s < e
        assert any(a <= s and e <= b for a, b in user) and any(a <= s and e <= b for a, b in model)
    starts = [s for s, _ in model]
    for s, e in overlap_timing.responses(user, model):
        assert s < e and s in [b for _, b in user] and e in starts
        assert not any(s < x < e for x in starts)


def interrupted(said, user=((6.0, 9.0),)):
    task = trial("Interruption", 0.0, 16.0, interrupt=[6.0, 9.0], answer="the word is red")
    session = record([task], said, user=user)
    (result,) = overlap.score(played(session), session.truth)
    return result.values


def test_who_stops_and_answers():
    values = interrupted([(4.2, LIST), (9.4, "the word is red")])  # until 6.36
    for prefix in ("", "reference "):
        assert values[f"{prefix}stop count"] == values[f"{prefix}response count"] == 1
        assert values[f"{prefix}stop seconds"] == pytest.approx(0.36, abs=0.02)
        assert values[f"{prefix}response seconds"] == pytest.approx(0.4, abs=0.02)


def test_who_goes_on_stops_with_the_overlap():
    values = interrupted([(5.0, LIST), (7.16, LIST)])  # until 9.32
    assert values["stop seconds"] == pytest.approx(3.0, abs=0.02)
    assert "response seconds" not in values


def test_silence_has_no_times():
    values = interrupted([])
    assert not {k for k in values if "stop" in k or "response" in k}


def test_short_gaps_are_no_end():
    # 0.45 s of the model's and 0.55 s of the user's silence.
    values = interrupted([(5.0, "one two three four"), (6.17, "five")], [(6.0, 7.0), (7.55, 9.0)])
    assert values["stop count"] == values["reference stop count"] == 1
    assert values["reference stop seconds"] == pytest.approx(0.35, abs=0.02)


def test_a_request_before_the_overlap_counts_in_reference_only():
    values = interrupted([(3.0, LIST), (9.4, "the word is red")], [(1.0, 2.4), (6.0, 9.0)])
    assert values["response count"] == 1 and values["reference response count"] == 2
    assert values["reference response seconds"] == pytest.approx(0.6 + 0.4, abs=0.03)


def test_rows_have_both_modes_of_every_category():
    session = full()
    found = rows(overlap.OVERLAP, "x", overlap.score(played(session), session.truth), 0)
    timed = {r.metric: r for r in found if "latency" in r.metric}
    assert len(timed) == 4 * 2 * 2
    assert timed["stop latency user_interruption"].value == pytest.approx(0.16, abs=0.02)
    assert timed["stop latency backchannel"].value == pytest.approx(0.5, abs=0.02)  # all of it
    assert timed["response latency user_interruption"].value == pytest.approx(0.3, abs=0.02)
    assert timed["stop latency backchannel reference"].mode == "reference"
    assert timed["response latency backchannel"].value is None  # it never stopped


def test_never_yielding_averages_75_and_its_harmonic_mean_is_0():
    categories = (*overlap.CATEGORIES, overlap.INTERRUPTION)
    trials = [Trial(c, c, {"right": float(c != overlap.INTERRUPTION)}) for c in categories]
    both = [m for m in overlap.OVERLAP.metrics if m.name in ("average", "harmonic")]
    metrics = dataclasses.replace(overlap.OVERLAP, metrics=tuple(both))
    average, harmonic = rows(metrics, "x", trials, 0)
    assert average.value == 75 and harmonic.value == pytest.approx(0, abs=1e-4)
