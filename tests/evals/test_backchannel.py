"""Acknowledging a story: the public rules, the distance of when, strict figures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evals.sessions import played, record, trial
from tmi.evals import backchannel, onsets, vad
from tmi.evals.baselines import BASELINES, Prior

SEGMENTS = st.lists(
    st.tuples(st.floats(0, 9.5), st.floats(0.05, 0.5)).map(lambda x: (x[0], x[0] + x[1])),
    min_size=1, max_size=8,
)  # fmt: skip


@pytest.fixture(autouse=True)
def tones_are_speech(monkeypatch):
    monkeypatch.setattr(vad, "speech", lambda w: onsets.segments(onsets.activity(w), 0.1))


def words(*times):
    return [("yeah", t, t + 0.2) for t in times]


@pytest.mark.parametrize(
    ("segments", "times", "taken", "kept"),
    [
        ([], [], False, 0),
        ([(1.0, 1.4)], [1.0], False, 1),
        ([(1.0, 1.9)], [1.0, 1.4], False, 1),  # brief, 2 words
        ([(1.0, 1.9)], [1.0, 1.2, 1.4], True, 0),  # brief, 3 words
        ([(1.0, 2.0)], [1.0], True, 0),  # < 1 s is strict
        ([(1.0, 4.1)], [1.0], True, 0),  # > 3 s
        ([(1.0, 1.4), (3.0, 3.4)], [1.0, 3.0], False, 2),
        ([(1.0, 1.4), (3.0, 4.4), (6.0, 6.4)], [1.0, 3.0, 6.0], False, 1),  # the last decides
        ([(1.0, 1.4), (3.0, 6.4), (8.0, 8.4)], [1.0, 3.0, 8.0], True, 1),  # but > 3 s ends it
        ([(1.0, 1.4)], [], False, 1),  # sound without words counts
    ],
)
def test_the_public_rules(segments, times, taken, kept):
    found, left = backchannel.reference(segments, words(*times))
    assert found is taken and len(left) == kept


def test_bins_include_both_ends():
    np.testing.assert_allclose(
        backchannel.histogram([(0.2, 0.6)], 1.0), [0, 1 / 3, 1 / 3, 1 / 3, 0, 0], atol=1e-9
    )
    assert len(backchannel.histogram([(0.3, 0.35)], 0.99)) == 5  # int(0.99 / 0.2) + 1


@given(SEGMENTS, SEGMENTS)
def test_a_distance(a, b):
    one, two = backchannel.histogram(a, 10.0), backchannel.histogram(b, 10.0)
    assert one.sum() == pytest.approx(1) and (one > 0).all()
    there = backchannel.distance(a, two, 10.0)
    assert there == pytest.approx(backchannel.distance(b, one, 10.0), abs=1e-9)
    assert 0 <= there <= np.sqrt(np.log(2)) + 1e-9
    # The square root of a rounding error of the divergence.
    assert backchannel.distance(a, one, 10.0) == pytest.approx(0, abs=1e-7)


def test_known_distances():
    far = backchannel.distance([(1.0, 1.1)], backchannel.histogram([(8.0, 8.1)], 10.0), 10.0)
    assert far == pytest.approx(0.8326, abs=1e-4)
    assert backchannel.distance([], backchannel.histogram([(8.0, 8.1)], 10.0), 10.0) == 1.0
    # All in one bin against half there, half elsewhere, by hand.
    half = backchannel.distance(
        [(1.0, 1.1)], backchannel.histogram([(1.0, 1.1), (8.0, 8.1)], 10), 10
    )
    by_hand = 0.5 * (np.log(4 / 3) + 0.5 * np.log(2 / 3) + 0.5 * np.log(2))
    assert half == pytest.approx(np.sqrt(by_hand), abs=1e-4)


def test_the_reference_is_resampled_linearly():
    # Of 3 bins made 6: 0, .4, .8, .8, .4, 0 and normalised.
    found = backchannel.distance([(0.0, 1.0)], np.array([0.0, 1.0, 0.0]), 1.0)
    p, q = np.full(6, 1 / 6), np.array([0, 0.4, 0.8, 0.8, 0.4, 0]) / 2.4
    m = (p + q) / 2
    inner = slice(1, 5)
    by_hand = 0.5 * ((p * np.log(p / m)).sum() + (q[inner] * np.log((q / m)[inner])).sum())
    assert found == pytest.approx(np.sqrt(by_hand), abs=1e-4)


def story(said, truth=((4.0, "yeah"), (9.0, "yeah"))):
    """Scores what is said against what should be."""
    triggers = [{"time_s": t - 0.3, "answer": w} for t, w in truth]
    task = trial("Backchannel", 2.0, 12.0, triggers=triggers)
    own = record([task], truth)
    trace = played(record([task], said))
    trace.meta = played(own).meta
    (result,) = backchannel.score(trace, own.truth)
    return result.values


def test_the_ground_truth_is_right():
    values = story([(4.0, "yeah"), (9.0, "yeah")])
    assert values["TOR"] == values["reference TOR"] == 0
    assert values["freq"] == values["reference freq"] == pytest.approx(0.2)
    assert values["JSD"] == pytest.approx(0, abs=1e-6)


def test_silence_takes_no_turn_and_has_distance_1():
    values = story([])
    assert values["TOR"] == values["freq"] == 0 and values["JSD"] == values["reference JSD"] == 1


def test_at_other_times_is_far():
    assert story([(5.0, "yeah"), (10.4, "yeah")])["JSD"] > 0.8


def test_a_word_of_substance_takes_the_turn_in_strict_only():
    values = story([(4.0, "yeah"), (9.0, "blue")])
    assert values["TOR"] == 1 and values["reference TOR"] == 0
    assert values["freq"] == pytest.approx(0.1) and values["reference freq"] == pytest.approx(0.2)


def test_a_speech_takes_the_turn():
    values = story([(4.0, "one two three four five six seven eight nine ten")])
    assert values["TOR"] == values["reference TOR"] == 1 and values["freq"] == 0
    assert values["JSD"] == 1


def test_what_is_said_outside_the_story_does_not_count():
    assert story([(0.5, "one two three four")])["TOR"] == 0


def test_without_a_recording_there_is_no_distance():
    task = trial("Backchannel", 2.0, 12.0, triggers=[])
    trace = BASELINES["silent"](record([task]), Prior({}, {}, {}))
    (result,) = backchannel.score(trace, {"id": "x", "trials": [task]})
    assert "JSD" not in result.values and result.values["TOR"] == 0
