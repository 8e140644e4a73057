"""Full-Duplex-Bench v1 (arXiv 2503.04721), backchannels: does the model acknowledge a long story
without taking the turn, as often and at the moments that the ground truth does?

TOR       share of stories in which it takes the turn; lower is better.
freq      backchannels a second; the ground truth's is the oracle's row.
JSD       Jensen-Shannon distance (base e, at most 0.8326) between when its backchannels sound and
          when the reference's do; 1 for a story without any.

The public scorer compares with listeners' annotations, which are not to be had here: the reference
distribution is the corpus' own ground truth, the recording of the same story, so the oracle has 0.
`reference` follows the public rules over silero segments of the output and the text stream's words.
`strict` is ours: energy segments, a backchannel is a segment whose words are all acknowledgements,
and any other word, or sound without words, takes the turn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import jensenshannon

from tmi.evals import onsets, vad
from tmi.evals.answers import takes_turn
from tmi.evals.fdb1 import Word, barged_in
from tmi.evals.onsets import Segment
from tmi.evals.scoring import Benchmark, Metric, Trial, trials_of
from tmi.evals.trace import SAMPLE_RATE, Trace

BIN_S = 0.2
EPSILON = 1e-10  # added to each bin
FORMAL_S = 3.0  # who speaks longer than this has the turn
BRIEF_S = 1.0
SILENT_JSD = 1.0  # above the distance's maximum, sqrt(ln 2)


def reference(segments: Sequence[Segment], words: Sequence[Word]) -> tuple[bool, list[Segment]]:
    """Whether the turn was taken, and the segments that are backchannels, as the public scorer has
    them.

    More than 3.0 s takes the turn and ends the search. Else more than 3 words take it, or more than
    2 in less than 1.0 s, or 1.0 s and longer; the backchannels before are forgotten. The last
    segment decides: a brief one after a turn gives it back.
    """
    taken, kept = False, []
    for start, end in segments:
        if end - start > FORMAL_S:
            return True, kept
        num = sum(s <= end and e > start for _, s, e in words)
        taken = num > 2 if end - start < BRIEF_S else True
        kept = [] if taken else [*kept, (start, end)]
    return taken, kept


def histogram(segments: Sequence[Segment], seconds: float) -> np.ndarray:
    """float64 [int(seconds / 0.2) + 1], sum 1: how many segments touch each bin of 0.2 s.

    A segment counts in the bins of its start and its end, both ends inclusive, and in all between.
    Each bin has EPSILON more.
    """
    counts = np.zeros(_bin(seconds) + 1)
    for start, end in segments:
        counts[_bin(start) : _bin(end) + 1] += 1
    counts += EPSILON
    return counts / counts.sum()


def distance(segments: Sequence[Segment], expected: np.ndarray, seconds: float) -> float:
    """Jensen-Shannon distance, base e, of the segments' histogram to `expected` [any length], which
    is resampled linearly to the same number of bins; SILENT_JSD if there is no segment.
    """
    if not segments:
        return SILENT_JSD
    found = histogram(segments, seconds)
    at = np.linspace(0, 1, len(found))
    resampled = np.interp(at, np.linspace(0, 1, len(expected)), expected)
    return float(jensenshannon(found, resampled))


def acknowledgements(trace: Trace, start_s: float, end_s: float) -> list[Segment]:
    """Segments of sound within [start_s, end_s] whose words are backchannels and nothing else."""
    out = []
    for s, e in onsets.clip(trace.segments, start_s, end_s):
        words = trace.heard_within(s - 1e-6, e)
        if words and not takes_turn(words):
            out.append((s, e))
    return out


def score(trace: Trace, truth: dict) -> list[Trial]:
    """Needs `trace.meta['model_speech']`, which the runner notes, for the JSD."""
    out = []
    for trial in trials_of(truth, "Backchannel"):
        start, end = trial["region"]
        seconds = end - start
        own = _from(start, acknowledgements(trace, start, end))
        wave = trace.output_audio[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
        words = [(w, s - start, e - start) for w, s, e in trace.words()]
        taken, kept = reference(vad.speech(wave), words)
        values = {
            "TOR": float(barged_in(trace, truth, trial, start, end)),
            "freq": len(own) / seconds,
            "reference TOR": float(taken),
            "reference freq": len(kept) / seconds,
        }
        due = onsets.clip(trace.meta.get("model_speech", []), start, end)
        if due:
            expected = histogram(_from(start, due), seconds)
            values["JSD"] = distance(own, expected, seconds)
            values["reference JSD"] = distance(kept, expected, seconds)
        out.append(Trial(truth["id"], trial["category"], values))
    return out


def _bin(time_s: float) -> int:
    # A time on a bin's edge belongs to the bin that it begins, whatever rounding made of it.
    return int(time_s / BIN_S + 1e-6)


def _from(start_s: float, segments: Sequence[Segment]) -> list[Segment]:
    return [(s - start_s, e - start_s) for s, e in segments]


def _metrics(mode: str) -> tuple[Metric, ...]:
    before, after = ("reference ", " reference") if mode == "reference" else ("", "")
    return (
        Metric(f"TOR{after}", f"{before}TOR", scale=1.0, mode=mode, lower_is_better=True),
        Metric(f"freq{after}", f"{before}freq", scale=1.0, mode=mode),
        Metric(f"JSD{after}", f"{before}JSD", scale=1.0, mode=mode, lower_is_better=True),
    )


FDB_BACKCHANNEL = Benchmark(
    "FDB1-backchannel-syn",
    ("Backchannel",),
    score,
    (*_metrics("strict"), *_metrics("reference")),
)
