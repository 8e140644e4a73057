"""Small sessions made by hand: noise and tones for speech, coloured squares for video."""

from __future__ import annotations

import dataclasses
import fractions
import hashlib
import json
import pathlib

import av
import numpy as np

from tmi import config as config_lib
from tmi.data import records

RATE = records.SAMPLE_RATE
SKILLS = ("answer", "count", "typed")


class Bytes:
    """A tokenizer of bytes: text is lossless, so that tests can read tokens."""

    def encode(self, text: str) -> list[int]:
        return [3 + b for b in text.encode()]

    def encode_word(self, word: str) -> list[int]:
        return self.encode(f" {word}")

    def decode(self, tokens) -> str:
        return bytes(int(t) - 3 for t in tokens if t >= 3).decode()


def image(colour: tuple[int, int, int], size: int = 80) -> bytes:
    """A JPEG of one colour."""
    codec = av.CodecContext.create("mjpeg", "w")
    codec.width, codec.height, codec.pix_fmt = size, size, "yuvj420p"
    codec.time_base = fractions.Fraction(1, 10)
    pixels = np.broadcast_to(np.array(colour, np.uint8), (size, size, 3))
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    packets = [*codec.encode(frame.reformat(format="yuvj420p")), *codec.encode(None)]
    return b"".join(bytes(p) for p in packets)


def tone(seconds: float, hz: float = 300.0) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return (8000 * np.sin(2 * np.pi * hz * t)).astype(np.int16)


def make_record(seed: int, skill: str = "answer", seconds: float | None = None):
    """A session that speaks twice, types when the skill is 'typed' and sees when it is 'count'."""
    rng = np.random.default_rng(seed)
    seconds = float(np.round(rng.uniform(2.6, 5), 3)) if seconds is None else seconds
    starts = [1.0, 0.2 * int(rng.integers(8, 12))]
    words = [("yes", starts[0], starts[0] + 0.3), ("no", starts[1], starts[1] + 0.3)]
    frames = []
    if skill == "count":
        frames = [(0.5 + 0.1 * k, image((10 * k, 0, 200))) for k in range(8)]
    return records.SessionRecord(
        id=f"s{seed}",
        skills=[skill],
        duration_s=seconds,
        user_audio=(rng.standard_normal(round(seconds * RATE)) * 1000).astype(np.int16),
        model_audio=[(s, tone(float(rng.uniform(0.25, 0.6)))) for s in starts],
        model_words=words,
        user_words=[],
        text_in=[(0.7, "please type")] if skill == "typed" else [],
        text_out=[(2.1, "a long typed answer")] if skill == "typed" else [],
        frames=frames,
        truth={},
    )


def write_corpus(path: pathlib.Path, sessions, shards: int = 2, list_skills: bool = False):
    """Writes a corpus directory as the generator does; returns it opened."""
    path.mkdir(parents=True, exist_ok=True)
    entries = []
    for k in range(shards):
        part = sessions[k::shards]
        name = f"train-{k:05d}-of-{shards:05d}.array_record"
        writer = records.ShardWriter(path / name)
        for record in part:
            writer.write(record)
        entry = {"file": name, "count": writer.count, "sha256": writer.close()}
        if list_skills:
            entry["skills"] = [r.skills[0] for r in part]
        entries.append(entry)
    skills = {s: 0 for r in sessions for s in r.skills}
    (path / "manifest.json").write_text(json.dumps({"shards": entries, "skills": skills}))
    return records.open_corpus(path)


def damaged(path: pathlib.Path, damage, shards: int = 2):
    """A corpus of 12 sessions, of which `damage` has met the first shard."""
    corpus = write_corpus(path, [make_record(k, SKILLS[k % 3], 4.0) for k in range(12)], shards)
    shard = corpus.shards[0]
    data = bytearray(shard.read_bytes())
    damage(shard, data)
    return corpus


def flip(shard, data):
    data[len(data) // 3] ^= 255
    shard.write_bytes(data)


DAMAGES = {
    "truncated": lambda shard, data: shard.write_bytes(data[: len(data) // 2]),
    "empty": lambda shard, data: shard.write_bytes(b""),
    "not a shard": lambda shard, data: shard.write_bytes(b"hello " * 20_000),
    "missing": lambda shard, data: shard.unlink(),
}


def digest(batch) -> str:
    h = hashlib.sha256()
    for key in sorted(batch):
        a = np.ascontiguousarray(batch[key])
        h.update(f"{key} {a.dtype} {a.shape}".encode())
        h.update(a.tobytes())
    return h.hexdigest()


def small_config(**data):
    """Short rows, so that packing has work to do."""
    c = config_lib.Config()
    fields = {
        "row_length": 512, "batch_size": 4, "audio_slots": 160, "video_slots": 48,
        "speech_slots": 40, "num_threads": 2, "prefetch": 4,
    }  # fmt: skip
    return dataclasses.replace(c, data=dataclasses.replace(c.data, **{**fields, **data}))
