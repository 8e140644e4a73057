"""Late replies: shown as they would be, the moment before not taught, all else untouched."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.test_features import CONFIG, LAY, RATE, TOKENS, plain, turns_of
from tmi.data.lateness import LATE, delay_replies
from tmi.media.audio import silent_mel

REPLY = np.full(round(0.3 * RATE), 3000, np.int16)


def session(starts, duration=20.0):
    """Replies 0.1 s after their triggers, each one word."""
    return plain(
        duration_s=duration,
        model_audio=[(t, REPLY) for t in starts],
        model_words=[("go", t + 0.01, t + 0.29) for t in starts],
        truth={"trials": [{"triggers": [{"time_s": t - 0.1} for t in starts]}]},
    )


@given(st.sets(st.integers(2, 45), min_size=1, max_size=12), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_replies_move_by_whole_microturns_and_never_over_each_other(places, seed):
    starts = [0.4 * k for k in sorted(places)]
    record = session(starts)
    late = delay_replies(record, np.random.default_rng(seed), LAY)
    ends = 0.0
    for (before, _), (after, wave), (_, a, b) in zip(
        record.model_audio, late.model_audio, late.model_words, strict=True
    ):
        moved = round((after - before) / LAY.seconds, 6)
        assert moved in LATE and after >= ends - 1e-6
        ends = after + len(wave) / RATE
        assert after < a < b < ends
    assert ends <= record.duration_s + 1e-6
    moves = sum(a != b for (a, _), (b, _) in zip(record.model_audio, late.model_audio, strict=True))
    assert len(late.mistakes) == moves
    assert [t for t, _ in record.model_audio] == starts  # the record itself stays


def test_the_missed_moment_is_silent_and_not_taught():
    seeds = (
        s
        for s in range(100)
        if delay_replies(session([2.0]), np.random.default_rng(s), LAY).mistakes
    )
    record = delay_replies(session([2.0]), np.random.default_rng(next(seeds)), LAY)
    late = round((record.model_audio[0][0] - 2.0) / LAY.seconds)
    turns = turns_of(record)
    right = 9  # whose output plays from 2.0 s on
    assert [m for m, t in enumerate(turns) if not t.taught] == list(range(right, right + late))
    spoke = [m for m, t in enumerate(turns) if t.speech is not None]
    assert spoke == [right + late, right + late + 1]
    assert TOKENS.decode(turns[right + late].text_out) == " go"
    assert np.any(turns[right + late].speech != silent_mel(CONFIG.speech))


def test_only_training_and_only_replies_to_triggers_are_late():
    record = session([2.0, 6.0])
    assert all(t.taught for t in turns_of(record))
    other = plain(model_audio=[(0.6, REPLY)], model_words=[("go", 0.61, 0.8)])
    for seed in range(20):
        assert delay_replies(other, np.random.default_rng(seed), LAY) is other
