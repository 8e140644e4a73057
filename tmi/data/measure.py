"""How fast batches are made, how full they are, what is lost: one JSON object on stdout.

python -m tmi.data.measure --corpus=build/corpus/train [--batches=20] [--row_length=1024 ...]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time

import numpy as np

from tmi.config import Config
from tmi.data.pipeline import train_batches
from tmi.microturn import layout


def measure(config: Config, num_batches: int) -> dict:
    """Draws `num_batches` on one thread. Rates are seconds of session per second of one core."""
    d = dataclasses.replace(config.data, num_threads=0)
    config = dataclasses.replace(config, data=d)
    batches = train_batches(config)
    next(batches)  # opens readers, makes tables
    cpu, wall = time.process_time(), time.perf_counter()
    micro_turns = sessions = 0
    used = np.zeros(3)
    for _ in range(num_batches):
        batch = next(batches)
        last = np.diff(batch["segment"], append=0) != 0  # last positions, also of padding
        last &= batch["segment"] > 0
        micro_turns += int((batch["microturn"][last] + 1).sum())
        sessions += int(last.sum())
        used += [float((batch["stream"] == kind).mean()) for kind in (1, 2, 5)]
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    batches.close()
    seconds = micro_turns * layout(config).seconds
    slots = np.maximum(1, [d.audio_slots, d.video_slots, d.speech_slots])
    shares = used / num_batches * d.row_length / slots
    return {
        "session_seconds": round(seconds, 1),
        "x_real_time_per_core": round(seconds / cpu, 1),
        "x_real_time_by_the_clock": round(seconds / wall, 1),
        "fill": round(batches.fill, 4),
        "audio_video_speech_slots_used": [round(float(s), 3) for s in shares],
        "sessions": sessions,
        "different_sessions_cut": len(batches.skipped.cut),
        "skipped": batches.skipped.reasons,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=20)
    for field in dataclasses.fields(Config().data):
        if field.name not in ("skill_weights", "num_threads", "augment"):
            kind = type(field.default)
            parser.add_argument(f"--{field.name}", type=kind, default=field.default)
    parser.add_argument("--no_augment", action="store_true")
    args = vars(parser.parse_args())
    num_batches = args.pop("batches")
    data = dataclasses.replace(Config().data, augment=not args.pop("no_augment"), **args)
    print(json.dumps(measure(Config(data=data), num_batches), indent=1))


if __name__ == "__main__":
    main()
