"""b. Is cut off while it recites a list: falls silent at once and takes up the new request."""

from __future__ import annotations

from data_pipelines.phrases import (
    COLOURS,
    DAYS,
    ECHO,
    MONTHS,
    OPPOSITE,
    Carriers,
    lines,
    number,
    varied,
)
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
        train=varied(
            80,
            """
            count to twenty
            please count | from one to twenty
            can you count up to twenty
            i want to hear you count | up to twenty
            [please|now|okay|so|and now|just] count ; (up to|to) [the number] twenty \
                [please|now|for me|please now|now please]
            [please|now|okay|so] count (up|out loud|for me|along) | from (one|the number one) \
                [on] ; (to|up to|until) twenty [please|now]
            (can you|could you|would you|will you|please can you|now can you) count ; (up|out \
                loud|for me|from one) | (to|until) twenty [please|now]
            (i want you to|i would like you to|i need you to|i want to hear you) count | (from \
                one to twenty|to twenty|until twenty|until you are at twenty|up from one to \
                twenty) [please|now|out loud]
            (start at|begin with|start with) one | and count [up|on] (to|until) twenty \
                [please|now]
            (tell me|say|name|give me|let me hear) ; [all] the numbers | (from one to \
                twenty|up to twenty|until twenty|between one and twenty) [please|now|for me]
            from one to twenty | (please count|count for me|count now|say all the numbers|i \
                want you to count|can you count)
            (one two three|one two) and so on | (count like that|go on|please count|say them \
                all) (to|until) twenty [please]
            let me hear you count | (up to|to|from one to) twenty
            """,
        ),
        dev=("now count up to twenty please",),
        eval=lines("""
            can you count from one | to twenty please
            please count to twenty now
            """),
    ),
    "down": Carriers(
        train=varied(
            80,
            """
            count down from twelve
            please count down | from twelve to one
            can you count back from twelve
            [please|now|okay|so|and now|just] count (down|back) ; from [the number] twelve \
                [please|now|for me|please now|now please]
            [please|now|okay|so] count (down|back) ; from twelve | [down|back] (to|until) one \
                [please|now|for me]
            (can you|could you|would you|will you|please can you|now can you) count \
                (down|back) [for me|out loud] | from twelve [to one|until one|on] [please|now]
            (i want you to|i would like you to|i need you to|i want to hear you) count ; \
                (down|back) | from twelve [to one|until one|until you are at one] [please|now|out \
                loud]
            (start at|begin with|start with|from) twelve | [and|please|you|now] count \
                (down|back) [to one|until one] [please|now|for me]
            (tell me|say|name|give me|let me hear) ; [all] the numbers | (from twelve to \
                one|down from twelve|back from twelve|from twelve down to one) [please|now|for me]
            from twelve (to one|down to one|back to one) | (please count|count for me|count \
                now|say all the numbers|i want you to count)
            let me hear you count | (down|back) from twelve [to one]
            """,
        ),
        dev=("now count down from twelve please",),
        eval=("can you count down | from twelve to one please", "please count back from twelve"),
    ),
    "even": Carriers(
        train=varied(
            80,
            """
            count in twos
            please count in steps of two
            name the even numbers | up to twenty
            [please|now|okay|so|and now|just] count ; in | (twos|steps of two) [please|now|for \
                me|please now|now please]
            [please|now|okay] count in (twos|steps of two) ; (up to|to|until) [the number] \
                twenty [please|now]
            (can you|could you|would you|will you|please can you|now can you) count [up|out \
                loud|for me] ; in (twos|steps of two) [please|now|to twenty|up to twenty]
            (i want you to|i would like you to|i need you to|i want to hear you) count | in \
                (twos|steps of two) [please|now|to twenty|until twenty]
            (tell me|say|list|give me|let me hear|can you name|could you say|would you list) ; \
                [all] the even numbers | (up to|to|until|from two to) twenty [please|now]
            [now|okay|so|can you|would you|just] (name|say|tell me|list|give me) ; the | even \
                numbers [please|now|for me]
            (start at|begin with|start with|from) two | [and|please|you] count in (twos|steps \
                of two) [please|now|to twenty]
            which numbers are even | (name them|tell me them|say them|list them) (up \
                to|to|until) twenty
            two four six and so on | (count like that|go on|please count|say them all) \
                (to|until) twenty
            """,
        ),
        dev=("now count in steps of two please",),
        eval=("can you count in twos | to the number twenty", "please name the even numbers"),
    ),
    "days": Carriers(
        train=varied(
            80,
            """
            name the days of the week
            tell me the days | of a week
            can you say all the days | of the week
            which days has a week
            [please|now|okay|so|and now|just|can you] (name|tell me|list|give me) [all] the \
                days ; (of|in) (the|a) week [please|now|for me]
            [now|okay|so|just] say [all] the days ; (of|in) (the|a) week [please|now|for me]
            (could you|would you|will you|please can you|i want you to|i would like you to|i \
                need you to) (name|say|list|tell me) [me] | (all the days|the days) (of the \
                week|of a week|in a week|that a week has) [please|now]
            [so|okay|now] (which|what) (days are there|days are|are the days|are all the days) \
                | (in|of) (a|the) week [please]
            (do you know|i want to know|i would like to know|can you tell me|please tell \
                me|let me hear) | (which|what) (days a week has|days there are in a week|the days \
                of the week are|days are in the week)
            (do you know|i want to hear|i would like to hear|let me hear|i need) | (all the \
                days|the days) (of the week|of a week|in a week) [please]
            the days of (the|a) week | (name them|tell me all|say them for me|what are \
                they|can you list them|which are they)
            (a|the) week has (some days|days) | (name them|tell me all of them|which are \
                they|say them all please|can you list them)
            """,
        ),
        dev=("please say the days of the week",),
        eval=("can you name all the days | in a week", "tell me which days the week has"),
    ),
    "months": Carriers(
        train=varied(
            80,
            """
            name the months of the year
            tell me the months | of a year
            can you say all the months | of the year
            which months has a year
            [please|now|okay|so|and now|just|can you] (name|tell me|list|give me) [all] the \
                months ; (of|in) (the|a) year [please|now|for me]
            [now|okay|so|just] say [all] the months ; (of|in) (the|a) year [please|now|for me]
            (could you|would you|will you|please can you|i want you to|i would like you to|i \
                need you to) (name|say|list|tell me) | (all the months|the months) (of the year|of \
                a year|in a year|that a year has) [please|now]
            [so|okay|now] (which|what) (months are there|months are|are the months|are all the \
                months) | (in|of) (a|the) year [please]
            (do you know|i want to know|i would like to know|can you tell me|please tell \
                me|let me hear) | (which|what) (months a year has|months there are in a year|the \
                months of the year are|months are in the year)
            (do you know|i want to hear|i would like to hear|let me hear|i need) | (all the \
                months|the months) (of the year|of a year|in a year) [please]
            the months of (the|a) year | (name them|tell me all|say them for me|what are \
                they|can you list them|which are they)
            (a|the) year has (some|twelve) months | (name them|tell me all of them|which are \
                they|say them all please|can you list them)
            """,
        ),
        dev=("please say the months of the year",),
        eval=("can you name all the months | in a year", "tell me which months the year has"),
    ),
    "colours": Carriers(
        train=varied(
            80,
            """
            name all the colours you know
            tell me some colours
            can you list the colours | that you know
            [please|now|okay|so|and now|just] (name|list|say|give me) ; [all] the colours | \
                [that] you know [of] [please|now|for me]
            [please|now|okay|so|and now|just] (name|say|give me) (some|all the) colours [for \
                me|please|now]
            (can you|could you|would you|will you|please can you|now can you|i want you to|i \
                would like you to) (name|say|list|tell me|give me) | (some colours|all the \
                colours|all colours|the colours) [that you know|you know|you have heard of|for \
                me|please|now]
            [so|okay|now] (which|what) colours | (do you know|are there|can you name|could you \
                name|do you know of) [please]
            (do you know|i want to know|i would like to know|tell me|please tell me|let me \
                hear) | (which|what) colours (you know|there are|you know of|you could name)
            (do you know|i want to hear|i would like to hear|let me hear|i need) | (some|all \
                the) colours [please|now]
            colours that you know | (name them|tell me some|say them for me|what are they|can \
                you list them)
            all the colours | (name them|say them now|please tell me them|can you list them|i \
                want to hear them)
            """,
        ),
        dev=("please list some colours",),
        eval=("can you name some colours | you know of", "tell me all the colours"),
    ),
}

CUT_OPPOSITE = Carriers(
    train=varied(
        140,
        """
        stop | what is the opposite of {opposite} please
        wait wait | tell me the opposite of {opposite} instead
        stop stop | i would like the opposite of {opposite}
        okay stop there | name the opposite of {opposite}
        wait a moment | what is the word opposite to {opposite}
        (stop|wait|wait wait|stop stop|okay stop|now stop|just wait|please wait|please \
            stop|wait please|stop that|stop it|stop now|wait now|stop for a moment|wait a \
            moment|wait stop now|sorry wait|sorry stop) | [now|just|please] (tell me|give \
            me|name|say|what is|what would be) ; the opposite (of|to) [the word] {opposite} \
            [please|now|instead|for me]
        (stop|wait|okay stop|stop there|wait there please|please stop|wait stop now|wait \
            wait|stop now) | (i want to know|i would like to know|tell me|tell me please|can you \
            tell me|do you know) (what|which word) ; (is the opposite of {opposite}|the opposite \
            of {opposite} is|the opposite of {opposite} would be) [instead|please]
        (stop|wait|stop stop|stop please|wait please|okay wait|just stop|stop that now) | (i \
            want|i need|i would like|let me hear|give me) | (the|an) opposite (of|to|for) [the \
            word] {opposite} [now|please]
        (stop|wait|stop it|stop there|wait stop please|please just stop) ; and (tell me|give \
            me|name|say) | the opposite (of|to) [the word] {opposite} [please|instead|now]
        (stop|wait|wait a moment|okay stop it|stop wait) | (instead|now|and now) (tell \
            me|name|give me|say) the word | (opposite to|that is opposite to|that is the opposite \
            of) {opposite} [please]
        (stop|wait|wait wait|okay stop now|please stop now) | (which|what) word (is|would be) \
            ; the opposite (of|to) {opposite} [please|now|instead]
        (that is enough|that will do|okay that is enough) now stop | (what is|tell \
            me|name|give me) the opposite of {opposite} [instead]
        """,
    ),
    dev=("stop there | i want the opposite of {opposite} instead",),
    eval=lines("""
        stop please | tell me what is the opposite of {opposite}
        wait stop | i would like the word opposite to {opposite}
        """),
    slots={"opposite": tuple(OPPOSITE)},
)
CUT_SUM = Carriers(
    train=varied(
        140,
        """
        stop | how much is {a} | plus {b} instead
        wait | what do {a} | and {b} make
        stop that | tell me what you get for {a} | and {b}
        wait stop now | add {a} | and {b} for me please
        (stop|wait|wait wait|stop stop|okay stop|now stop|just wait|please wait|please \
            stop|wait please|stop it|stop now|wait now|wait a moment|sorry wait|stop for a moment) \
            | [now] (how much|what) is {a} | (and|plus) {b} [please|now|instead]
        (stop|wait|okay stop|stop there|please stop|stop wait now|wait wait|sorry stop|just \
            stop) | (tell me|i want to know|i need to know|can you tell me|tell me please|do you \
            know) ; (what|how much) {a} | (and|plus) {b} (make|is|are|would be) [instead]
        (stop|wait|stop stop|stop please|wait please|okay wait|stop that now) | (how \
            much|what) (do|would) you get | (for|from|when you add) {a} | (and|plus) {b} \
            [instead|now]
        (stop|wait|stop it|wait stop please|please just stop) ; [and|now] add {a} | (and|to) \
            {b} [please|instead|now|for me]
        (stop|wait|wait there now|okay stop it) | (what|how much) (would|will|could) {a} | \
            (and|plus) {b} (be|make|give) [please|then|instead]
        (stop|wait|stop now|wait wait) | [instead|now] {a} | (and|plus) {b} | (how much is \
            that|what do they make|what is it)
        (stop|wait|please wait|stop stop stop) ; i would like to know | (what|how much) ; {a} \
            | (and|plus) {b} (make|is|would be) [please]
        (that is enough|that will do|okay that is enough) now stop | (what|how much) is {a} | \
            (and|plus) {b} [please|instead]
        """,
    ),
    dev=("wait wait stop | what would you get for {a} | and {b} now",),
    eval=lines("""
        stop wait | how much would you get for {a} | plus {b} please
        wait there | tell me what is {a} | and {b} instead
        """),
    slots={"a": _SUM, "b": _SUM},
)
CUT_ECHO = Carriers(
    train=varied(
        140,
        """
        stop | say the word {echo} after me
        wait | repeat after me now | i say {echo} instead
        now stop please | you repeat the word {echo}
        wait please | just repeat {echo}
        (stop|wait|wait wait|stop stop|okay stop|now stop|just wait|please wait|please \
            stop|wait please|stop it|stop now|wait now|wait a moment|sorry wait|sorry stop|stop \
            for a moment) | [now|just|please] (say|repeat) ; [after me|the word|after me the word] \
            {echo} [please|now|instead|for me]
        (stop|wait|okay stop|stop there|please stop|stop wait now|wait wait|just stop) | (i \
            want you to|i would like you to|can you|could you|would you) (say|repeat) | [the \
            word|after me] {echo} [instead|please|now]
        (stop|wait|stop stop|stop please|okay wait|stop that now) | (the word is|now i say|i \
            say|it is) {echo} | (repeat it|say it after me|you repeat it|say that instead|repeat \
            that for me)
        (stop|wait|stop it|wait stop please|please just stop) ; and (say|repeat) | [the \
            word|after me] {echo} [instead|now|please]
        (stop|wait|stop it please|wait wait now) | (let me hear|i want to hear|give me|i would \
            like to hear) | (the word|just|just the word) {echo} [instead|please]
        (stop|wait|stop now|wait there) | (listen|listen to me|listen now) | [and] \
            (repeat|say) ; [the word] {echo} [please|after me]
        (stop|wait|stop wait please|please wait there) | instead (say|repeat) [after me] | \
            [the word] {echo} [please|now]
        (that is enough|that will do|okay that is enough) now stop | (say|repeat) [the word] \
            {echo} [instead|after me]
        """,
    ),
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
