"""How long a micro-turn, its reading included, takes over a long session, and whether it stays
flat: one JSON object on stdout.

    python -m tmi.decode.measure --workdir=assets/nano --corpus=build/corpus/eval [--minutes=10]
    [--slots=1]

The session is the corpus's own, one after another without a restart, so that the bounded memory
fills and then turns over.
"""

from __future__ import annotations

import json
import time

import numpy as np
from absl import app, flags

from tmi import command, compiled
from tmi.config import ConfigError
from tmi.data.records import Corpus, CorpusError, open_corpus, read_sessions
from tmi.decode.stream import Decoder
from tmi.media.audio import from_int16
from tmi.models.cache import capacity
from tmi.models.transformer import spans
from tmi.train.checkpoint import CheckpointError

_WORKDIR = flags.DEFINE_string("workdir", None, "A workdir or shipped checkpoint.", required=True)
_CORPUS = flags.DEFINE_string("corpus", None, "Whose sounds to hear.", required=True)
_MINUTES = flags.DEFINE_float("minutes", 10.0, "Length of the session.")
_SLOTS = flags.DEFINE_integer("slots", 1, "Sessions side by side (they hear the same).")


def main(_) -> None:
    compiled.keep()
    with command.one_line(CheckpointError, ConfigError, CorpusError):
        corpus = open_corpus(_CORPUS.value)
        if not any(True for _ in read_sessions(corpus)):
            raise CorpusError(f"{corpus.path} has no session that can be read")
        decoder = Decoder.load(_WORKDIR.value, slots=_SLOTS.value)
    lay = decoder.layout
    total = round(_MINUTES.value * 60 / lay.seconds)
    readers = [decoder.reader() for _ in range(_SLOTS.value)]
    sounds = _sounds(corpus, lay.samples)
    wall, positions, full_at = [], [], None
    largest = max(capacity(s, 0) for s in spans(decoder.config))
    for m in range(total):
        sound = next(sounds)
        start = time.perf_counter()
        decoder.step([r.read(sound) for r in readers], [m == 0] * _SLOTS.value)
        wall.append((time.perf_counter() - start) * 1e3)
        positions.append(decoder.num_positions()[0])
        if full_at is None and positions[-1] >= largest:
            full_at = m
    ms = np.array(wall)
    minute = round(60 / lay.seconds)
    by_minute = [float(np.median(ms[i : i + minute])) for i in range(0, total - minute + 1, minute)]
    full = None if full_at is None else by_minute[min(full_at // minute, len(by_minute) - 1)]
    print(
        json.dumps(
            {
                "slots": _SLOTS.value,
                "microturns": total,
                "positions": int(positions[-1]),
                "median_ms": float(np.median(ms)),
                "p99_ms": float(np.percentile(ms, 99)),
                "median_ms_by_minute": [round(x, 2) for x in by_minute],
                "memory_full_in_minute": None if full_at is None else full_at // minute,
                "last_minute_over_first_full": None if full is None else by_minute[-1] / full,
                "compilations": decoder.num_compiles(),
            }
        )
    )


def _sounds(corpus: Corpus, samples: int):
    """Micro-turns of sound, endlessly."""
    while True:
        for record in read_sessions(corpus):
            wave = from_int16(record.user_audio)
            for start in range(0, len(wave) - samples + 1, samples):
                yield wave[start : start + samples]


if __name__ == "__main__":
    app.run(main)
