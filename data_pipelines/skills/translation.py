"""e. Translates a small vocabulary into Spanish, word by word, while the user speaks."""

from __future__ import annotations

from data_pipelines.phrases import CUES, DONE, FILLERS, RUNNING, SPANISH, Carriers, lines
from data_pipelines.session import Conflict, Session
from data_pipelines.skills.cuespeak import run

NAME = "translation"
WEIGHT = 2.0

ASK = Carriers(
    train=lines("""
        translate my words | into spanish as i speak
        please translate | what i say into spanish
        give me the spanish words | while i speak
        say in spanish | the words that you know
        i speak and you translate | into spanish
        while i speak | say my words in spanish
        """),
    dev=("please give me my words | in spanish as i speak",),
    eval=lines("""
        now while i speak | translate the words that you know into spanish
        say what i say | in spanish please as i speak
        """),
)

CARRIERS = (ASK, RUNNING, FILLERS, DONE)
MODEL_PHRASES = tuple(SPANISH.values())


def _word(s: Session) -> tuple[str, str | None, int]:
    """(cue, answer, gap); a fifth are words without a translation."""
    if s.chance(0.2):
        return s.choice([c for c in CUES if c not in SPANISH]), None, s.integer(0, 1)
    words = tuple(SPANISH)
    _, word, _, gap = s.draw(lambda: (NAME, s.choice(words), s.integer(0, 5), s.integer(0, 1)))
    return word, SPANISH[word], gap


def scene(s: Session) -> None:
    turn = s.say(s.clauses(ASK), s.cursor)
    plan = [_word(s) for _ in range(s.integer(3, 6))]
    cues, answers, gaps = (list(x) for x in zip(*plan, strict=True))
    if not any(answers):
        raise Conflict("nothing to translate")
    triggers, end = run(s, turn.end + s.uniform(0.6, 1.2), cues, answers, gaps)
    s.trial("Translation", "spanish", (turn.start, end + 0.5), triggers=triggers)
    s.cursor = end + 0.6
