"""g. Reads typed text and answers in text alone."""

from __future__ import annotations

from data_pipelines.session import GRACE_S, Session
from data_pipelines.skills import answer

NAME = "typed"
WEIGHT = 1.2

CARRIERS = answer.CARRIERS
MODEL_PHRASES = ()  # nothing of it is spoken


def scene(s: Session) -> None:
    category, clauses, text, _ = answer.question(s, timings=1)
    at = s.cursor
    read = s.type(" ".join(clauses), at)
    written = s.write(text, read)
    s.keep_silent(at, written + 0.6)
    s.trial("Typed", category, (at, written + 2 * GRACE_S), typed_s=round(at, 4), answer=text)
    s.cursor = written + 0.8
