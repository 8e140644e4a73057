"""Traces: words of the text stream, what can be heard of them, saving and loading."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evals.sessions import tone
from tmi.evals.trace import Trace, TraceTurn, from_script, load, save


def trace_of(texts, spoke=None, audio=None):
    turns = [
        TraceTurn(m, "", False, text, bool(spoke and m in spoke), 1.0)
        for m, text in enumerate(texts)
    ]
    silence = np.zeros(3200 * len(texts), np.float32)
    return Trace("t", "model", 0.2, turns, silence, silence if audio is None else audio)


def test_a_word_starts_when_its_microturn_plays():
    words = trace_of(["", " hello", ""]).words()
    assert words == [("hello", pytest.approx(0.4), pytest.approx(0.6))]


def test_text_without_a_space_continues_the_word_before():
    assert [w for w, _, _ in trace_of([" he", "llo you", "r", " dog"]).words()] == [
        "hello", "your", "dog",
    ]  # fmt: skip


def test_after_a_silent_microturn_a_new_word_begins():
    assert [w for w, _, _ in trace_of([" he", "", "llo"]).words()] == ["he", "llo"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["a", "bee", "sea-dee"]), max_size=3), min_size=1, max_size=9)
)
def test_every_word_written_is_a_word(turns):
    texts = ["".join(f" {w}" for w in words) for words in turns]
    assert [w for w, _, _ in trace_of(texts).words()] == [w for words in turns for w in words]


def test_right_text_with_silent_audio_is_not_heard():
    trace = trace_of(["", " tea", "", ""])
    assert trace.words() and not trace.heard


def test_a_heard_word_has_the_onset_of_its_sound():
    audio = np.zeros(3200 * 6, np.float32)
    wave = tone(0.3).astype(np.float32) / 32768
    audio[round(0.53 * 16000) :][: len(wave)] = wave
    trace = trace_of(["", " tea", "", "", "", ""], audio=audio)
    (word,) = trace.heard
    assert (word.text, word.emitted_s) == ("tea", pytest.approx(0.4))
    assert word.onset_s == pytest.approx(0.53, abs=0.011)


def test_saved_and_loaded_is_the_same(tmp_path):
    wave = tone(0.5).astype(np.float32) / 32768
    trace = from_script(
        "x", "model", 1.0, audio=[(0.4, wave)], words=[(0.4, "tea")], user_audio=wave
    )
    trace.meta["user_speech"] = [[0.0, 0.5]]
    back = load(save(trace, tmp_path))
    assert (back.id, back.turns, back.meta) == (trace.id, trace.turns, trace.meta)
    np.testing.assert_array_equal(back.user_audio, trace.user_audio)
    np.testing.assert_allclose(back.output_audio, trace.output_audio, atol=1 / 32768)


def test_a_trace_without_its_sound_is_named(tmp_path):
    path = save(from_script("x", "model", 1.0), tmp_path)
    (tmp_path / "x.output.flac").unlink()
    with pytest.raises(FileNotFoundError, match="x.output.flac"):
        load(path)


def test_a_script_is_cut_at_the_session_s_end():
    wave = tone(2.0).astype(np.float32) / 32768
    trace = from_script("x", "timer", 1.0, audio=[(-0.5, wave), (0.9, wave)], words=[(5.0, "late")])
    assert len(trace.output_audio) == 16000 and not trace.words()
