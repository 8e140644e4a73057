"""a. Answers a question or echoes a word once the user has ended; waits through pauses before."""

from __future__ import annotations

from data_pipelines.phrases import COLOUR_OF, ECHO, OPPOSITE, Carriers, lines, number
from data_pipelines.session import Session

NAME = "answer"
WEIGHT = 1.8

_NUMBERS = tuple(number(n) for n in range(1, 10))
PAUSES = ((0.02, 0.2), (0.5, 0.8), (0.8, 1.2), (1.2, 1.6))  # ranges of the gap between clauses

OPPOSITES = Carriers(
    train=lines("""
        what is | the opposite of {opposite}
        tell me the | opposite of {opposite}
        say the opposite | of {opposite}
        what would be the opposite | of {opposite} please
        which word is | the opposite of the word {opposite}
        i want to know | what the opposite of {opposite} is
        do you know the opposite | of the word {opposite}
        name the word that is | the opposite to {opposite}
        okay so what is | the opposite for {opposite}
        please | give me the opposite of {opposite}
        and now give me | an opposite of {opposite}
        if i say that it is not {opposite} | what is it
        can you think of | the opposite word to {opposite}
        """),
    dev=lines("""
        would you tell me | which word the opposite of {opposite} is
        what do you say is | the opposite to the word {opposite}
        """),
    eval=lines("""
        what is the word | that is the opposite of {opposite}
        now tell me please | what the opposite of {opposite} would be
        do you know which word | is the opposite of {opposite}
        """),
    slots={"opposite": tuple(OPPOSITE)},
)

SUMS = Carriers(
    train=lines("""
        what is {a} | plus {b}
        tell me what {a} | and {b} make
        how much is {a} | and {b} please
        please add {a} | to {b}
        what do you get for {a} | plus {b} now
        i want to know how much {a} | plus {b} is
        okay so how much would {a} | and {b} be
        can you add {a} | and {b}
        """),
    dev=lines("""
        what would {a} | and {b} be please
        now add {a} | and {b} for me
        """),
    eval=lines("""
        tell me how much {a} | plus {b} would be
        so what do {a} | and {b} make now
        please can you tell me what {a} | plus {b} make
        """),
    slots={"a": _NUMBERS, "b": _NUMBERS},
)

COLOUR = Carriers(
    train=lines("""
        what colour is | the {thing}
        tell me the colour | of the {thing}
        which colour has | the {thing} got
        do you know what colour | the {thing} is
        i want to know | which colour the {thing} has
        please name the colour | that the {thing} has
        okay so what is the colour | of the {thing} please
        """),
    dev=lines("""
        can you name | the colour of the {thing}
        which is the colour | that the {thing} has got
        """),
    eval=lines("""
        now tell me which colour | the {thing} has
        what do you know | of the colour of the {thing}
        can you tell me please | what colour the {thing} is
        """),
    slots={"thing": tuple(COLOUR_OF)},
)

ECHOES = Carriers(
    train=lines("""
        repeat after me | the word {echo}
        please repeat | the word {echo} now
        say after me | {echo}
        now i say a word and you repeat it | it is {echo}
        can you say | the word {echo} for me
        what i want you to repeat | is the word {echo}
        which word do i say | {echo} is what i say
        listen and repeat | the word i say is {echo}
        """),
    dev=lines("""
        please listen and say | the word that i say is {echo}
        can you repeat it after me | now it is {echo}
        """),
    eval=lines("""
        listen to me and repeat | the word {echo} please
        now say it after me | what i say is {echo}
        i want you to say the word | it is the word {echo}
        """),
    slots={"echo": ECHO},
)

CARRIERS = (OPPOSITES, SUMS, COLOUR, ECHOES)
MODEL_PHRASES = (
    *(f"the opposite is {w}" for w in OPPOSITE),
    *(f"the answer is {number(n)}" for n in range(2, 19)),
    *(f"the {thing} is {colour}" for thing, colour in COLOUR_OF.items()),
    *(f"the word is {w}" for w in ECHO),
)


def question(s: Session, timings: int = len(PAUSES)) -> tuple[str, list[str], str, int]:
    """A random question: (category, clauses, answer, index of the pause's length in PAUSES)."""

    def make() -> tuple:
        kind = s.choice(("opposite", "opposite", "sum", "colour", "echo", "echo"))
        timing = s.integer(1, timings - 1) if timings > 1 and s.chance(0.5) else 0
        if kind == "sum":
            return NAME, kind, s.integer(1, 9), s.integer(1, 9), timing
        items = {"opposite": tuple(OPPOSITE), "colour": tuple(COLOUR_OF), "echo": ECHO}[kind]
        return NAME, kind, s.choice(items), timing

    _, kind, *slots, timing = s.draw(make)
    if kind == "sum":
        a, b = slots
        clauses, answer = (
            s.clauses(SUMS, a=number(a), b=number(b)),
            f"the answer is {number(a + b)}",
        )
        return kind, clauses, answer, timing
    item = slots[0]
    clauses, answer = {
        "opposite": lambda: (
            s.clauses(OPPOSITES, opposite=item),
            f"the opposite is {OPPOSITE[item]}",
        ),
        "colour": lambda: (s.clauses(COLOUR, thing=item), f"the {item} is {COLOUR_OF[item]}"),
        "echo": lambda: (s.clauses(ECHOES, echo=item), f"the word is {item}"),
    }[kind]()
    return kind, clauses, answer, timing


def scene(s: Session) -> None:
    category, clauses, answer, timing = question(s)
    turn = s.say(clauses, s.cursor, gaps=[s.uniform(*PAUSES[timing]) for _ in clauses[1:]])
    spoken = s.reply(answer, turn.end)
    s.keep_silent(turn.start - 0.3, spoken.start, [spoken])
    s.trial(
        "TurnTaking", category, (turn.start, spoken.end + 1.0),
        user_end_s=turn.end, answer=answer, pauses=[list(p) for p in turn.pauses],
    )  # fmt: skip
    s.cursor = spoken.end + 0.3
