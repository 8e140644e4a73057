"""The sound of files that libsndfile does not read, by FFmpeg: m4a, mp4, mov, webm, mkv, ..."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from absl import logging
from av.error import FFmpegError

from tmi.media import video

JITTER_S = 0.05  # containers round the times of packets; a frame further off is where it says


def read_soundtrack(path: str | Path) -> tuple[np.ndarray, int]:
    """(float32 [N], rate) of the first audio stream in `path`, its channels averaged.

    Sample 0 is at 0 s of the file's clock, which is that of its video (`video.read_frames`): a late
    start and gaps, also those of packets that do not decode, are silence, and what comes before 0
    is left out. Flaws are counted on the log. Raises ValueError if there is no sound to be had.
    """
    report = video.ReadReport()
    try:
        container = av.open(str(path))
    except (FFmpegError, ValueError) as e:
        raise ValueError(f"FFmpeg: {e}") from e
    with container:
        if not container.streams.audio:
            kinds = sorted({s.type for s in container.streams})
            raise ValueError(f"{path} has no sound, only {kinds or 'nothing'}")
        stream = container.streams.audio[0]
        zero_s, rate = video.time_zero(container), 0
        due = end = 0  # where the next frame is to begin, and how much there is from 0 on
        parts: list[np.ndarray] = []
        for frame in video.decoded(container, stream, str(path), report):
            rate = rate or frame.sample_rate
            wave = _mono(frame)
            if frame.is_corrupt or frame.sample_rate != rate or not len(wave):
                report.add(f"{path}: {len(wave)} samples at {end / rate:.3f} s cannot be used")
                continue
            start = due
            if frame.pts is not None and frame.time_base is not None:
                start = round((float(frame.pts * frame.time_base) - zero_s) * rate)
            if parts and abs(start - due) <= JITTER_S * rate:
                start = due
            due = start + len(wave)
            wave = wave[max(0, end - start) :]
            parts += [np.zeros(max(0, start - end), np.float32), wave]
            end = max(end, start) + len(wave)
    if not parts:
        raise ValueError(report.errors[0] if report.errors else f"{path}: no samples")
    if report.num_errors:
        logging.warning("%s: %d errors, first: %s", path, report.num_errors, report.errors[0])
    return np.concatenate(parts), rate


def _mono(frame: av.AudioFrame) -> np.ndarray:
    """float32 [n] of a frame in any sample format."""
    x = frame.to_ndarray()  # [channels, n], or [1, n * channels]
    if frame.format.is_packed:
        x = x.reshape(-1, len(frame.layout.channels)).T
    if x.dtype.kind in "iu":
        full = 2.0 ** (8 * x.itemsize - 1)
        x = (x - (full if x.dtype.kind == "u" else 0.0)) / full
    return x.astype(np.float32).mean(axis=0)
