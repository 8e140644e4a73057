"""d. Speaks at named times: in N s, every N s until stop, at second N, longer than last time."""

from __future__ import annotations

import math

from data_pipelines.phrases import SECONDS, TIME_WORDS, Carriers, lines, number, varied
from data_pipelines.session import Conflict, Session, Turn

NAME = "timespeak"
WEIGHT = 2.4
LONG_SHARE, SILENCE_SHARE = 0.5, 0.4  # of the train split's single waits
NEAR_SHARE, ALONE_SHARE = 0.5, 0.5  # of the train split's named seconds
TYPED_SHARE = 0.2  # of the train split's requests: what a time is, without words to be heard first

_CLOCK = tuple(number(n) for n in range(8, 57))
_WORDS = {"word": TIME_WORDS}

IN = Carriers(
    train=varied(
        480,
        """
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
        [please|now|okay|so|can you|and] in {seconds} seconds [from now] | (say|tell me|you \
            say|please say|i want to hear|let me hear) {word} [please|to me|for me]
        [please|now|okay|can you|could you|would you|i want you to|just] say {word} ; \
            (in|after) [exactly] {seconds} seconds [please|from now|now]
        [now|okay|so|can you|could you|just] wait [for] [exactly] {seconds} seconds | \
            (and|then|before you|and then) (say|tell me) {word} [please|to me|for me]
        (when|once|as soon as|after) {seconds} seconds (are over|have gone|are done|are up) | \
            (say|tell me|you say|please tell me|let me hear|i want to hear) {word} [please|now]
        [please|can you|could you|would you] remind me ; (in|after) [exactly] {seconds} \
            seconds [from now] | (with|and say|by saying) {word} [please]
        (set|start|please set|can you set|i need) a timer ; (for|of) {seconds} seconds | \
            (and|and then|when it ends|when it is over) (say|tell me|please say) {word}
        (i want to hear|i would like to hear|let me hear|tell me|give me) {word} | (in|after) \
            [exactly] {seconds} seconds [from now|please|from this moment]
        [exactly] {seconds} seconds (from now|from this moment|after this) | (say|tell \
            me|please say|i want to hear|i would like to hear) {word} [please]
        (not now but|no sooner than|only) in {seconds} seconds | (say|you say|tell me|please \
            tell me) {word}
        let {seconds} [more] seconds go by | (then|and then) (say|tell me|you say) {word} [for \
            me]
        {word} is what i want to hear | (in|after) {seconds} seconds [from now|please]
        {seconds} seconds | (that is how long you wait|wait that long|no more and no less) | \
            (then|and then) say {word} [please]
        [now] please when | {seconds} seconds (have gone|are done) | (tell me|say) {word} \
            [please|then]
        """,
    ),
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
    train=varied(
        480,
        """
        every {seconds} seconds | say {word} until i say stop
        say {word} every | {seconds} seconds until i tell you to stop
        until i say stop | please say {word} | every {seconds} seconds now
        tell me {word} again and again | with {seconds} seconds between until i stop you
        keep saying {word} | every {seconds} seconds until you hear stop
        once every {seconds} seconds | i want you to say {word} until i say stop
        [please|now|okay|so|once] every {seconds} seconds ; (say|tell me|you say|please say|i \
            want to hear|let me hear) {word} | until (i say stop|i tell you to stop|you hear \
            stop|i stop you|i want you to stop)
        [please|now|okay|can you|could you|i want you to|just] say {word} ; [once] every \
            {seconds} seconds ; until (i say stop|i tell you to stop|you hear stop|you hear me say \
            stop|i stop you)
        (keep saying|please keep saying|go on saying|you keep saying|now keep saying) {word} ; \
            [once] every {seconds} seconds | until (i say stop|i tell you to stop|i say that it is \
            enough|i stop you)
        (i want to hear|i would like to hear|let me hear|give me|tell me) {word} ; (once \
            every|every|each) {seconds} seconds | until (i say stop|i tell you stop|you hear \
            stop|i say so)
        until (i say stop|i tell you to stop|you hear stop|i stop you|you hear me say stop) | \
            (say|keep saying|tell me|please say) {word} ; [once] every {seconds} seconds \
            [please|from now]
        (say|tell me|keep saying) {word} (again and again|over and over|to me again and again) \
            ; (every {seconds} seconds|with {seconds} seconds between|once every {seconds} \
            seconds) | until (i say stop|i stop you|you hear stop)
        again and again | (every|once every|after) {seconds} seconds | (say|tell me|you say) \
            {word} until (i say stop|you hear stop|i tell you to stop)
        (wait|you wait|please wait) {seconds} seconds and say {word} | [and] then (again|the \
            same again|again and again) until (i say stop|i stop you|i tell you to stop)
        (each time|every time|whenever) {seconds} seconds (are over|have gone|are up) | \
            (say|tell me|please say) {word} until (i say stop|i tell you to stop|you hear stop)
        """,
    ),
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
    train=varied(
        480,
        """
        at second {clock} | say {word} now and no sooner
        when we are at second {clock} | say {word} for me
        say {word} to me | at second {clock} of this session
        the clock starts when we start | at second {clock} please say {word}
        wait until second {clock} | then you say {word}
        when the session is {clock} seconds old | i want to hear {word} from you
        [please|now|okay|so|exactly] at second {clock} [of the session|of this \
            session|exactly] | (say|tell me|you say|please say|i want to hear|let me hear|please \
            tell me) {word} [please|for me|to me]
        [please|now|okay|can you|could you|i want you to|just] say {word} [for me|to me] ; \
            (at|when we are at|when it is|once we are at) second {clock} [exactly|please|and no \
            sooner|of this session|of the session]
        [now|okay|so|can you|just] wait (until|for) second {clock} [of this session|of our \
            session] | (then|and then|and|before you) (say|tell me) {word} [please]
        (when|once|as soon as) (we are|the clock is|the session is|this session is|we get) \
            (at|up to) second {clock} | (say|tell me|you say|please say|let me hear) {word} \
            [please|for me|at once]
        (when|once|as soon as) (this|the|our) session is {clock} seconds old | (say|tell \
            me|you say|please say) {word} [to me|please]
        (when|once|as soon as) {clock} seconds of (this|the|our) session (are over|have \
            gone|are up) | (say|tell me|please say) {word}
        (i want to hear|i would like to hear|let me hear|tell me|give me) {word} | (at|when it \
            is|when we are at) second {clock} [please|exactly|of the session]
        (the clock is running|the clock started with us|watch the clock|look at the clock) | \
            (at|and at|and when it is) second {clock} | (say|tell me|please say) {word} [for me]
        (not now but|no sooner than|only) at second {clock} | (say|you say|tell me) {word} \
            [please]
        {word} is what i want to hear | (at|when we are at) second {clock} [of this session]
        second {clock} | (that is when|is when|is the moment when) (you say|i want to hear|you \
            tell me) {word} [please|from you]
        """,
    ),
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
    train=varied(
        440,
        """
        say {word} in {seconds} seconds | then each time wait one second longer than last time
        wait {seconds} seconds and say {word} | then again but one second longer each time
        first wait {seconds} seconds | then say {word} | and each time wait a second more
        [please|now|okay|so] say {word} (in|after) {seconds} seconds ; (then|and then|and \
            after that) (each time|every time|always) wait | (one second longer|a second \
            longer|one more second|a second more) [than the last time|than before|than you did]
        [please|now|okay|first] wait {seconds} seconds ; and [then] say {word} | (then|and \
            then|after that) (again|say it again|once more) | (but|and) [wait] (one second \
            longer|a second longer|one second more) (each time|every time)
        (first|at first|to begin with|begin with) [wait] {seconds} seconds ; (and say|then \
            say|before you say) {word} | (and each time|then each time|and every time) [wait|it \
            is] (a second more|one more second|one second longer than before|a second longer)
        (first|at first|to begin with) say {word} (in|after) {seconds} seconds | (then|and \
            then) (wait|always wait) (one second more|a second longer|one second longer) (every \
            time|each time|than the last time)
        (keep saying|please keep saying|i want you to say|i want to hear) {word} | (first \
            after {seconds} seconds|after {seconds} seconds at first|{seconds} seconds from now) | \
            (then|and then) (each time|every time) (one second later|a second later|one second \
            longer|after a second more)
        (each time|every time) wait (one second longer|a second longer|one second more) [than \
            before|than the last time] | (before you say|and then say|and say) {word} | [and] \
            (start|begin) with {seconds} seconds
        (start|begin) (with|at) {seconds} seconds | (then say|and say|when they are over say) \
            {word} | and (wait a second longer|wait one second longer|add a second|add one second) \
            (each time|every time) [after that]
        say {word} again and again | first (after|in) {seconds} seconds [from now] | then \
            (each time|every time) [wait] (a second longer|one second longer|one second more)
        in {seconds} seconds (say|tell me) {word} | (and again|then again|and then again) ; \
            (but|and) (each time|every time) | (a second longer|one second longer|one more second \
            than before)
        """,
    ),
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
    train=varied(
        96,
        """
        stop
        stop now
        okay stop
        stop it please
        please stop
        stop that now
        [please|just|now] stop [please|now|it|that]
        (okay|thanks|and|so) stop [now|please|that]
        stop (stop|it now please|that please|saying that|there|for now)
        (you can stop|stop it there|okay please stop|now please stop|stop right there|okay \
            stop there)
        """,
    ),
    dev=("stop it now", "now stop"),
    eval=("okay stop it", "stop now please", "please stop that"),
)

CARRIERS = (IN, EVERY, AT, LONGER, STOP)
MODEL_PHRASES = TIME_WORDS


def _instruct(s: Session, carriers: Carriers, **values: str) -> Turn:
    clauses = s.clauses(carriers, **values)
    if s.split == "train" and s.chance(TYPED_SHARE):
        return Turn(s.cursor, s.type(" ".join(clauses), s.cursor), (), ())
    gaps = [s.uniform(0.5, 1.0) if s.chance(0.15) else s.uniform(0.02, 0.2) for _ in clauses[1:]]
    return s.say(clauses, s.cursor, gaps=gaps)


def _timed(s: Session, category: str, turn: Turn, times: list[float], word: str, end: float):
    """Speaks `word` at `times`, as `turn` asked, and records the trial, whose region goes from
    there to `end`."""
    for time in times:
        s.speak_on_time(word, time)
    triggers = [{"time_s": round(t, 4), "answer": word} for t in times]
    region, asked = (turn.start, end), round(turn.end, 4)
    s.trial("TimeSpeak", category, region, triggers=triggers, asked_s=asked)


def _in(s: Session) -> None:
    # Long waits are the hard ones: half of the train split's draws are of them alone.
    least = 9 if s.split == "train" and s.chance(LONG_SHARE) else 2
    _, _, n, word = s.draw(lambda: (NAME, "in", s.integer(least, 15), s.choice(TIME_WORDS)))
    turn = _instruct(s, IN, seconds=number(n), word=word)
    _timed(s, "in", turn, [turn.end + n], word, turn.end + n + 2.0)
    # Half of the waits are left to other scenes, the rest pass in silence; in the train split that
    # goes on as long again at times: once is not every so often.
    after = n + 0.8 if s.split == "train" and s.chance(SILENCE_SHARE) else 0.0
    s.cursor = turn.end + (0.6 if n >= 5 and s.chance(0.5) else n + 1.0 + after)


def _at(s: Session) -> None:
    latest = min(56, math.floor(s.limit_s - 1.5))
    earliest = math.ceil(s.cursor + 6)
    if earliest > latest:
        raise Conflict("no second left to speak at")

    # Of the train split's moments half are near, and half are waited for in silence: what is asked
    # for is learnt from a single request first, then from one among others.
    if s.split == "train" and s.chance(NEAR_SHARE):
        latest = min(latest, earliest + 8)

    def make() -> tuple:
        return NAME, "at", s.integer(max(8, earliest), latest), s.choice(TIME_WORDS)

    _, _, n, word = s.draw(make)
    turn = _instruct(s, AT, clock=number(n), word=word)
    if turn.end + 1.0 > n:
        raise Conflict("named a second that was over")
    _timed(s, "at", turn, [float(n)], word, n + 2.0)
    alone = s.split == "train" and s.chance(ALONE_SHARE)
    s.cursor = n + 1.0 if alone else turn.end + 0.6


def _until_stop(s: Session, category: str, turn: Turn, waits: list[float], word: str) -> None:
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
    _timed(s, category, turn, times, word, stop.end + 1.0)
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
    if s.split == "train":  # a wait that comes once teaches less than one that comes again
        kinds = (_in,) * 6 + (_at,) * 7 + (_every,) * 2 + (_longer,)
    else:  # every and longer often do not fit; about as many of each come out
        kinds = (_in, _in, _every, _every, _every, _at, _longer, _longer)
    s.choice(kinds)(s)
