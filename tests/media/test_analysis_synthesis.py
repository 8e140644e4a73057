"""The report on the waveform stage: word errors, bad input. Its judges are run by hand."""

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from tmi.config import SpeechConfig
from tmi.media import analysis_synthesis as report

WORDS = st.lists(st.sampled_from("abcd"), max_size=6)


@given(a=WORDS, b=WORDS, c=WORDS)
def test_word_errors_are_a_distance(a, b, c):
    assert (report.word_errors(a, b) == 0) == (a == b)
    assert report.word_errors(a, b) == report.word_errors(b, a)
    assert report.word_errors(a, c) <= report.word_errors(a, b) + report.word_errors(b, c)
    assert report.word_errors(a, []) == len(a)


def test_clips_need_their_transcripts(tmp_path):
    with pytest.raises(ValueError, match="no file matches"):
        report.read_clips(str(tmp_path / "*.wav"))
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16000)
    with pytest.raises(FileNotFoundError, match="expected .*a.txt"):
        report.read_clips(str(tmp_path / "*.wav"))
    (tmp_path / "a.txt").write_text("It is 7.\n")
    assert report.read_clips(str(tmp_path / "*.wav"))[0].words == ["it", "is", "seven"]


def test_fields_of_the_config():
    config = report.changed(SpeechConfig(), ["griffin_lim_iters=16", "floor=1e-4"])
    assert config.griffin_lim_iters == 16 and config.floor == 1e-4
    with pytest.raises(ValueError, match="no such field.*iterations"):
        report.changed(SpeechConfig(), ["iterations=3"])
