"""Laws of the clock and the layout of a micro-turn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmi.config import Config, MicroturnConfig
from tmi.microturn import (
    EOM_ID,
    SPEAK_ID,
    Layout,
    Microturn,
    Stream,
    cut,
    input_streams,
    lay_out,
    layout,
    output_streams,
    spill_text,
)

LAY = layout(Config())
ORDER = [Stream.AUDIO_IN, Stream.VIDEO_IN, Stream.TEXT_IN, Stream.TEXT_OUT, Stream.AUDIO_OUT]
tokens = st.lists(st.integers(3, 511), max_size=20)


@st.composite
def microturns(draw, fits: bool = True) -> list[Microturn]:
    """Micro-turns with random streams; with `fits` no text is longer than its room."""
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    out = []
    for _ in range(draw(st.integers(0, 12))):
        kinds = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
        audio_shape = (LAY.audio_positions * LAY.audio_frames, LAY.audio_mels)
        video_shape = (LAY.video_positions, 2, LAY.patch, LAY.patch, 3)
        speech_shape = (LAY.speech_positions * LAY.speech_frames, LAY.speech_mels)
        text_in, text_out = draw(tokens), draw(tokens)
        out.append(
            Microturn(
                audio=rng.integers(0, 16, audio_shape).astype(np.uint8) if kinds[0] else None,
                video=rng.integers(0, 256, video_shape).astype(np.uint8) if kinds[1] else None,
                text_in=text_in[: LAY.max_text_in] if fits else text_in,
                text_out=text_out[: LAY.max_text_out - 1] if fits else text_out,
                speech=rng.standard_normal(speech_shape).astype(np.float32) if kinds[2] else None,
            )
        )
    return out


# The clock.


@pytest.mark.parametrize("seconds", [0.2, 0.4, 1.0])
def test_tenths_are_those_of_the_output(seconds):
    lay = layout(Config(microturn=MicroturnConfig(seconds=seconds)))
    m = np.arange(5000, dtype=np.int32)
    want = [int(np.floor(lay.output_interval(int(i))[0] * 10 + 1e-6)) for i in m]
    assert lay.output_tenths(m).tolist() == want and lay.output_tenths(7) == want[7]


@pytest.mark.parametrize("seconds", [0.2, 0.4, 1.0])
def test_intervals_tile_time_and_agree_with_their_inverses(seconds):
    lay = layout(Config(microturn=MicroturnConfig(seconds=seconds)))
    for m in range(20_000):
        start, end = lay.input_interval(m)
        assert lay.microturn_reading(start) == m
        assert lay.microturn_reading((start + end) / 2) == m
        assert lay.input_interval(m + 1)[0] == end
        assert lay.microturn_playing(lay.output_interval(m)[0]) == m
        assert lay.output_interval(m) == lay.input_interval(m + 1)  # it answers what came before
        assert lay.num_microturns(end) == m + 1


@given(st.floats(0, 36_000))
def test_a_micro_turn_plays_only_what_was_read_before(time_s):
    m = LAY.microturn_playing(time_s)
    assert LAY.input_interval(m)[1] <= time_s + 2e-6 * LAY.seconds
    assert m == LAY.microturn_reading(time_s) - 1


@given(st.floats(1e-3, 36_000))
def test_a_session_is_read_to_its_end_and_no_further(duration_s):
    n = LAY.num_microturns(duration_s)
    assert LAY.input_interval(n - 1)[1] >= duration_s - 2e-6
    assert LAY.input_interval(n - 1)[0] < duration_s


def test_the_default_layout_is_that_of_the_architecture_page():
    assert (LAY.audio_positions, LAY.video_positions, LAY.speech_positions) == (1, 1, 1)
    assert (LAY.audio_frames, LAY.speech_frames, LAY.samples) == (4, 16, 3200)


# The layout.


@given(microturns())
@settings(max_examples=60, deadline=None)
def test_positions_are_in_causal_order(turns):
    seq = lay_out(LAY, turns)
    assert (np.diff(seq.microturn) >= 0).all()
    for m, turn in enumerate(turns):
        stream = seq.stream[seq.microturn == m].tolist()
        assert stream == sorted(stream, key=ORDER.index)
        both = input_streams(LAY, turn) + output_streams(LAY, turn)
        assert stream == [s for s, _ in both]
        assert len(stream) <= LAY.max_positions


@given(microturns())
@settings(max_examples=60, deadline=None)
def test_every_micro_turn_has_one_end_and_speech_follows_speak_alone(turns):
    seq = lay_out(LAY, turns)
    for m, turn in enumerate(turns):
        here = seq.microturn == m
        text = seq.token[here & (seq.stream == Stream.TEXT_OUT)].tolist()
        assert text[:-1] == list(turn.text_out)
        assert text[-1] == (EOM_ID if turn.speech is None else SPEAK_ID)
        spoken = int((seq.stream[here] == Stream.AUDIO_OUT).sum())
        assert spoken == (0 if turn.speech is None else LAY.speech_positions)


@given(microturns())
@settings(max_examples=60, deadline=None)
def test_a_text_target_is_the_next_token_of_text_out(turns):
    seq = lay_out(LAY, turns)
    for s in range(len(seq)):
        ahead = s + 1 < len(seq) and seq.stream[s + 1] == Stream.TEXT_OUT
        assert seq.text_target[s] == (seq.token[s + 1] if ahead else -1)
    # So each written token is predicted once, except one with nothing before it.
    written = int((seq.stream == Stream.TEXT_OUT).sum())
    headless = int(len(seq) > 0 and seq.stream[0] == Stream.TEXT_OUT)
    assert int((seq.text_target >= 0).sum()) == written - headless


@given(microturns())
@settings(max_examples=60, deadline=None)
def test_contents_are_found_through_their_slots(turns):
    seq = lay_out(LAY, turns)
    for kind, held, given_ in (
        (Stream.AUDIO_IN, seq.dmel, [t.audio for t in turns if t.audio is not None]),
        (Stream.VIDEO_IN, seq.video, [t.video for t in turns if t.video is not None]),
        (Stream.AUDIO_OUT, seq.speech, [t.speech for t in turns if t.speech is not None]),
    ):
        assert seq.slot[seq.stream == kind].tolist() == list(range(len(held)))
        if given_:
            np.testing.assert_array_equal(held.ravel(), np.concatenate(given_).ravel())
        else:
            assert len(held) == 0
    before = seq.stream[seq.speech_source]
    assert np.isin(before, [Stream.TEXT_OUT, Stream.AUDIO_OUT]).all()
    assert (seq.stream[seq.speech_source + 1] == Stream.AUDIO_OUT).all()


# Spilling and cutting.


@given(microturns(fits=False))
@settings(max_examples=60, deadline=None)
def test_spilling_loses_no_text_and_delays_it_only_as_far_as_needed(turns):
    spilled = spill_text(LAY, turns)
    for name, room in (("text_in", LAY.max_text_in), ("text_out", LAY.max_text_out - 1)):
        before = [list(getattr(t, name)) for t in turns]
        after = [list(getattr(t, name)) for t in spilled]
        assert sum(after, []) == sum(before, [])
        assert all(len(t) <= room for t in after)
        for m in range(len(after)):
            came, gone = sum(map(len, before[: m + 1])), sum(map(len, after[: m + 1]))
            assert gone <= came  # no text before its time
            assert gone == came or len(after[m]) == room  # none waits while there is room
    for old, new in zip(turns, spilled, strict=False):
        assert (old.audio is new.audio) and (old.video is new.video) and (old.speech is new.speech)
    lay_out(LAY, spilled)  # it fits


@given(
    microturns(), st.integers(0, 60), st.integers(0, 12), st.integers(0, 6), st.integers(0, 6)
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_cut_is_the_longest_prefix_of_whole_micro_turns(turns, room, audio, video, speech):
    seq = lay_out(LAY, turns)

    def fits(s) -> bool:
        sizes = (len(s), len(s.dmel), len(s.video), len(s.speech))
        return all(n <= limit for n, limit in zip(sizes, (room, audio, video, speech), strict=True))

    fitting = max(n for n in range(len(turns) + 1) if fits(lay_out(LAY, turns[:n])))
    contents = {Stream.AUDIO_IN: audio, Stream.VIDEO_IN: video, Stream.AUDIO_OUT: speech}
    short = cut(seq, room, contents)
    for field in dataclasses.fields(short):
        expected = getattr(lay_out(LAY, turns[:fitting]), field.name)
        np.testing.assert_array_equal(getattr(short, field.name), expected, err_msg=field.name)


def test_text_beyond_its_room_is_named():
    with pytest.raises(ValueError, match="at most 8 a micro-turn: use spill_text"):
        lay_out(LAY, [Microturn(text_in=range(3, 12))])
    with pytest.raises(ValueError, match="at most 7 a micro-turn: use spill_text"):
        lay_out(LAY, [Microturn(text_out=range(3, 12))])


def test_an_empty_session_has_no_positions():
    assert len(lay_out(LAY, [])) == 0
    assert len(cut(lay_out(LAY, []), 0, {})) == 0


def test_layouts_are_of_whole_positions_for_every_shipped_tick():
    for seconds in (0.2, 0.4, 1.0):
        lay = layout(Config(microturn=MicroturnConfig(seconds=seconds)))
        assert isinstance(lay, Layout)
        assert lay.audio_positions * lay.audio_frames * 0.05 == pytest.approx(seconds)
        assert lay.speech_positions * lay.speech_frames * 0.0125 == pytest.approx(seconds)
