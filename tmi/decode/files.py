"""Files as a session: what `python -m tmi.decode.stream` streams."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Iterator

import numpy as np
from absl import logging

from tmi import paths
from tmi.config import Config
from tmi.data.records import SAMPLE_RATE, SessionRecord
from tmi.media import audio, video
from tmi.media.text import Tokenizer
from tmi.microturn import layout


def record_of_files(
    config: Config, wav: paths.PathLike = "", video_file: paths.PathLike = "", text: str = "",
    seconds: float = 0.0,
) -> SessionRecord:  # fmt: skip
    """A session of any audio, any video, and text typed at the start. Lasts until the longest has
    been read, the text at the speed of config's micro-turns, and `seconds` more.

    Raises FileNotFoundError, and ValueError for a file that nothing can be read of.
    """
    lay, rate = layout(config), SAMPLE_RATE
    wave = audio.load_wav(paths.local(wav), rate) if wav else np.zeros(0, np.float32)
    frames = list(_shown(config, _frames(video_file))) if video_file else []
    tokens = Tokenizer.load(config.text.tokenizer).encode(text)
    read_s = -(-len(tokens) // lay.max_text_in) * lay.seconds
    seen_s = frames[-1][0] + 0.1 if frames else 0.0
    duration = max(len(wave) / rate, seen_s, read_s) + seconds
    wave = np.pad(wave, (0, max(0, round(duration * rate) - len(wave))))
    return SessionRecord(
        id=paths.local(wav or video_file or "session").stem,
        skills=["files"],
        duration_s=duration,
        user_audio=audio.to_int16(wave),
        model_audio=[],
        model_words=[],
        user_words=[],
        text_in=[(0.0, text)] if text else [],
        text_out=[],
        frames=frames,  # pyright: ignore[reportArgumentType]
        truth={},
    )


def _frames(file: paths.PathLike) -> Iterator[tuple[float, np.ndarray]]:
    report = video.ReadReport()
    found = ((t, image) for t, image in video.read_frames(paths.local(file), report) if t >= 0)
    first = next(found, None)
    if first is None:
        why = report.errors[0] if report.errors else f"{file} ends before 0 s"
        raise ValueError(f"{file}: no frame of it can be shown: {why}")
    yield first
    yield from found
    if report.num_errors:
        logging.warning("%s: %d errors, first: %s", file, report.num_errors, report.errors[0])


def _shown(
    config: Config, frames: Iterable[tuple[float, np.ndarray]]
) -> Iterator[tuple[float, np.ndarray]]:
    """Those of the frames, in order of time, that `video.FramePairs` shows, as large as it does: a
    camera has six of some megabytes in a micro-turn, and the model sees two, small."""
    lay, c = layout(config), config.video

    def turn(item: tuple[float, np.ndarray]) -> int:
        m = lay.microturn_reading(item[0])
        return m + (item[0] >= lay.input_interval(m)[1] - video.EPSILON_S)

    for _, some in itertools.groupby(frames, turn):
        for time_s, image in collections.deque(some, 2):
            yield time_s, video.fit(image, c.rows * c.patch, c.cols * c.patch)
