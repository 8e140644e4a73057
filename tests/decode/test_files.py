"""Files as a session: what lasts how long, and what the model is shown of a video."""

import numpy as np
import pytest
import soundfile

from tests.media.test_video import write
from tmi.config import Config
from tmi.decode.files import record_of_files
from tmi.media import video
from tmi.media.text import Tokenizer
from tmi.microturn import layout

CONFIG = Config()


def test_files_of_any_rate_become_a_session(tmp_path):
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.random.default_rng(0).normal(size=(44_100, 2)) * 0.1, 44_100)
    record = record_of_files(CONFIG, str(path), seconds=2.0, text="hi")
    assert record.duration_s == pytest.approx(3.0, abs=0.01)
    assert len(record.user_audio) == pytest.approx(48_000, abs=2)
    assert record.text_in == [(0.0, "hi")] and record.id == "stereo"


def test_text_that_outlasts_the_sound_is_followed_by_the_tail(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    text, lay = "a long letter " * 300, layout(CONFIG)
    record = record_of_files(CONFIG, tmp_path / "a.wav", text=text, seconds=2.0)
    tokens = Tokenizer.load(CONFIG.text.tokenizer).encode(text)
    assert record.duration_s == pytest.approx(-(-len(tokens) // lay.max_text_in) * 0.2 + 2.0)


def test_frames_are_kept_as_large_and_as_many_as_the_model_sees(tmp_path):
    """And it sees the same bits."""
    rng = np.random.default_rng(0)
    times = np.unique([0, 1, 199, 200, 201, 400, 600, 1000, *rng.integers(0, 3000, 60)]).tolist()
    path = write(tmp_path / "a.mkv", times, rng.integers(0, 255, len(times)), size=(120, 200))
    record = record_of_files(CONFIG, video_file=path, seconds=1.0)
    slices = [layout(CONFIG).input_interval(m) for m in range(20)]
    whole = video.frame_pairs(CONFIG.video, video.read_frames(path), slices)
    shown = video.frame_pairs(CONFIG.video, record.frames, slices)
    assert sum(pair is not None for pair in whole) > 10
    for a, b in zip(whole, shown, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)
    assert max(image.nbytes for _, image in record.frames) == whole[0][0].nbytes
    assert len(record.frames) <= 2 * 15 < len(times)


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("this is no video" * 50)
    with pytest.raises(ValueError, match="text.mp4: no frame of it can be shown: .*not readable"):
        record_of_files(CONFIG, video_file=tmp_path / "text.mp4")
    with pytest.raises(FileNotFoundError, match="gone.mp4"):
        record_of_files(CONFIG, video_file=tmp_path / "gone.mp4")
