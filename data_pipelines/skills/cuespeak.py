"""e. Speaks on verbal cues while the user speaks on: opposites, a named word, running counts."""

from __future__ import annotations

from data_pipelines.phrases import (
    ANIMALS,
    COLOURS,
    COUNT_WORDS,
    CUES,
    DONE,
    FILLERS,
    OPPOSITE,
    RUNNING,
    TIME_WORDS,
    Carriers,
    lines,
    number,
)
from data_pipelines.session import Session

NAME = "cuespeak"
WEIGHT = 2.8

_NAMED = {"word": TIME_WORDS}
ON_COLOUR = Carriers(
    train=lines("""
        every time i say a colour | say {word}
        whenever you hear a colour | say {word} at once
        say {word} | each time i name a colour
        for every colour that i say | you say {word}
        when i name a colour | say {word} while i speak on
        """),
    dev=("each time you hear a colour | say {word} for it",),
    eval=lines("""
        whenever i name a colour | you say {word} at once
        each time that i say a colour | say {word} while i speak
        """),
    slots=_NAMED,
)
ON_ANIMAL = Carriers(
    train=lines("""
        every time i say an animal | say {word}
        whenever you hear an animal | say {word} at once
        say {word} | each time i name an animal
        for every animal that i say | you say {word}
        when i name an animal | say {word} while i speak on
        """),
    dev=("each time you hear an animal | say {word} for it",),
    eval=lines("""
        whenever i name an animal | you say {word} at once
        each time that i say an animal | say {word} while i speak
        """),
    slots=_NAMED,
)
ON_OPPOSITE = Carriers(
    train=lines("""
        say the opposite | of every such word that i say
        every time i say a word with an opposite | say the opposite
        whenever a word of mine has an opposite | name it while i speak
        while i speak | name the opposite of each word that has one
        give me the opposite at once | each time i say a word that has one
        """),
    dev=("name the opposite | every time a word of mine has one",),
    eval=lines("""
        while i speak name the opposite | of every word that has one
        whenever i say a word that has an opposite | say the opposite at once
        """),
)
COUNT = Carriers(
    train=lines("""
        count how often | i say {counted}
        every time i say {counted} | say how many it were
        keep a count of | the word {counted} while i speak
        count along out loud | each time you hear {counted}
        whenever i say {counted} | tell me the count
        """),
    dev=("keep count out loud | each time i say {counted}",),
    eval=lines("""
        keep a count out loud | of how often you hear {counted}
        every time you hear {counted} | tell me the count at once
        """),
    slots={"counted": COUNT_WORDS},
)

CARRIERS = (ON_COLOUR, ON_ANIMAL, ON_OPPOSITE, COUNT, RUNNING, FILLERS, DONE)
MODEL_PHRASES = (*TIME_WORDS, *OPPOSITE, *(number(n) for n in range(1, 9)))
_GAPS = ("short", "middle", "long")  # fillers between two cues: none, one, two


def run(s: Session, start: float, cues: list[str], answers: list[str | None], gaps: list[int]):
    """The user's running speech from `start` on: a frame for each cue, `gaps` fillers before it.

    The model speaks `answers` (None: nothing) on the cues while the user speaks on. Returns the
    triggers and the end of the speech.
    """
    time, triggers = start, []
    for cue, answer, gap in zip(cues, answers, gaps, strict=True):
        for _ in range(gap):
            time = s.say(s.clauses(FILLERS), time).end + s.uniform(0.12, 0.35)
        turn = s.say(s.clauses(RUNNING, cue=cue), time)
        if answer is not None:
            heard = turn.word_end(cue)
            spoken = s.reply(answer, heard)
            s.keep_silent(heard, spoken.start, [spoken])
            triggers.append({"time_s": round(heard, 4), "answer": answer})
        time = turn.end + s.uniform(0.12, 0.35)
    if s.chance(0.4):
        time = s.say(s.clauses(FILLERS), time).end
    return triggers, s.say(s.clauses(DONE), time + s.uniform(0.6, 1.2)).end


def _cue(s: Session, category: str, aim: str) -> tuple[str, str | None, int]:
    """(cue, answer, gap) of one frame; a quarter are words that are no cue in this category."""
    own = {"colour": COLOURS, "animal": ANIMALS, "opposite": tuple(OPPOSITE)}.get(category, (aim,))
    gap = s.integer(0, 2)
    if s.chance(0.25):
        others = [c for c in CUES if c not in own and not (category == "animal" and c in ANIMALS)]
        return s.choice(others), None, gap
    _, _, cue, _, gap = s.draw(
        lambda: (NAME, category, s.choice(own), aim, s.integer(0, len(_GAPS) - 1))
    )
    answer = {"opposite": OPPOSITE.get(cue), "count": "count"}.get(category, aim)
    return cue, answer, gap


def scene(s: Session) -> None:
    category = s.choice(("colour", "animal", "opposite", "opposite", "count"))
    if category == "count":
        aim = s.choice(COUNT_WORDS)
        clauses = s.clauses(COUNT, counted=aim)
    elif category == "opposite":
        aim = "opposite"
        clauses = s.clauses(ON_OPPOSITE)
    else:
        aim = s.choice(TIME_WORDS)
        clauses = s.clauses(ON_COLOUR if category == "colour" else ON_ANIMAL, word=aim)
    turn = s.say(clauses, s.cursor)
    plan = [_cue(s, category, aim) for _ in range(s.integer(2, 6))]
    if all(answer is None for _, answer, _ in plan):
        plan.append(_cue_for_sure(s, category, aim))
    cues, answers, gaps = (list(x) for x in zip(*plan, strict=True))
    if category == "count":
        count = 0
        for i, answer in enumerate(answers):
            if answer is not None:
                count += 1
                answers[i] = number(count)
    start = turn.end + s.uniform(0.6, 1.2)
    triggers, end = run(s, start, cues, answers, gaps)
    s.trial("CueSpeak", category, (turn.start, end + 0.5), triggers=triggers)
    s.cursor = end + 0.6


def _cue_for_sure(s: Session, category: str, aim: str) -> tuple[str, str | None, int]:
    while True:
        found = _cue(s, category, aim)
        if found[1] is not None:
            return found
