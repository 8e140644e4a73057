"""d. Speaks at named times: in N s, every N s until stop, at second N, longer than last time."""

from __future__ import annotations

import math

from data_pipelines.phrases import SECONDS, TIME_WORDS, Carriers, lines, number
from data_pipelines.session import Conflict, Session

NAME = "timespeak"
WEIGHT = 2.4

_CLOCK = tuple(number(n) for n in range(8, 57))
_WORDS = {"word": TIME_WORDS}

IN = Carriers(
    train=lines("""
        in {seconds} seconds | say {word}
        say {word} | in {seconds} seconds please
        please say {word} | {seconds} seconds from now
        wait {seconds} seconds | and then say {word}
        remind me in {seconds} seconds | and say {word} then
        {seconds} seconds from now | you say {word}
        tell me {word} | in exactly {seconds} seconds
        after {seconds} seconds | i want you to say {word}
        can you say {word} | when {seconds} seconds are over
        set a timer for {seconds} seconds | then say {word}
        """),
    dev=lines("""
        can you wait {seconds} seconds | and tell me {word}
        please can you say {word} | in {seconds} seconds from now
        """),
    eval=lines("""
        please wait for {seconds} seconds | then tell me {word}
        in exactly {seconds} seconds from now | you tell me {word}
        please when {seconds} seconds are over | then please tell me {word}
        """),
    slots={"seconds": SECONDS, **_WORDS},
)

EVERY = Carriers(
    train=lines("""
        every {seconds} seconds | say {word} until i say stop
        say {word} every | {seconds} seconds until i tell you to stop
        until i say stop | please say {word} | every {seconds} seconds now
        tell me {word} again and again | with {seconds} seconds between until i stop you
        keep saying {word} | every {seconds} seconds until you hear stop
        once every {seconds} seconds | i want you to say {word} until i say stop
        """),
    dev=lines("""
        please keep saying {word} | once every {seconds} seconds until i say stop
        """),
    eval=lines("""
        again and again say {word} | once every {seconds} seconds until you hear stop
        keep saying {word} to me | every {seconds} seconds until i tell you stop
        i want to hear {word} | every {seconds} seconds until i stop you
        """),
    slots={"seconds": SECONDS[:9], **_WORDS},
)

AT = Carriers(
    train=lines("""
        at second {clock} | say {word} now and no sooner
        when we are at second {clock} | say {word} for me
        say {word} to me | at second {clock} of this session
        the clock starts when we start | at second {clock} please say {word}
        wait until second {clock} | then you say {word}
        when the session is {clock} seconds old | i want to hear {word} from you
        """),
    dev=lines("""
        please wait until second {clock} of the session | then say {word} for me
        """),
    eval=lines("""
        when the clock of this session is at second {clock} | tell me {word} please
        at second {clock} of the session | i want to hear {word}
        say {word} for me please | when this session is {clock} seconds old
        """),
    slots={"clock": _CLOCK, **_WORDS},
)

LONGER = Carriers(
    train=lines("""
        say {word} in {seconds} seconds | then each time wait one second longer than last time
        wait {seconds} seconds and say {word} | then again but one second longer each time
        first wait {seconds} seconds | then say {word} | and each time wait a second more
        """),
    dev=lines("""
        first say {word} in {seconds} seconds | and each time wait a second longer than last time
        """),
    eval=lines("""
        wait {seconds} seconds then say {word} | and again each time a second longer than before
        first in {seconds} seconds say {word} | then every time wait one second longer
        """),
    slots={"seconds": SECONDS[:4], **_WORDS},
)

STOP = Carriers(
    train=("stop", "stop now", "okay stop", "stop it please", "please stop", "stop that now"),
    dev=("stop it now", "now stop"),
    eval=("okay stop it", "stop now please", "please stop that"),
)

CARRIERS = (IN, EVERY, AT, LONGER, STOP)
MODEL_PHRASES = TIME_WORDS


def _instruct(s: Session, carriers: Carriers, **values: str):
    clauses = s.clauses(carriers, **values)
    gaps = [s.uniform(0.5, 1.0) if s.chance(0.15) else s.uniform(0.02, 0.2) for _ in clauses[1:]]
    return s.say(clauses, s.cursor, gaps=gaps)


def _timed(s: Session, category: str, start: float, times: list[float], word: str, end: float):
    """Speaks `word` at `times` and records the trial, whose region is [start, end]."""
    for time in times:
        s.speak_on_time(word, time)
    triggers = [{"time_s": round(t, 4), "answer": word} for t in times]
    s.trial("TimeSpeak", category, (start, end), triggers=triggers)


def _in(s: Session) -> None:
    _, _, n, word = s.draw(lambda: (NAME, "in", s.integer(2, 15), s.choice(TIME_WORDS)))
    turn = _instruct(s, IN, seconds=number(n), word=word)
    _timed(s, "in", turn.start, [turn.end + n], word, turn.end + n + 2.0)
    # Half of the waits are left to other scenes, the rest pass in silence.
    s.cursor = turn.end + (0.6 if n >= 5 and s.chance(0.5) else n + 1.0)


def _at(s: Session) -> None:
    latest = min(56, math.floor(s.limit_s - 1.5))
    earliest = math.ceil(s.cursor + 6)
    if earliest > latest:
        raise Conflict("no second left to speak at")

    def make() -> tuple:
        return NAME, "at", s.integer(max(8, earliest), latest), s.choice(TIME_WORDS)

    _, _, n, word = s.draw(make)
    turn = _instruct(s, AT, clock=number(n), word=word)
    if turn.end + 1.0 > n:
        raise Conflict("named a second that was over")
    _timed(s, "at", turn.start, [float(n)], word, n + 2.0)
    s.cursor = turn.end + 0.6


def _until_stop(s: Session, category: str, turn, waits: list[float], word: str) -> None:
    """Speaks after each of the `waits`, the last of which the user's stop cuts off."""
    times, time = [], turn.end
    for wait in waits[:-1]:
        time += wait
        times.append(time)
    # After the last utterance the user needs a moment to say stop, well before the next is due.
    at = time + s.uniform(0.75, max(0.8, waits[-1] - 1.6))
    stop = s.say(s.clauses(STOP), at)
    if stop.end > time + waits[-1] - 0.3:
        raise Conflict("stop comes too late")
    _timed(s, category, turn.start, times, word, stop.end + 1.0)
    s.cursor = max(stop.end, time + waits[-1]) + 0.8


def _every(s: Session) -> None:
    _, _, n, word = s.draw(lambda: (NAME, "every", s.integer(2, 10), s.choice(TIME_WORDS)))
    turn = _instruct(s, EVERY, seconds=number(n), word=word)
    most = max(2, min(6, int((s.limit_s - turn.end) / n) - 1))
    _until_stop(s, "every", turn, [float(n)] * (s.integer(2, most) + 1), word)


def _longer(s: Session) -> None:
    _, _, n, word = s.draw(lambda: (NAME, "longer", s.integer(2, 5), s.choice(TIME_WORDS)))
    turn = _instruct(s, LONGER, seconds=number(n), word=word)
    _until_stop(s, "longer", turn, [float(n + i) for i in range(s.integer(2, 4) + 1)], word)


def scene(s: Session) -> None:
    s.choice((_in, _in, _every, _at, _at, _longer))(s)
