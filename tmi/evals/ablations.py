"""Sessions with one sense taken away: what stays of a row was guessed, not seen or heard."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction

import av
import numpy as np

from tmi.data.records import SessionRecord
from tmi.media.video import ImageError, decode_image


def blank_video(records: Sequence[SessionRecord]) -> list[SessionRecord]:
    """Every frame becomes plain grey at its own time, as large as the first that decodes; sessions
    without video, or with none that decodes, are left out."""
    out = []
    for record in records:
        grey = next(filter(None, (_grey(data) for _, data in record.frames)), None)
        if grey is not None:
            frames = [(t, grey) for t, _ in record.frames]
            out.append(dataclasses.replace(record, frames=frames))
    return out


def shuffle_audio(records: Sequence[SessionRecord]) -> list[SessionRecord]:
    """Every session hears another one, cut or filled with silence to its length; nothing else
    changes.

    A session that stands alone hears silence.
    """
    out = []
    for i, record in enumerate(records):
        other = records[(i + max(1, len(records) // 2)) % len(records)].user_audio
        if len(records) == 1:
            other = np.zeros_like(other)
        num = len(record.user_audio)
        audio = np.pad(other[:num], (0, max(0, num - len(other))))
        out.append(dataclasses.replace(record, user_audio=audio))
    return out


ABLATIONS: dict[str, tuple[str, Callable[[Sequence[SessionRecord]], list[SessionRecord]]]] = {
    "blank_video": ("video blanked", blank_video),
    "shuffle_audio": ("audio shuffled", shuffle_audio),
}


def _grey(encoded: bytes) -> bytes | None:
    """A plain grey image of the size of `encoded`, as JPEG; None if that is damaged."""
    try:
        height, width, _ = decode_image(encoded).shape
    except ImageError:
        return None
    grey = np.full((height, width, 3), 128, np.uint8)
    codec = av.CodecContext.create("mjpeg", "w")
    codec.width, codec.height, codec.pix_fmt = width, height, "yuvj420p"
    codec.time_base = Fraction(1, 10)
    frame = av.VideoFrame.from_ndarray(grey, format="rgb24").reformat(format="yuvj420p")
    return b"".join(bytes(p) for p in [*codec.encode(frame), *codec.encode(None)])
