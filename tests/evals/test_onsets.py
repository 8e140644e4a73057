"""When a track sounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evals.sessions import tone
from tmi.evals import onsets


def track(seconds, *pieces, level=0.1):
    wave = np.zeros(round(seconds * 16000), np.float32)
    for s, e in pieces:
        part = tone(e - s, level=level).astype(np.float32) / 32768
        wave[round(s * 16000) :][: len(part)] = part
    return wave


@settings(max_examples=40, deadline=None)
@given(st.floats(0.1, 1.0), st.floats(0.05, 0.9))
def test_onset_and_offset_are_exact_to_a_frame(start, length):
    found = onsets.segments(onsets.activity(track(2.5, (start, start + length))))
    assert len(found) == 1
    assert found[0][0] == pytest.approx(start, abs=0.0101)
    assert found[0][1] == pytest.approx(start + length, abs=0.0101)


def test_below_the_threshold_and_clicks_are_silence():
    assert not onsets.activity(track(1.0, (0.2, 0.8), level=0.005)).any()  # 0.0035 rms
    assert not onsets.activity(track(1.0, (0.2, 0.215))).any()
    assert not onsets.activity(np.full(1600, np.nan, np.float32)).any()


def test_gaps_up_to_200_ms_join_and_longer_ones_part():
    mask = onsets.activity(track(3.0, (0.0, 0.5), (0.7, 1.0), (1.21, 1.5)))
    assert len(onsets.segments(mask)) == 2
    assert len(onsets.segments(mask, 0.1)) == 3


def test_a_word_amid_a_phrase_starts_with_its_microturn():
    mask = onsets.activity(track(2.0, (0.4, 1.5)))
    assert onsets.sound_onset(mask, 0.8, 0.2) == 0.8


def test_a_rise_within_the_microturn_is_the_word_s_onset():
    mask = onsets.activity(track(2.0, (0.4, 0.83), (0.93, 1.5)))
    assert onsets.sound_onset(mask, 0.8, 0.2) == pytest.approx(0.93)


def test_sound_may_follow_a_microturn_late_but_no_later():
    assert onsets.sound_onset(onsets.activity(track(2.0, (1.1, 1.5))), 0.8, 0.2) == pytest.approx(
        1.1
    )
    assert onsets.sound_onset(onsets.activity(track(2.0, (1.2, 1.5))), 0.8, 0.2) is None


def test_the_tail_of_the_word_before_is_not_the_word():
    mask = onsets.activity(track(2.0, (0.4, 0.86), (1.05, 1.4)))
    assert onsets.sound_onset(mask, 0.8, 0.2) == pytest.approx(1.05)
    # After a gap of 40 ms, and with no more than a tail in the micro-turn.
    mask = onsets.activity(track(2.0, (0.4, 0.82), (0.86, 0.89), (1.1, 1.4)))
    assert onsets.sound_onset(mask, 0.8, 0.2) == pytest.approx(0.86)


def test_a_tail_that_nothing_follows_and_a_longer_one_are_the_word():
    mask = onsets.activity(track(2.0, (0.4, 0.86)))
    assert onsets.sound_onset(mask, 0.8, 0.2) == 0.8
    mask = onsets.activity(track(2.0, (0.4, 0.9), (1.05, 1.4)))
    assert onsets.sound_onset(mask, 0.8, 0.2) == 0.8
    assert onsets.sound_onset(np.ones(86, bool), 0.8, 0.2) == 0.8  # the track ends there


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 19), st.integers(6, 60), st.integers(0, 30))
def test_a_word_after_silence_is_never_early_nor_late(late, length, tail):
    """Written at 1.0, it sounds from 1.0 + late frames; the word before it ended 50 ms earlier."""
    mask = np.zeros(200, bool)
    mask[100 + late : 100 + late + length] = True
    mask[60 : min(60 + tail, 95 + late)] = True
    assert onsets.sound_onset(mask, 1.0, 0.2) == pytest.approx(1.0 + late / 100)


def test_last_sound():
    mask = onsets.activity(track(2.0, (0.5, 1.2)))
    assert onsets.last_sound(mask, 0.0, 2.0) == pytest.approx(1.2)
    assert onsets.last_sound(mask, 0.0, 1.0) == pytest.approx(1.0)
    assert onsets.last_sound(mask, 1.3, 2.0) is None
