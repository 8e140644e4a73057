"""A session's micro-turns, as a live session would hand them over."""

from __future__ import annotations

from tmi import streams
from tmi.data.records import SessionRecord
from tmi.decode.stream import Decoder
from tmi.media.audio import from_int16
from tmi.microturn import Microturn


def inputs(decoder: Decoder, record: SessionRecord, count: int) -> list[Microturn]:
    """`count` micro-turns of a session, over and over."""
    lay, reader = decoder.layout, decoder.reader()
    wave = from_int16(record.user_audio)
    total = lay.num_microturns(record.duration_s)
    events = streams.slices(lay, record.events, record.duration_s)
    turns = []
    for m in range(total):
        frames = [(t, image) for t, image in record.frames if lay.microturn_reading(t) == m]
        text = "".join(s for t, s in record.text_in if lay.microturn_reading(t) == m)
        samples = wave[m * lay.samples : (m + 1) * lay.samples]
        turns.append(reader.read(samples, frames, text, events[m]))
    return [turns[i % total] for i in range(count)]
