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
    varied,
)
from data_pipelines.session import Session

NAME = "cuespeak"
WEIGHT = 2.8

_NAMED = {"word": TIME_WORDS}
ON_COLOUR = Carriers(
    train=varied(
        480,
        """
        every time i say a colour | say {word}
        whenever you hear a colour | say {word} at once
        say {word} | each time i name a colour
        for every colour that i say | you say {word}
        when i name a colour | say {word} while i speak on
        [okay|so|now|please] (every time|each time|any time) [that] (i say|you hear|i \
            name|there is) a colour | [please|you|then|just] say {word} [please|for it|now|to \
            me|out loud]
        [okay|now|please] (whenever|when|as soon as|once) (i say|you hear|i name|there is|you \
            hear me say) a colour | [please|you|then|just] say {word} [please|for it|each time|out \
            loud]
        [please|now|okay|i want you to|can you|you have to|i would like you to] say {word} ; \
            (each time|every time|whenever|as soon as|any time) (i say|you hear|i name|there is) a \
            colour [while i speak|now|from now on]
        for (every|each|any) colour | (that i say|that i name|you hear|i name|that you hear) ; \
            [please|you|just] (say|tell me) {word} [at once|out loud]
        (while|as) i (speak|speak on|tell my story) ; (say {word}|you say {word}|please say \
            {word}) | (each time|every time|whenever|when) (i say|you hear|i name) a colour
        (when|whenever) (one of my words is|a word of mine is|the word that i say is) a colour \
            | [please|you|then] say {word} [at once|for me|while i go on]
        (listen for|look out for|watch for) a colour | [and|then] (say|you say|please say) \
            {word} (when|each time|as soon as) (i say one|you hear one|there is one)
        {word} is what (you say|i want you to say|i want to hear) | (each time|every \
            time|whenever|when) (i say|you hear|i name) a colour
        i will (speak|tell you a story|go on) | and (each time|every time|when|whenever) (i \
            say|you hear|i name) a colour | (you say|say|please say) {word}
        [please|now] listen (to me|while i speak) | and say {word} ; (for every|for each|at \
            every|at each) colour (i say|i name|you hear)
        """,
    ),
    dev=("each time you hear a colour | say {word} for it",),
    eval=lines("""
        whenever i name a colour | you say {word} at once
        each time that i say a colour | say {word} while i speak
        """),
    slots=_NAMED,
)
ON_ANIMAL = Carriers(
    train=varied(
        480,
        """
        every time i say an animal | say {word}
        whenever you hear an animal | say {word} at once
        say {word} | each time i name an animal
        for every animal that i say | you say {word}
        when i name an animal | say {word} while i speak on
        [okay|so|now|please] (every time|each time|any time) [that] (i say|you hear|i \
            name|there is) an animal | [please|you|then|just] say {word} [please|for it|now|to \
            me|out loud]
        [okay|now|please] (whenever|when|as soon as|once) (i say|you hear|i name|there is|you \
            hear me say) an animal | [please|you|then|just] say {word} [please|for it|each \
            time|out loud]
        [please|now|okay|i want you to|can you|you have to|i would like you to] say {word} ; \
            (each time|every time|whenever|as soon as|any time) (i say|you hear|i name|there is) \
            an animal [while i speak|now|from now on]
        for (every|each|any) animal | (that i say|that i name|you hear|i name|that you hear) ; \
            [please|you|just] (say|tell me) {word} [at once|out loud]
        (while|as) i (speak|speak on|tell my story) ; (say {word}|you say {word}|please say \
            {word}) | (each time|every time|whenever|when) (i say|you hear|i name) an animal
        (when|whenever) (one of my words is|a word of mine is|the word that i say is) an \
            animal | [please|you|then] say {word} [at once|for me|while i go on]
        (listen for|look out for|watch for) an animal | [and|then] (say|you say|please say) \
            {word} (when|each time|as soon as) (i say one|you hear one|there is one)
        {word} is what (you say|i want you to say|i want to hear) | (each time|every \
            time|whenever|when) (i say|you hear|i name) an animal
        i will (speak|tell you a story|go on) | and (each time|every time|when|whenever) (i \
            say|you hear|i name) an animal | (you say|say|please say) {word}
        [please|now] listen (to me|while i speak) | and say {word} ; (for every|for each|at \
            every|at each) animal (i say|i name|you hear)
        """,
    ),
    dev=("each time you hear an animal | say {word} for it",),
    eval=lines("""
        whenever i name an animal | you say {word} at once
        each time that i say an animal | say {word} while i speak
        """),
    slots=_NAMED,
)
ON_OPPOSITE = Carriers(
    train=varied(
        480,
        """
        say the opposite | of every such word that i say
        every time i say a word with an opposite | say the opposite
        whenever a word of mine has an opposite | name it while i speak
        while i speak | name the opposite of each word that has one
        give me the opposite at once | each time i say a word that has one
        [please|now|okay|i want you to|can you|you have to|just] (say|name|give me|tell me) \
            the opposite ; (each time|every time|whenever|as soon as) (i say|you hear|there is) a \
            word (that has one|with an opposite|which has one)
        [please|now|okay|so] (each time|every time|whenever|any time|when) (i say|you \
            hear|there is|i name) a word (with an opposite|that has an opposite|which has its \
            opposite) | [you|then|just] (say|name|tell me|give me) (that one|the opposite|its \
            opposite) [please|out loud|for me]
        (while|as) i (speak|go on|tell my story) ; [please|you|just] (say|name|tell me|give \
            me) | the opposite (of each|of every|for each|for every) word (that has one|which has \
            one|with an opposite) [please]
        for (every|each|any) word (of mine|that i say|you hear) ; (that has an opposite|with \
            an opposite) | [please|you] (say|name|tell me|give me) (it|the opposite|that) [at \
            once|as i speak]
        (when|if|whenever) (a word of mine|one of my words|a word that you hear|any word) (has \
            an opposite|has got an opposite) | [please|you|then] (say|name|tell me|give me) \
            (it|the opposite|its opposite) [at once|out loud|while i go on]
        i (speak|go on|will speak on) | and you (say|name|tell me|give me) [at once] | the \
            opposite (of my words|of any word that has one|when a word has one)
        (listen for|look out for|watch for) words (with an opposite|that have an opposite) | \
            [and|then] (say|name|give me) (the opposite|it|that) [at once|each time|as you hear \
            them]
        [please|now] listen (to me|to my story) | and (say|name|give me) the opposite ; (of \
            each word|of every word|of any word) (that has one|with an opposite)
        the opposite of (each|every|any) (such word|word that has one) | is what (i want to \
            hear|you say|i want from you) while i speak
        i want to hear the opposite | (each time|every time|whenever) (i say|you hear|i name) \
            a word that has one
        """,
    ),
    dev=("name the opposite | every time a word of mine has one",),
    eval=lines("""
        while i speak name the opposite | of every word that has one
        whenever i say a word that has an opposite | say the opposite at once
        """),
)
COUNT = Carriers(
    train=varied(
        520,
        """
        count how often | i say {counted}
        every time i say {counted} | say how many it were
        keep a count of | the word {counted} while i speak
        count along out loud | each time you hear {counted}
        whenever i say {counted} | tell me the count
        [please|now|okay|i want you to|can you|you have to|just] count ; (how often|how many \
            times|each time|every time) | (i say|you hear|there is|you hear me say) [the word] \
            {counted} [out loud|while i speak]
        [please|now|okay|so] (each time|every time|any time|whenever|as soon as|when) (i \
            say|you hear|there is|i name) [the word] {counted} | [please|you|then|just] (say the \
            number|tell me the number|tell me how often it was|count it out loud|give me the \
            count|say how many) [please|now|so far]
        (keep count|keep a count|please keep count|you keep a count|now keep a count) ; \
            (of|for me of) | (how often i say|how often there is|every time you hear|each time \
            that i say|the word) {counted} [as i speak|please]
        count (out loud|along|for me|with me) ; (how often i say|every time i say|whenever you \
            hear|each|every) {counted} [that you hear|please|while i go on]
        (while|as) i (speak|go on|tell my story) ; (count|please count|you count|keep a count \
            of) | (how often i say|each|every|the word) {counted} [out loud]
        (listen for|look out for|watch for) [the word] {counted} | and (count it|tell me the \
            count|count how often it comes|say the number each time|keep count out loud) [please]
        [the word] {counted} is what (you count|i want you to count|you have to count) | [so] \
            (say the number|tell me the number|count out loud) (each time|every time|when you hear \
            it|at once)
        for (every|each) {counted} (that i say|you hear|that you hear) | [please|you] (tell \
            me|say|give me) the (number|count) [at once|out loud]
        how often do i say {counted} | (count along|count along please|count out loud|tell me \
            each time|keep a count)
        i will (speak|tell you a story|go on) | and you (count|keep a count of) | (how often i \
            say|every|each) {counted}
        (tell me|say|i want to hear|give me) the (count|number) ; (each time|every \
            time|whenever|as soon as) (i say|you hear) [the word] {counted}
        """,
    ),
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
