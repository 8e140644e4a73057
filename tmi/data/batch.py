"""What the trainer eats: a batch is a dict of arrays whose shapes depend on the config alone.

B rows of S = data.row_length positions, with room for A = audio_slots, V = video_slots and
P = speech_slots contents a row:

    stream, token, microturn  int32 [B, S]  as in tmi/microturn.py
    slot          int32 [B, S]    where in dmel, video, speech or streams.NAME the content is
    segment       int32 [B, S]    0 is padding, the sessions of a row are 1, 2, ...
    position      int32 [B, S]    index in its session
    text_target   int32 [B, S]    token of the next position if that is TEXT_OUT, else -1
    text_weight   float32 [B, S]  0 where there is no target
    heard         int32 [B, S, MAX_HEARD]  tokens of what is said or seen to be known there, else -1
    due           int32 [B, S]    micro-turn at which an answer just asked for is due, else -1
    spelled       int32 [B, S]    bit i: the letter a + i sounded a micro-turn ago; -1 not asked
    skill         int32 [B, S]    index into corpus.skills of the session's first skill
    dmel          uint8 [B, A, audio_frames, mels]
    video         uint8 [B, V, 2, patch, patch, 3]
    speech        float32 [B, P, speech_frames, speech_mels]
    speech_source int32 [B, P]    the position in the row whose hidden state predicts the patch
    speech_weight float32 [B, P]  0 where empty
    streams.NAME  DTYPE [B, slots, *SHAPE]  of each further stream, see tmi/streams

Nothing here needs more than numpy (and jax for `abstract_batch`): the device path imports it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from tmi import streams
from tmi.config import Config
from tmi.microturn import EOM_ID, MAX_HEARD, SessionSequence, Stream, layout

Batch = dict[str, np.ndarray]
Row = dict[str, np.ndarray]  # a batch without its first axis

POSITION_KEYS = (
    "stream",
    "token",
    "slot",
    "microturn",
    "text_target",
    "text_weight",
    "heard",
    "due",
    "spelled",
    "skill",
)
_BUFFERS = {
    Stream.AUDIO_IN: ("dmel",),
    Stream.VIDEO_IN: ("video",),
    Stream.AUDIO_OUT: ("speech", "speech_source", "speech_weight"),
}
SILENT_DB = 20.0  # a patch that rises nowhere this far above the floor is silent


def buffers(config: Config) -> dict[int, tuple[str, ...]]:
    """Stream -> the arrays that hold its contents, one entry a position."""
    further = layout(config).stream_numbers
    return {**_BUFFERS, **{n: (streams.batch_key(name),) for name, n in further.items()}}


def room(config: Config) -> dict[int, int]:
    """Stream -> contents that a row holds, in the order of `buffers`."""
    d, lay = config.data, layout(config)
    own = (d.audio_slots, d.video_slots, d.speech_slots)
    further = (stream.slots(config) for stream in lay.streams.values())
    return dict(zip(buffers(config), (*own, *further), strict=True))


def shapes(config: Config, batch_size: int | None = None) -> dict[str, tuple[tuple, np.dtype]]:
    """Name -> (shape, dtype) of a batch; `batch_size` defaults to data.batch_size."""
    d, lay = config.data, layout(config)
    b = d.batch_size if batch_size is None else batch_size
    out: dict[str, tuple[tuple, np.dtype]] = {}
    for key in (*POSITION_KEYS, "segment", "position"):
        kind = np.float32 if key == "text_weight" else np.int32
        tail = (MAX_HEARD,) if key == "heard" else ()
        out[key] = ((b, d.row_length, *tail), np.dtype(kind))
    image = (2, lay.patch, lay.patch, 3)
    mel = (lay.speech_frames, lay.speech_mels)
    u8, i32, f32 = np.dtype(np.uint8), np.dtype(np.int32), np.dtype(np.float32)
    out["dmel"] = ((b, d.audio_slots, lay.audio_frames, lay.audio_mels), u8)
    out["video"] = ((b, d.video_slots, *image), u8)
    out["speech"] = ((b, d.speech_slots, *mel), f32)
    out["speech_source"] = ((b, d.speech_slots), i32)
    out["speech_weight"] = ((b, d.speech_slots), f32)
    for name, s in lay.streams.items():
        out[streams.batch_key(name)] = ((b, s.slots(config), *s.SHAPE), np.dtype(s.DTYPE))
    return out


def abstract_batch(config: Config) -> dict:
    """`jax.ShapeDtypeStruct`s of a global batch, to lower a step without data."""
    import jax

    return {k: jax.ShapeDtypeStruct(shape, dtype) for k, (shape, dtype) in shapes(config).items()}


def empty_batch(config: Config, batch_size: int | None = None) -> Batch:
    """Rows of padding: no target, no weight."""
    batch = {k: np.zeros(shape, dtype) for k, (shape, dtype) in shapes(config, batch_size).items()}
    batch["text_target"].fill(-1)
    batch["heard"].fill(-1)
    batch["due"].fill(-1)
    batch["spelled"].fill(-1)
    return batch


def session_arrays(config: Config, seq: SessionSequence, skill: int = 0) -> Row:
    """The arrays of one session, before packing: unpadded, indices relative to the session."""
    target = seq.text_target
    weight = np.where(target == EOM_ID, config.train.eom_weight, config.train.text_weight)
    silent = silent_patches(config, seq.speech)
    return {
        "stream": seq.stream,
        "token": seq.token,
        "slot": seq.slot,
        "microturn": seq.microturn,
        "text_target": target,
        "text_weight": np.where(target < 0, 0, weight).astype(np.float32),
        "heard": seq.heard,
        "due": seq.due,
        "spelled": seq.spelled,
        "skill": np.full(len(seq), skill, np.int32),
        "dmel": seq.dmel,
        "video": seq.video,
        "speech": seq.speech,
        "speech_source": seq.speech_source,
        "speech_weight": np.where(silent, config.flow.silence_weight, 1).astype(np.float32),
        **{streams.batch_key(name): content for name, content in seq.sensed.items()},
    }


def silent_patches(config: Config, speech: np.ndarray) -> np.ndarray:
    """Which of the normalised mel patches [P, frames, mels] hold silence, bool [P]."""
    s = config.speech
    threshold = (math.log(s.floor) + SILENT_DB / 20 * math.log(10) - s.mean) / s.std
    return speech.max(axis=(1, 2), initial=-np.inf) < threshold


def empty_row(config: Config) -> Row:
    return {k: v[0] for k, v in empty_batch(config, 1).items()}


def place(config: Config, row: Row, session: Row, start: int, number: int) -> None:
    """Writes a session into `row` at position `start`, behind those that are there, in place.

    Its contents follow the contents in the row's buffers; `number` is its segment id (1, 2, ...).
    """
    size = len(session["stream"])
    here = slice(start, start + size)
    kinds = buffers(config)
    used = {kind: int(np.sum(row["stream"][:start] == kind)) for kind in kinds}
    for key in POSITION_KEYS:
        row[key][here] = session[key]
    row["segment"][here] = number
    row["position"][here] = np.arange(size)
    for kind, keys in kinds.items():
        row["slot"][here][session["stream"] == kind] += used[kind]
        for key in keys:
            row[key][used[kind] : used[kind] + len(session[key])] = session[key]
    speech = slice(used[Stream.AUDIO_OUT], used[Stream.AUDIO_OUT] + len(session["speech"]))
    row["speech_source"][speech] += start


def fill_ratio(batch: Mapping[str, np.ndarray]) -> float:
    """Share of the positions that are no padding."""
    return float(np.mean(batch["segment"] > 0))
