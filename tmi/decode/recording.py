"""What a live session was given, drew and computed, kept bit for bit: the FILE of replay, *.npz.

Given and drawn (all that a replay reads), of M micro-turns:

    seed, seconds          of the session's draws; of a micro-turn
    dmel                   uint8 [M, A, F, C]
    video, video_turn      uint8 [v, V, 2, P, P, 3] and the micro-turns that frames came in
    text_in, text_in_size  int32 tokens, and how many in each micro-turn
    streams.NAME, streams.NAME.size  likewise, of each further stream
    tokens, tokens_size    int32, as they were written: text and END
    patches                float32 [p, P, size]: the mel that was spoken, micro-turn by micro-turn

Computed by the sampler as it ran, of S positions in their order (tmi/microturn.py), without the END
that the session ends with:

    states  float32 [S, L, D]  after each layer        logits  float32 [tokens, V]
    chosen  int32 [S, E, N]    of layers with experts  flow    float32 [p, P, steps+1, size]

`about` is JSON: config, policy, the digests of every array here and of every array of the
checkpoint, so that what was altered is named.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pathlib
from collections.abc import Mapping

import numpy as np

from tmi import paths
from tmi.config import Config, DataConfig, to_json
from tmi.decode.step import Record
from tmi.microturn import EOM_ID, Microturn, layout

VERSION = 1
ABOUT = ("numerics", "config", "weights", "digests")
ARRAYS = (
    "seed", "seconds", "dmel", "video", "video_turn", "text_in", "text_in_size", "tokens",
    "tokens_size", "patches", "states", "chosen", "logits", "flow",
)  # fmt: skip


class RecordingError(ValueError):
    """A file is no recording, or not one that can be replayed."""


def of_slot(record: Record, slot: int, tokens: np.ndarray, spoke: bool) -> dict[str, np.ndarray]:
    """A session's part of what a micro-turn recorded, given its tokens."""
    n, count = len(tokens), int(record.num_read[slot])
    appended = n - int(ends(tokens))

    def positions(name: str) -> np.ndarray:
        read, written = getattr(record.read, name), getattr(record.written, name)
        parts = [read[slot, :count], written[slot, :appended]]
        if spoke:
            parts.append(getattr(record.spoken, name)[slot])
        return np.concatenate(parts)

    flow = np.asarray(record.flow[slot : slot + spoke])
    return {
        "tokens": np.array(tokens, np.int32), "logits": np.array(record.logits[slot, :n]),
        "states": positions("states"), "chosen": positions("chosen"),
        "flow": flow.copy(), "patches": flow[:, :, -1].copy(),
    }  # fmt: skip


def ends(tokens: np.ndarray) -> bool:
    """Whether a micro-turn's text has an END, whose position waits for the next input."""
    return len(tokens) > 0 and int(tokens[-1]) == EOM_ID


class Recorder:
    """Gathers a session."""

    def __init__(self, config: Config, seed: int):
        self._config, self._lay, self._seed = config, layout(config), seed
        self._turns: list[Microturn] = []
        self._outputs: list[dict[str, np.ndarray]] = []

    def add(self, turn: Microturn, output: dict[str, np.ndarray]) -> None:
        self._turns.append(turn)
        self._outputs.append(output)

    def fitting(self, data: DataConfig) -> Recorder:
        """The micro-turns from the first on that a training row of `data` has room for.

        Raises RecordingError if it has none for the first.
        """
        lay, turns, outputs = self._lay, self._turns, self._outputs
        taken = (
            (data.row_length - 1, [len(o["states"]) for o in outputs]),  # and an END
            (data.audio_slots, [lay.audio_positions] * len(turns)),
            (data.video_slots, [lay.video_positions * (t.video is not None) for t in turns]),
            (data.speech_slots, [o["patches"].shape[0] * lay.speech_positions for o in outputs]),
        )
        count = min(int(np.searchsorted(np.cumsum(n), room, "right")) for room, n in taken)
        if not count:
            raise RecordingError(
                "a training row has no room for the first micro-turn: data.row_length, "
                "data.audio_slots, data.video_slots or data.speech_slots are too few"
            )
        part = Recorder(self._config, self._seed)
        part._turns, part._outputs = turns[:count], outputs[:count]
        return part

    def arrays(self) -> dict[str, np.ndarray]:
        lay, turns = self._lay, self._turns
        shape = (lay.audio_positions, lay.audio_frames, lay.audio_mels)
        video = [(m, t.video) for m, t in enumerate(turns) if t.video is not None]
        picture = (lay.video_positions, 2, lay.patch, lay.patch, 3)
        given = {
            "seed": np.uint32(self._seed),
            "seconds": np.float64(lay.seconds),
            "dmel": np.stack(
                [np.asarray(t.audio).reshape(shape) for t in turns]
            ),  # no turn is without
            "video": np.array([v.reshape(picture) for _, v in video], np.uint8).reshape(
                -1, *picture
            ),
            "video_turn": np.array([m for m, _ in video], np.int32),
            "text_in": np.array([n for t in turns for n in t.text_in], np.int32),
            "text_in_size": np.array([len(t.text_in) for t in turns], np.int32),
        }
        for name, s in lay.streams.items():
            contents = [t.sensed.get(name, np.zeros((0, *s.SHAPE), s.DTYPE)) for t in turns]
            given[f"streams.{name}"] = np.concatenate(contents)
            given[f"streams.{name}.size"] = np.array([len(c) for c in contents], np.int32)
        out = {k: np.concatenate([o[k] for o in self._outputs]) for k in self._outputs[0]}
        sizes = np.array([len(o["tokens"]) for o in self._outputs], np.int32)
        return {**given, **out, "tokens_size": sizes}

    def save(self, path: str | pathlib.Path, weights: Mapping[str, str]) -> pathlib.Path:
        """Writes the recording; `weights` of `digests` of the checkpoint."""
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = self.arrays()
        about = {
            "version": VERSION,
            "numerics": self._config.model.numerics,
            "config": to_json(self._config),
            "weights": dict(weights),
            "digests": digests(arrays),
        }
        np.savez_compressed(path, about=np.array(json.dumps(about)), **arrays)  # pyright: ignore
        return path


def digests(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """A digest of the bytes of each array."""
    return {
        name: hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()[:16]
        for name, x in sorted(arrays.items())
    }


@dataclasses.dataclass
class Recording:
    about: dict
    arrays: dict[str, np.ndarray]

    def altered(self) -> list[str]:
        """Names of the arrays that are not what was recorded."""
        now = digests(self.arrays)
        return [n for n, d in self.about["digests"].items() if now.get(n) != d]


def load(path: paths.PathLike) -> Recording:
    """Raises RecordingError if the file is not one that `Recorder.save` wrote."""
    try:
        with np.load(io.BytesIO(paths.at(path).read_bytes())) as file:
            arrays = {k: file[k] for k in file.files}
        about = json.loads(str(arrays.pop("about")))
    except FileNotFoundError:
        raise RecordingError(f"{path}: no such file") from None
    except Exception as e:  # whatever zip, npy or json make of it
        raise RecordingError(f"{path} cannot be read as a recording: {e}") from e
    version = about.get("version") if isinstance(about, dict) else None
    if version != VERSION:
        raise RecordingError(f"{path} is of version {version}; read is {VERSION}")
    lacking = sorted(set(ABOUT) - set(about)) + sorted(
        {*ARRAYS, *about.get("digests", ())} - set(arrays)
    )
    if lacking:
        raise RecordingError(f"{path} lacks {', '.join(lacking)}")
    return Recording(about, arrays)
