"""A record's features stand in the micro-turns that the clock says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.sessions import RATE, Bytes, image, make_record, small_config, tone
from tmi.config import Config, MicroturnConfig
from tmi.data.features import to_microturns, to_sequence
from tmi.data.records import CUT_TAIL_S, CorpusError
from tmi.media.audio import DMel, from_int16, silent_mel, speech_mel
from tmi.microturn import Stream, layout

CONFIG = Config()
LAY = layout(CONFIG)
TOKENS = Bytes()


def turns_of(record, config=CONFIG, rng=None):
    return to_microturns(record, config, TOKENS, DMel(config.audio), rng)


def plain(**fields):
    """Two seconds of a quiet user, nothing else."""
    record = make_record(0, seconds=2.0)
    empty = {"model_audio": [], "model_words": [], "text_in": [], "text_out": [], "frames": []}
    return dataclasses.replace(record, **{**empty, **fields})


def test_audio_is_the_bins_of_the_slice_read():
    record = plain()
    turns = turns_of(record)
    assert len(turns) == 10
    bins = DMel(CONFIG.audio).bins(from_int16(record.user_audio))
    np.testing.assert_array_equal(np.concatenate([t.audio for t in turns]), bins)


def test_features_are_causal():
    record = plain(
        text_in=[(0.5, "hi")], frames=[(0.1 * k, image((9 * k, 0, 0))) for k in range(20)]
    )
    later = dataclasses.replace(record, user_audio=record.user_audio.copy())
    later.user_audio[RATE:] = 0
    later.frames = record.frames[:10]
    for a, b in list(zip(turns_of(record), turns_of(later), strict=True))[:5]:
        np.testing.assert_array_equal(a.audio, b.audio)
        np.testing.assert_array_equal(a.video, b.video)
        assert a.text_in == b.text_in


def test_a_short_track_is_filled_up_and_a_long_one_ends_with_the_session():
    record = plain()
    record.user_audio = record.user_audio[: RATE // 2]
    turns = turns_of(record)
    assert len(turns) == 10 and (turns[-1].audio == 0).all()
    record = plain(duration_s=1.0)
    assert len(turns_of(record)) == 5


def test_what_the_user_said_is_to_be_known_one_micro_turn_after_it_was_read():
    record = plain(user_words=[("stop", 0.1, 0.35), ("it", 0.4, 0.5), ("now", 0.5, 0.59)])
    turns = turns_of(record)
    assert TOKENS.decode(turns[2].heard) == " stop"  # read in 1: [0.2, 0.4)
    assert TOKENS.decode(turns[3].heard) == " it now"
    assert [m for m, t in enumerate(turns) if len(t.heard)] == [2, 3]
    seq = to_sequence(CONFIG, turns)
    at = np.flatnonzero((seq.heard >= 0).any(axis=1))
    assert (seq.stream[at] == Stream.AUDIO_IN).all() and seq.microturn[at].tolist() == [2, 3]
    assert TOKENS.decode(seq.heard[at[0]]) == " stop" and (seq.heard[at[0], 5:] == -1).all()


def test_letters_are_to_be_known_one_micro_turn_after_they_sounded():
    record = plain(user_words=[("Stop", 0.1, 0.35), ("it,", 0.4, 0.5), ("now", 0.5, 0.59)])
    turns = turns_of(record)
    spelled = {m: "".join(chr(97 + i) for i in range(26) if t.spelled >> i & 1)
               for m, t in enumerate(turns) if t.spelled}  # fmt: skip
    assert spelled == {1: "st", 2: "op", 3: "inotw"}
    seq = to_sequence(CONFIG, turns)
    audio = seq.stream == Stream.AUDIO_IN
    assert seq.spelled[audio].tolist() == [t.spelled for t in turns]
    assert (seq.spelled[~audio] == -1).all()


def test_a_number_of_two_words_is_to_be_known_whole_said_or_typed():
    words = [("at", 0.0, 0.1), ("twenty", 0.1, 0.3), ("four", 0.5, 0.7), ("two", 0.9, 1.1)]
    turns = turns_of(plain(user_words=words))
    said = {m: TOKENS.decode(t.heard) for m, t in enumerate(turns) if len(t.heard)}
    assert said == {1: " at", 2: " twenty", 4: " twenty four", 6: " two"}
    turns = turns_of(plain(text_in=[(0.3, "say go at second thirty nine")]))
    last = max(m for m, t in enumerate(turns) if t.text_in)
    assert {m: TOKENS.decode(t.heard) for m, t in enumerate(turns) if len(t.heard)} == {
        last + 1: " thirty nine"
    }


def test_when_an_answer_is_due_is_to_be_known_behind_its_request_and_behind_the_answer_before():
    trial = {"asked_s": 0.35, "triggers": [{"time_s": 1.4}, {"time_s": 2.2}], "region": [0, 3]}
    cue = {"triggers": [{"time_s": 0.9}], "region": [0, 3]}  # no time was named
    record = plain(truth={"trials": [trial, cue]}, duration_s=3.0, text_in=[(0.45, "go")])
    turns = turns_of(record)
    # Output of 6 plays from 1.4 s on; the request was read in 1, what is played in 6 is in 7.
    want = {2: 6, 3: 6, 4: 6, 5: 6, 8: 10, 9: 10}
    assert {m: t.due for m, t in enumerate(turns) if t.due >= 0} == want
    seq = to_sequence(CONFIG, turns)
    at = np.flatnonzero(seq.due >= 0)
    assert dict(zip(seq.microturn[at].tolist(), seq.due[at].tolist(), strict=True)) == want
    assert (seq.text_target[at] >= 0).all()  # each is the last position that is read
    assert seq.stream[at[0]] == Stream.TEXT_IN


def test_what_is_in_view_is_to_be_known_with_each_frame():
    frames = [(t, image((0, 0, 200))) for t in (0.05, 0.25, 0.35, 0.65)]
    record = plain(frames=frames, seen_words=[("red ball", 0.3, 0.6), ("cat", 0.6, 2.0)])
    turns = turns_of(record)
    assert {m: TOKENS.decode(t.seen) for m, t in enumerate(turns) if len(t.seen)} == {
        1: " red ball", 3: " cat",
    }  # fmt: skip
    seq = to_sequence(CONFIG, turns)
    at = np.flatnonzero((seq.heard >= 0).any(axis=1))
    assert (seq.stream[at] == Stream.VIDEO_IN).all() and seq.microturn[at].tolist() == [1, 3]


def test_a_mistake_is_shown_and_not_taught():
    words = [("one", 0.4, 0.6), ("two", 0.9, 1.1), ("three", 1.3, 1.5)]
    record = plain(model_audio=[(0.4, tone(1.2))], model_words=words)
    late = dataclasses.replace(record, mistakes=[(0.8, 1.2)])
    right, shown = (to_sequence(CONFIG, turns_of(r)) for r in (record, late))
    np.testing.assert_array_equal(shown.token, right.token)
    np.testing.assert_array_equal(shown.speech, right.speech)
    # What plays from 0.8 to 1.2 s is of micro-turns 3 and 4.
    of_mistake = np.isin(np.append(right.microturn[1:], -1), [3, 4])
    assert (right.text_target[of_mistake] >= 0).sum() >= 5
    np.testing.assert_array_equal(shown.text_target, np.where(of_mistake, -1, right.text_target))


def test_frames_make_pairs_where_they_came():
    turns = turns_of(plain(frames=[(0.05, image((200, 0, 0))), (0.45, image((0, 200, 0)))]))
    assert [m for m, t in enumerate(turns) if t.video is not None] == [0, 2]
    assert turns[0].video.shape == (1, 2, 40, 40, 3)
    assert turns[0].video[..., 0].mean() > 150 > turns[2].video[..., 0].mean()


def test_words_stand_where_their_sound_starts_to_play():
    record = plain(model_words=[("one", 0.6, 0.8), ("two", 0.79, 0.9), ("three", 1.0, 1.2)])
    written = [TOKENS.decode(t.text_out) for t in turns_of(record)]
    assert written[2] == " one two"[:7] and written[3] == " one two"[7:]
    assert written[4] == " three"
    assert LAY.output_interval(2)[0] == pytest.approx(0.6)


def test_typed_text_is_read_in_its_micro_turn_and_answers_written_from_theirs():
    turns = turns_of(plain(text_in=[(0.7, "a question, long")], text_out=[(1.3, "an answer")]))
    assert [len(t.text_in) for t in turns[3:6]] == [8, 8, 0]
    assert TOKENS.decode(turns[5].text_out) == " an ans"
    assert TOKENS.decode(turns[6].text_out) == "wer"
    assert all(t.speech is None for t in turns)


def test_text_longer_than_the_session_is_not_lost():
    text = "x" * 200
    turns = turns_of(plain(text_out=[(1.9, text)]))
    assert "".join(TOKENS.decode(t.text_out) for t in turns) == " " + text
    assert len(turns) > 10 and all(t.audio is not None for t in turns)


def test_speech_is_the_mel_of_the_model_track_where_it_plays():
    wave = tone(0.5)
    turns = turns_of(plain(model_audio=[(0.6, wave)]))
    assert [m for m, t in enumerate(turns) if t.speech is not None] == [2, 3, 4]
    track = np.zeros(RATE * 3, np.float32)
    track[round(0.6 * RATE) : round(1.1 * RATE)] = from_int16(wave)
    mel = speech_mel(track, CONFIG.speech)
    for m in (2, 3, 4):
        np.testing.assert_allclose(
            turns[m].speech, mel[16 * (m + 1) : 16 * (m + 2)], rtol=1e-6, atol=1e-6
        )
    # Windows of the last frames lie behind the end of the sound: the floor.
    np.testing.assert_allclose(turns[4].speech[8:], silent_mel(CONFIG.speech), atol=1e-6)


@pytest.mark.parametrize("cut", range(4, 9))
def test_nothing_said_before_a_cut_tells_of_it(cut):
    """Or training would learn to fall silent from its own last words, and not from the user's."""
    whole = np.random.default_rng(cut).normal(0, 3000, 2 * RATE).astype(np.int16)
    uncut = turns_of(plain(model_audio=[(0.3, whole)]))
    time = 0.2 * cut
    kept = whole[: round((time - 0.3 + CUT_TAIL_S) * RATE)]
    turns = turns_of(plain(model_audio=[(0.3, kept)], cuts=[time]))
    spoken = [m for m, t in enumerate(turns) if t.speech is not None]
    assert spoken == list(range(0, cut - 1))
    for m in spoken:
        np.testing.assert_array_equal(turns[m].speech, uncut[m].speech)


@given(st.lists(st.integers(300, 2600), min_size=2, max_size=8), st.integers(2, 12))
@settings(max_examples=25, deadline=None)
def test_nothing_said_tells_of_what_is_said_later(starts, m):
    """Words that begin where micro-turn m + 1 or a later one plays leave no trace in m's patch."""
    rng = np.random.default_rng(0)
    said = [(ms / 1000, rng.normal(0, 3000, 3000).astype(np.int16)) for ms in sorted(starts)]
    end = 0.2 * (m + 2)
    before = [x for x in said if x[0] < end - 1e-9]
    some, every = (turns_of(plain(model_audio=a, duration_s=3.0)) for a in (before, said))
    for a, b in zip(some[: m + 1], every, strict=False):
        assert (a.speech is None) == (b.speech is None)
        if a.speech is not None:
            np.testing.assert_array_equal(a.speech, b.speech)


def test_nothing_sounds_before_the_first_output_can():
    turns = turns_of(plain(model_audio=[(0.0, tone(0.3))], model_words=[("oh", 0.0, 0.2)]))
    assert turns[0].speech is not None and turns[1].speech is None
    assert TOKENS.decode(turns[0].text_out) == " oh"


@pytest.mark.parametrize("seconds", [0.2, 0.4, 1.0])
def test_every_tick_tells_the_same_story(seconds):
    config = Config(microturn=MicroturnConfig(seconds=seconds, max_text_in=40, max_text_out=40))
    record = make_record(5, "typed", 6.0)
    turns = turns_of(record, config)
    written = "".join(TOKENS.decode(t.text_out) for t in turns)
    assert sorted(written.split()) == sorted("yes no a long typed answer".split())
    bins = DMel(config.audio).bins(from_int16(record.user_audio))
    np.testing.assert_array_equal(np.concatenate([t.audio for t in turns])[: len(bins)], bins)


def test_streams_without_slots_are_left_out():
    record = make_record(1, "count")
    no_video = small_config(video_slots=0)
    turns = turns_of(record, no_video)
    assert all(t.video is None for t in turns) and any(t.speech is not None for t in turns)
    turns = turns_of(record, small_config(speech_slots=0))
    assert all(t.speech is None for t in turns)
    assert "yes" in "".join(TOKENS.decode(t.text_out) for t in turns)


def test_a_session_longer_than_a_row_is_cut():
    config = small_config()
    turns = turns_of(make_record(2, "answer", 60.0), config)
    seq = to_sequence(config, turns)
    assert 0 < len(seq) <= config.data.row_length
    assert int((seq.stream == Stream.AUDIO_IN).sum()) <= config.data.audio_slots
    assert int(seq.microturn[-1]) + 1 < len(turns)


@pytest.mark.parametrize(
    "fields",
    [
        {"duration_s": 0.0},
        {"duration_s": float("nan")},
        {"duration_s": 1e9},
        {"model_words": [("late", 500.0, 501.0)]},
        {"model_audio": [(-1.0, tone(0.5))]},
        {"text_in": [(float("nan"), "when?")]},
    ],
)
def test_impossible_times_are_refused(fields):
    with pytest.raises(CorpusError, match="s"):
        turns_of(plain(**fields))


def test_empty_streams_are_fine():
    turns = turns_of(
        plain(text_in=[(0.1, "")], text_out=[(0.5, "")], user_audio=np.zeros(0, np.int16))
    )
    assert len(turns) == 10 and not any(t.text_in or t.text_out for t in turns)
    assert (np.concatenate([t.audio for t in turns]) == 0).all()


def test_a_damaged_frame_is_left_out():
    turns = turns_of(plain(frames=[(0.05, b"\xff\xd8 no image"), (0.45, image((0, 200, 0)))]))
    assert [m for m, t in enumerate(turns) if t.video is not None] == [2]
