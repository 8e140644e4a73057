"""Replies that come late in training: what to do when the right moment has passed in silence.

Without them a model that is not sure of the moment, and so lets it pass, has never seen what
follows, and stays silent for good: it knows when to speak, not that it is time to have spoken. What
it should have said before is on record as a mistake, which is shown and not taught; that it speaks
then is taught. On line, so that a reply is on time in one epoch and late in another.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from tmi.data.records import SAMPLE_RATE, SessionRecord
from tmi.microturn import Layout

LATE = (0,) * 6 + (1, 1, 2, 3)  # micro-turns, equally likely
BEFORE_S, AFTER_S = 0.1, 0.45  # how far from its trigger a reply starts
EPSILON = 1e-4


def delay_replies(record: SessionRecord, rng: np.random.Generator, lay: Layout) -> SessionRecord:
    """The record with some of the replies to `triggers` of its trials later, where nothing else is
    said before they end. A record without any is returned as it is."""
    times = [g["time_s"] for t in record.truth.get("trials", ()) for g in t.get("triggers", ())]
    if not times:
        return record
    order = sorted(range(len(record.model_audio)), key=lambda i: record.model_audio[i][0])
    starts = [record.model_audio[i][0] for i in order] + [record.duration_s]
    audio, words = list(record.model_audio), list(record.model_words)
    mistakes = list(record.mistakes)
    for time in sorted(times):
        late = LATE[int(rng.integers(len(LATE)))] * lay.seconds  # drawn whether it can be or not
        near = [k for k in range(len(order)) if -BEFORE_S < starts[k] - time < AFTER_S]
        if not late or not near:
            continue
        start, wave = record.model_audio[order[near[0]]]
        end = start + len(wave) / SAMPLE_RATE
        if end + late > starts[near[0] + 1] - EPSILON or any(start < c <= end for c in record.cuts):
            continue
        audio[order[near[0]]] = (start + late, wave)
        words = [
            (w, a + late, b + late) if start - EPSILON <= a < end else (w, a, b)
            for w, a, b in words
        ]
        first = math.floor(start / lay.seconds + EPSILON) * lay.seconds
        mistakes.append((first + EPSILON, first + late - EPSILON))
    return dataclasses.replace(record, model_audio=audio, model_words=words, mistakes=mistakes)
