"""When a track sounds: energy onsets, offsets and speech segments.

Headline times of the evaluation are energy onsets in the output audio, so what counts as sound is
said here once. A 10 ms frame sounds if its root mean square is at least `THRESHOLD` (-46 dBFS):
20-30 dB below speech at its usual level, above the floor of the waveform stage. Runs shorter than
`MIN_RUN_S` are clicks and do not count. So the onset of a word after silence is exact to one frame,
and a soft first consonant may be missed (a few tens of ms late, never early). A word amid a phrase
has no onset of its own in the sound: it counts from the start of its micro-turn, 0.2 s early at
worst if its sound is in that micro-turn.
"""

from __future__ import annotations

import numpy as np

from tmi.config import SAMPLE_RATE

FRAME_S = 0.01
THRESHOLD = 0.005  # root mean square of full scale 1.0
MIN_RUN_S = 0.03
AUDIBLE_S = 0.06  # a word sounds at least this long
SEGMENT_GAP_S = 0.2  # silence longer than this ends a segment (dGSLM's inter-pausal unit)

Segment = tuple[float, float]  # start and end in seconds


def activity(wave: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """float32 [N] at 16 kHz -> bool [N // 160]: which 10 ms frames sound."""
    hop = round(FRAME_S * SAMPLE_RATE)
    frames = np.nan_to_num(wave[: len(wave) // hop * hop].reshape(-1, hop))
    mask = np.einsum("th,th->t", frames, frames) >= hop * threshold**2
    starts, ends = _edges(mask)
    for s, e in zip(starts, ends, strict=True):
        if (e - s) * FRAME_S < MIN_RUN_S - 1e-9:
            mask[s:e] = False
    return mask


def segments(mask: np.ndarray, gap_s: float = SEGMENT_GAP_S) -> list[Segment]:
    """Stretches of sound in seconds; those at most `gap_s` apart are one."""
    starts, ends = _edges(mask)
    found = [(s * FRAME_S, e * FRAME_S) for s, e in zip(starts, ends, strict=True)]
    return merge(found, gap_s)


def merge(found: list[Segment], gap_s: float) -> list[Segment]:
    """Joins segments (sorted here) whose gap is at most `gap_s`."""
    out: list[Segment] = []
    for s, e in sorted(found):
        if out and s - out[-1][1] <= gap_s + 1e-9:
            out[-1] = (out[-1][0], max(e, out[-1][1]))
        else:
            out.append((s, e))
    return out


def clip(found: list[Segment], start_s: float, end_s: float) -> list[Segment]:
    """The parts of segments that lie within [start_s, end_s]."""
    cut = [(max(s, start_s), min(e, end_s)) for s, e in found]
    return [(s, e) for s, e in cut if s < e]


def sounding_s(mask: np.ndarray, start_s: float, end_s: float) -> float:
    """Seconds of sound within [start_s, end_s)."""
    return float(mask[_frame(start_s) : _frame(end_s)].sum()) * FRAME_S


def last_sound(mask: np.ndarray, start_s: float, end_s: float) -> float | None:
    """The end of the last sound within [start_s, end_s); None if it is silent."""
    at = np.flatnonzero(mask[_frame(start_s) : _frame(end_s)])
    return None if not len(at) else (_frame(start_s) + int(at[-1]) + 1) * FRAME_S


def sound_onset(mask: np.ndarray, emitted_s: float, slice_s: float) -> float | None:
    """When a word becomes audible whose micro-turn starts to play at `emitted_s`.

    The first rise out of at least 50 ms of silence within the micro-turn; else `emitted_s` itself
    if sound is going on there (a word amid a phrase); else the first sound of this or the next
    micro-turn. Sound that goes on for AUDIBLE_S at most is the tail of the word before, if more
    follows. None if less than AUDIBLE_S of them sound: a word that cannot be heard was not said.
    """
    first, last = _frame(emitted_s), _frame(emitted_s + 2 * slice_s)
    window = mask[first:last]
    if window.sum() * FRAME_S < AUDIBLE_S - 1e-9:
        return None
    num = round(slice_s / FRAME_S)
    quiet = round(0.05 / FRAME_S)
    before = np.concatenate(
        [np.zeros(max(0, quiet - first), bool), mask[max(0, first - quiet) : first]]
    )
    padded = np.concatenate([before, window])
    for i in range(min(len(window), num)):
        if window[i] and not padded[i : i + quiet].any():
            return (first + i) * FRAME_S
    tail = 0
    if window[0]:
        tail = int(np.argmin(window))
        if window[:num].sum() * FRAME_S > AUDIBLE_S + 1e-9 or not window[tail:].any():
            return emitted_s
    return (first + tail + int(np.argmax(window[tail:]))) * FRAME_S


def _frame(time_s: float) -> int:
    return max(0, int(round(time_s / FRAME_S)))


def _edges(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    steps = np.diff(np.concatenate([[0], mask.astype(np.int8), [0]]))
    return np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
