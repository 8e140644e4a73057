"""The corpus on disk: session records in ArrayRecord shards beside a manifest.

    DIR/manifest.json                 seed, split, hashes, voices, counts, the model's phrases
    DIR/<split>-00000-of-00004.array_record
    DIR/truth/<id>.json               evaluation splits: the ground truth of each session

A record holds sounds, pictures and words, never token ids or features: those belong to a config.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import threading
from collections.abc import Iterator, Sequence

import msgpack
import numpy as np
from absl import logging
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]
from etils import epath

from tmi import paths
from tmi.config import SAMPLE_RATE

RECORD_VERSION = 1
CUT_TAIL_S = 0.1


class CorpusError(ValueError):
    """A corpus directory or a record cannot be used; the message says why."""


@dataclasses.dataclass
class SessionRecord:
    """A duplex session: what the user gave and what the model should do. Times in seconds from its
    opening."""

    id: str
    skills: list[str]
    duration_s: float
    user_audio: np.ndarray  # int16 [N] at 16 kHz, the whole session
    model_audio: list[tuple[float, np.ndarray]]  # (start_s, int16 [n]) only while it speaks
    model_words: list[tuple[str, float, float]]  # (word, start_s, end_s)
    user_words: list[tuple[str, float, float]]
    text_in: list[tuple[float, str]]  # typed by the user
    text_out: list[tuple[float, str]]  # typed by the model (text-only answers)
    frames: list[tuple[float, bytes]]  # (pts_s, encoded RGB image)
    truth: dict  # what scorers need; see tmi/evals/trace.py
    # What is in view: (words, start_s, end_s). A target of training, like user_words.
    seen_words: list[tuple[str, float, float]] = dataclasses.field(default_factory=list)
    # Of further input streams, by the name of their file in tmi/streams: (time_s, bytes).
    events: dict[str, list[tuple[float, bytes]]] = dataclasses.field(default_factory=dict)
    # (start_s, end_s) in which the model does what it should not, such as speaking on when cut off:
    # training shows what plays then, so that the model can recover, and does not teach it.
    mistakes: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    # Times at which the model falls silent in the midst of what it says. Its track goes on for
    # CUT_TAIL_S, unheard: what it says before must not tell, in windows that look ahead, of a
    # decision that is yet to be made.
    cuts: list[float] = dataclasses.field(default_factory=list)


def encode(record: SessionRecord) -> bytes:
    d = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    d["user_audio"] = record.user_audio.astype("<i2").tobytes()
    d["model_audio"] = [(float(t), w.astype("<i2").tobytes()) for t, w in record.model_audio]
    for name in ("seen_words", "events", "mistakes", "cuts"):
        if not d[name]:
            del d[name]  # the bytes, and so a corpus' hash, are those from before there were any
    d["version"] = RECORD_VERSION
    return bytes(msgpack.packb(d, use_bin_type=True) or b"")


def decode(data: bytes) -> SessionRecord:
    """Raises CorpusError if `data` is not a session record of this version."""
    try:
        d = msgpack.unpackb(data, raw=False)
        version = d.pop("version")
        if version == RECORD_VERSION:
            d["user_audio"] = np.frombuffer(d["user_audio"], "<i2")
            d["model_audio"] = [(t, np.frombuffer(w, "<i2")) for t, w in d["model_audio"]]
            for name in ("model_words", "user_words", "text_in", "text_out", "frames"):
                d[name] = [tuple(x) for x in d[name]]
            d["seen_words"] = [tuple(x) for x in d.get("seen_words", [])]
            d["mistakes"] = [tuple(x) for x in d.get("mistakes", [])]
            events = d.get("events", {})
            d["events"] = {name: [tuple(x) for x in events[name]] for name in events}
            return SessionRecord(**d)
    except Exception as e:  # whatever bytes of another kind lead to
        raise CorpusError(f"not a session record: {e!r}") from e
    raise CorpusError(f"record of version {version}; this code reads version {RECORD_VERSION}")


def model_sound(record: SessionRecord) -> Iterator[tuple[float, np.ndarray]]:
    """(start_s, int16 [n]) of all that is heard of the model: `model_audio`, without what lies
    behind a cut."""
    for start, wave in record.model_audio:
        end = start + len(wave) / SAMPLE_RATE
        ends = [t for t in record.cuts if start < t < end <= t + CUT_TAIL_S + 1 / SAMPLE_RATE]
        yield start, wave[: round((min(ends) - start) * SAMPLE_RATE)] if ends else wave


class ShardWriter:
    """Writes one shard; `digest` is the SHA-256 of its records in order."""

    def __init__(self, path: pathlib.Path):
        # group_size:1 gives random access to single records, which shuffling needs.
        self._writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,zstd:1")
        self._hash = hashlib.sha256()
        self.count = 0

    def write(self, record: SessionRecord) -> None:
        data = encode(record)
        self._writer.write(data)
        self._hash.update(data)
        self.count += 1

    def close(self) -> str:
        self._writer.close()
        return self._hash.hexdigest()


@dataclasses.dataclass(frozen=True)
class Corpus:
    """An opened corpus directory, or several as one; shards in the order of the manifest's."""

    path: epath.Path
    manifest: dict
    shards: list[epath.Path]

    @property
    def hash(self) -> str:
        """Identifies the corpus' contents: the hash of its shards' hashes."""
        return hashlib.sha256(
            "".join(s["sha256"] for s in self.manifest["shards"]).encode()
        ).hexdigest()[:16]

    @property
    def microturn_seconds(self) -> float | None:
        """The clock on which its answers begin, if it was rendered for one."""
        return self.manifest.get("job", {}).get("microturn_seconds")

    @property
    def num_sessions(self) -> int:
        return sum(s["count"] for s in self.manifest["shards"])

    @property
    def skills(self) -> list[str]:
        return sorted(self.manifest["skills"])


def open_corpora(names: str, split: str = "train") -> Corpus:
    """Directories with commas between them as one corpus, whose sessions are drawn as if they lay
    in one: `data.corpus` may name several.

    Raises CorpusError where open_corpus does, for a directory named twice and for splits mixed.
    """
    corpora = [open_corpus(name, split) for name in names.split(",")]
    if len(corpora) == 1:
        return corpora[0]
    twice = {str(c.path) for c in corpora if sum(c.hash == other.hash for other in corpora) > 1}
    if twice:
        raise CorpusError(f"{', '.join(sorted(twice))}: the same sessions, named twice in {names}")
    kinds = {str(c.path): (c.manifest.get("split"), c.microturn_seconds) for c in corpora}
    if len(set(kinds.values())) > 1:
        raise CorpusError(f"corpora of one split and clock are accepted together, not {kinds}")
    return Corpus(
        epath.Path(names),
        {
            "split": corpora[0].manifest.get("split"),
            "job": {"microturn_seconds": corpora[0].microturn_seconds},
            "shards": [entry for c in corpora for entry in c.manifest["shards"]],
            "skills": {
                skill: sum(c.manifest["skills"].get(skill, 0) for c in corpora)
                for skill in sorted({s for c in corpora for s in c.skills})
            },
        },
        [shard for c in corpora for shard in c.shards],
    )


def open_corpus(path: paths.PathLike, split: str = "train") -> Corpus:
    """A corpus in a directory or a bucket (gs://: the record reader has its own client). `split` is
    what is wanted of it: where there is none, the error says how to render one.

    Raises CorpusError if the directory, its manifest or all of its shards are missing.
    """
    path = paths.at(path)
    manifest = path / "manifest.json"
    if not manifest.is_file():
        raise CorpusError(
            f"{path} is no corpus: {manifest} is missing. "
            f"Render one with: python -m data_pipelines.synthetic --out={path} --split={split}"
        )
    try:
        held = json.loads(manifest.read_text())
        corpus = Corpus(path, held, [path / s["file"] for s in held["shards"]])
        _ = corpus.hash, corpus.num_sessions, corpus.skills
    except (ValueError, TypeError, KeyError) as e:
        raise CorpusError(f"{manifest} is damaged ({e!r}); render the corpus again") from e
    if not any(s.is_file() for s in corpus.shards):
        raise CorpusError(
            f"{path}: its manifest names {len(corpus.shards)} shards and none is there"
        )
    return corpus


class Skipped:
    """What could not be used: name -> why. Each is logged once; epochs come back to it."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self.cut: dict[str, str] = {}  # sessions longer than a row, of which a part is used
        self._lock = threading.Lock()

    def add(self, name: str, why: object) -> None:
        with self._lock:
            if name not in self.reasons:
                self.reasons[name] = str(why)
                logging.warning("%s skipped: %s", name, why)

    def shorten(self, name: str, how: str) -> None:
        with self._lock:
            if not self.cut:
                logging.warning("%s is longer than a row and cut: %s (said once)", name, how)
            self.cut[name] = how

    def __len__(self) -> int:
        return len(self.reasons)


def readable_shards(corpus: Corpus, skipped: Skipped) -> Iterator[tuple[str, int]]:
    """(file, records) of each shard that holds some. What cannot be read, or is less than the
    manifest says, is named."""
    for entry, path in zip(corpus.manifest["shards"], corpus.shards, strict=True):
        try:
            reader = array_record_module.ArrayRecordReader(str(path))
            count = reader.num_records()
            reader.close()  # here the reader tells of a file that is none of its kind
        except Exception as e:  # whatever its C++ code met
            skipped.add(f"shard {path}", e)
            continue
        if count != entry["count"]:
            skipped.add(f"part of shard {path}", f"{count} of {entry['count']} records")
        if count:
            yield str(path), count


def read_sessions(
    corpus: Corpus, ids: Sequence[str] | None = None, skipped: Skipped | None = None
) -> Iterator[SessionRecord]:
    """Every readable session in order, or those of `ids`. Shards and records that cannot be read
    are left out and named: in `skipped`, which several readings may share, and on the log."""
    skipped = Skipped() if skipped is None else skipped
    for shard, count in readable_shards(corpus, skipped):
        reader = array_record_module.ArrayRecordReader(shard)
        for i in range(count):
            try:
                record = decode(reader.read([i])[0])
            except Exception as e:
                skipped.add(f"record {i} of {shard}", e)
                continue
            if ids is None or record.id in ids:
                yield record
        with contextlib.suppress(Exception):  # all that was damaged has a name
            reader.close()
