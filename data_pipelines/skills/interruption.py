"""b. Is cut off while it recites a list: falls silent at once and takes up the new request."""

from __future__ import annotations

from data_pipelines.phrases import COLOURS, DAYS, ECHO, MONTHS, OPPOSITE, Carriers, lines, number
from data_pipelines.session import GRACE_S, Conflict, Session, Spoken, Turn

NAME = "interruption"
WEIGHT = 1.4

_SUM = tuple(number(n) for n in range(1, 10))
LISTS = {
    "up": tuple(number(n) for n in range(1, 21)),
    "down": tuple(number(n) for n in range(12, 0, -1)),
    "even": tuple(number(n) for n in range(2, 21, 2)),
    "days": DAYS,
    "months": MONTHS,
    "colours": COLOURS,
}

RECITE = {
    "up": Carriers(
        train=lines("""
            count to twenty
            please count | from one to twenty
            can you count up to twenty
            i want to hear you count | up to twenty
            """),
        dev=("now count up to twenty please",),
        eval=lines("""
            can you count from one | to twenty please
            please count to twenty now
            """),
    ),
    "down": Carriers(
        train=lines("""
            count down from twelve
            please count down | from twelve to one
            can you count back from twelve
            """),
        dev=("now count down from twelve please",),
        eval=("can you count down | from twelve to one please", "please count back from twelve"),
    ),
    "even": Carriers(
        train=lines("""
            count in twos
            please count in steps of two
            name the even numbers | up to twenty
            """),
        dev=("now count in steps of two please",),
        eval=("can you count in twos | to the number twenty", "please name the even numbers"),
    ),
    "days": Carriers(
        train=lines("""
            name the days of the week
            tell me the days | of a week
            can you say all the days | of the week
            which days has a week
            """),
        dev=("please say the days of the week",),
        eval=("can you name all the days | in a week", "tell me which days the week has"),
    ),
    "months": Carriers(
        train=lines("""
            name the months of the year
            tell me the months | of a year
            can you say all the months | of the year
            which months has a year
            """),
        dev=("please say the months of the year",),
        eval=("can you name all the months | in a year", "tell me which months the year has"),
    ),
    "colours": Carriers(
        train=lines("""
            name all the colours you know
            tell me some colours
            can you list the colours | that you know
            """),
        dev=("please list some colours",),
        eval=("can you name some colours | you know of", "tell me all the colours"),
    ),
}

CUT_OPPOSITE = Carriers(
    train=lines("""
        stop | what is the opposite of {opposite} please
        wait wait | tell me the opposite of {opposite} instead
        stop stop | i would like the opposite of {opposite}
        okay stop there | name the opposite of {opposite}
        wait a moment | what is the word opposite to {opposite}
        """),
    dev=("stop there | i want the opposite of {opposite} instead",),
    eval=lines("""
        stop please | tell me what is the opposite of {opposite}
        wait stop | i would like the word opposite to {opposite}
        """),
    slots={"opposite": tuple(OPPOSITE)},
)
CUT_SUM = Carriers(
    train=lines("""
        stop | how much is {a} | plus {b} instead
        wait | what do {a} | and {b} make
        stop that | tell me what you get for {a} | and {b}
        wait stop now | add {a} | and {b} for me please
        """),
    dev=("wait wait stop | what would you get for {a} | and {b} now",),
    eval=lines("""
        stop wait | how much would you get for {a} | plus {b} please
        wait there | tell me what is {a} | and {b} instead
        """),
    slots={"a": _SUM, "b": _SUM},
)
CUT_ECHO = Carriers(
    train=lines("""
        stop | say the word {echo} after me
        wait | repeat after me now | i say {echo} instead
        now stop please | you repeat the word {echo}
        wait please | just repeat {echo}
        """),
    dev=("stop now wait | just repeat the word {echo}",),
    eval=lines("""
        stop it wait | repeat the word {echo} instead
        wait please stop | just say {echo} after me
        """),
    slots={"echo": ECHO},
)

CARRIERS = (*RECITE.values(), CUT_OPPOSITE, CUT_SUM, CUT_ECHO)
MODEL_PHRASES = (
    *dict.fromkeys(word for words in LISTS.values() for word in words),
    *(f"the opposite is {w}" for w in OPPOSITE),
    *(f"the answer is {number(n)}" for n in range(2, 19)),
    *(f"the word is {w}" for w in ECHO),
)


def recite(s: Session, name: str) -> tuple[Turn, list[Spoken]]:
    """The user asks for a list and the model says it to the end."""
    clauses = s.clauses(RECITE[name])
    turn = s.say(clauses, s.cursor)
    return turn, s.speak_list(LISTS[name], s.reply_time(turn.end))


def _request(s: Session, name: str) -> tuple[list[str], str]:
    """The new request and its answer."""

    def make() -> tuple:
        kind = s.choice(("opposite", "sum", "echo"))
        if kind == "sum":
            return NAME, kind, s.integer(1, 9), s.integer(1, 9), name
        return NAME, kind, s.choice({"opposite": tuple(OPPOSITE), "echo": ECHO}[kind]), name

    _, kind, *slots, _ = s.draw(make)
    if kind == "sum":
        a, b = slots
        return s.clauses(CUT_SUM, a=number(a), b=number(b)), f"the answer is {number(a + b)}"
    if kind == "opposite":
        return s.clauses(CUT_OPPOSITE, opposite=slots[0]), f"the opposite is {OPPOSITE[slots[0]]}"
    return s.clauses(CUT_ECHO, echo=slots[0]), f"the word is {slots[0]}"


def scene(s: Session) -> None:
    name = s.choice(tuple(LISTS))
    turn, said = recite(s, name)
    planned = said[-1].end
    cut = s.uniform(said[0].start + 0.9, min(said[0].start + 6.0, planned - 1.2))
    clauses, answer = _request(s, name)
    interruption = s.say(clauses, cut)
    quiet_at = s.yield_time(cut)
    if quiet_at >= planned:
        raise Conflict("nothing is left to cut off")
    s.silence_from(quiet_at, said)
    s.keep_silent(quiet_at + 0.1, s.reply_time(interruption.end))
    spoken = s.reply(answer, interruption.end)
    s.expect(said[0].start - 0.3, quiet_at + 0.4)
    s.trial(
        "Interruption", name, (turn.start, spoken.end + GRACE_S),
        interrupt=[round(cut, 4), round(interruption.end, 4)], answer=answer,
        speaking=[round(said[0].start, 4), round(planned, 4)], yield_s=round(quiet_at, 4),
    )  # fmt: skip
    s.cursor = spoken.end + 0.3
