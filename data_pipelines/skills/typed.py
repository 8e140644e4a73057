"""g. Reads typed text and answers in text alone."""

from __future__ import annotations

from data_pipelines.session import GRACE_S, Session
from data_pipelines.skills import answer
from data_pipelines.skills.answer import PAUSES

NAME = "typed"
WEIGHT = 1.2

CARRIERS = answer.CARRIERS
MODEL_PHRASES = ()  # nothing of it is spoken


def scene(s: Session) -> None:
    # Typed in one go or in parts. With one timing alone the words of held-out combinations would
    # never be typed in training.
    category, clauses, text, timing = answer.question(s)
    if timing == 0:
        clauses = [" ".join(clauses)]
    at = last = s.cursor
    read = s.type(clauses[0], at)
    for clause in clauses[1:]:
        last = read + s.uniform(*PAUSES[timing])
        read = s.type(f" {clause}", last)
    written = s.write(text, read)
    s.keep_silent(at, written + 0.6)
    s.trial("Typed", category, (at, written + 2 * GRACE_S), typed_s=round(last, 4), answer=text)
    s.cursor = written + 0.8
