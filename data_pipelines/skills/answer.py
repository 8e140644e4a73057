"""a. Answers a question or echoes a word once the user has ended; waits through pauses before."""

from __future__ import annotations

from data_pipelines.phrases import COLOUR_OF, ECHO, OPPOSITE, Carriers, lines, number, varied
from data_pipelines.session import Session

NAME = "answer"
WEIGHT = 1.8

_NUMBERS = tuple(number(n) for n in range(1, 10))
PAUSES = ((0.02, 0.2), (0.5, 0.8), (0.8, 1.2), (1.2, 1.6))  # ranges of the gap between clauses

OPPOSITES = Carriers(
    train=varied(
        160,
        """
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
        [okay|so|now|okay so|and now] (what is|what would be) ; the opposite (of|to|for) [the \
            word] {opposite} [please|now|for me]
        [okay|so|now|please|can you|would you] (tell me|give me|say|name) ; the | opposite of \
            [the word] {opposite} [please|now|for me]
        [so|okay|now] which word (is|would be|do you think is|has to be) ; the opposite \
            (of|to) [the word] {opposite} [please]
        (i want to know|i need to know|tell me now|tell me exactly|can you tell me now|let me \
            know) | (what|which word) the opposite (of|to) [the word] {opposite} (is|would \
            be|could be)
        (i would like to know|please let me hear|could you say|now please tell me|please tell \
            me|okay tell me please) ; what | the opposite (of|to) {opposite} (is|would be) \
            [now|then|exactly]
        (do you know|can you think of|could you give me|would you name|i would like|i want|let \
            me hear|please can you name|i need) ; (the|an) opposite (of|to) [the word] {opposite} \
            [please|now|instead]
        (name|say|give me|tell me) the word ; that (is|would be|has to be) | [exactly] the \
            opposite (of|to) {opposite} [please|now]
        (do you know|can you tell me|would you say) [now] | (what|which word) is the opposite \
            (of|to) {opposite} [please]
        (if|when) (i say|you hear|the word is) {opposite} | (what is|what would be|tell \
            me|which word is|give me) [then] the opposite [of it|of that] [please|now]
        (if|when) (it is|they are|we are) not {opposite} | what (is it|would it be|could that \
            be) [then|instead]
        the word (is|that i have is|for you is) {opposite} | (now|so|please|and now) (tell \
            me|give me|say|name) the opposite [of it|of that word]
        here is a word for you | it is {opposite} | (what is the opposite|what would the \
            opposite be|tell me the opposite please|name its opposite)
        the opposite of [the word] {opposite} | (what is it|what would that be|tell me \
            please|i want to hear it|do you know it|can you name it please|say it for me|which \
            word is that)
        what (do you|would you|could you) (say|think) ; (is|would be) | the opposite of [the \
            word] {opposite} [please|then]
        (of|for) the word {opposite} | (tell me|give me|say|name) the opposite [please|now]
        [please|now|so] (tell me|say) [please] which word | you (think|know|would say) is the \
            opposite (of|to) {opposite}
        that is not {opposite} | (so what is it|it is the opposite so what is it|what would it \
            be then)
        """,
    ),
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
    train=varied(
        160,
        """
        what is {a} | plus {b}
        tell me what {a} | and {b} make
        how much is {a} | and {b} please
        please add {a} | to {b}
        what do you get for {a} | plus {b} now
        i want to know how much {a} | plus {b} is
        okay so how much would {a} | and {b} be
        can you add {a} | and {b}
        [okay|so|now|and] (what|how much) is {a} ; plus {b} [please|then|now]
        [please|now|okay|so] (tell me|let me hear|let me know) [please|now] | (what|how much) \
            ; {a} | (and|plus) {b} (is|make|would make|will be)
        (what|how much) do {a} | (and|plus) {b} (make|give) [please|then|now]
        [so|now|okay] (what|how much) (would|will|could) {a} | (and|plus) {b} (be|make|give) \
            [please|now|then]
        [please|now|can you|could you|would you|okay] add {a} ; (to|and) {b} [please|now|for \
            me]
        [so|now|please] add {a} ; and {b} (and tell me what you get|and say what it is|and let \
            me hear it|then tell me how much that is)
        [so|okay|and] (what|how much) (do you|would you|will you|do i|would we|do we) get | \
            (for|from|if i add|when you add) {a} ; and {b} [please|now]
        (if|when) (you add|i have|we have|you have) {a} | and [then] {b} | (what do you \
            get|how much is it|how much is that|what would it be|how many are they|what does that \
            make)
        {a} | (and|plus) {b} | (what is it|how much is that|how much would that be|what do \
            they make|tell me what it is|what would you say)
        (i want to know|i need to know|i would like to know|do you know|can you tell me|could \
            you tell me|would you tell me please|tell me exactly) | (what|how much) {a} | \
            (and|plus) {b} (is|make|would be|are|will be)
        (do you know|can you say|tell me please|tell me now|please tell me) (what|how much) | \
            {a} (and|plus) {b} (is|make|would be)
        {a} (and|plus) {b} (is|make|would be) | how much [please|exactly]
        i have {a} | and you have {b} | (how many have we|so how many are there|how much is \
            that)
        first {a} | then {b} | (what do they make|add them please|now add them for me|how much \
            would they be)
        (take|you have) {a} | then add {b} to it | (what is it now|what do you get|how much \
            have you got then)
        what [would be|is] | the number that {a} ; and {b} (make|give)
        please can you (add|tell me how much is|say what is) {a} | (and|plus) {b} [now|for me]
        """,
    ),
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
    train=varied(
        140,
        """
        what colour is | the {thing}
        tell me the colour | of the {thing}
        which colour has | the {thing} got
        do you know what colour | the {thing} is
        i want to know | which colour the {thing} has
        please name the colour | that the {thing} has
        okay so what is the colour | of the {thing} please
        [okay|so|now|and] (what|which) colour (is|has|do you think is) ; (the|a) {thing}
        [please|now|okay|can you|would you|so] (tell me|say|name|give me) ; the colour ; of \
            (the|a) {thing} [please|now|for me]
        what (is|would be) ; the colour | (of|for) (the|a) {thing} [please|then|now]
        (which|what) colour | (has the {thing} got|does the {thing} have|would the {thing} \
            be|would you say the {thing} is|do you think the {thing} has)
        (do you know|tell me|please say|i need to know|i want you to tell me|i would like to \
            know|let me know) [now|exactly] | (what|which) colour the {thing} (is|has|has \
            got|would be)
        (do you know|can you tell me|could you tell me|would you tell me|tell me please|now \
            please tell me) ; (what|which) colour | (the|a) {thing} (is|has)
        (if|when) you (look at|see|think of) (the|a) {thing} | (what|which) colour (is it|do \
            you see|has it got|would it be)
        (the|a) {thing} | (what colour is it|which colour has it|what colour would that \
            be|tell me the colour of it|what is its colour|can you name its colour|do you know the \
            colour)
        the colour (of the {thing}|that the {thing} has|the {thing} has got) | (what is it|do \
            you know it|tell me please|i want to hear it|name it for me|which one is it)
        (i want|i need|i would like|let me hear|please give me) | the colour (of the \
            {thing}|that the {thing} has) [please|now]
        what (do you|can you|would you) (think|say) ; is | the colour of (the|a) {thing} [now]
        (think of|look at) (the|a) {thing} | (now|and) (tell me|name|say) (the|its) colour \
            [please]
        (name|say|tell me) the colour | (that|which) (the|a) {thing} (has|has got|would have)
        what do you know about the {thing} | (which colour is it|what is its colour|what \
            colour has it got)
        of which colour | (is|would be) the {thing} [please|now]
        """,
    ),
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
    train=varied(
        160,
        """
        repeat after me | the word {echo}
        please repeat | the word {echo} now
        say after me | {echo}
        now i say a word and you repeat it | it is {echo}
        can you say | the word {echo} for me
        what i want you to repeat | is the word {echo}
        which word do i say | {echo} is what i say
        listen and repeat | the word i say is {echo}
        [please|now|okay|so|can you|would you] (repeat|say) after me ; [the word] {echo}
        [please|now|okay|so|and now|can you|could you|would you] (repeat|say) ; the word | \
            {echo} [please|now|for me|after me|again]
        (listen|listen to me|please listen|listen now) ; and (repeat|say) | (the word|what i \
            say|after me) | {echo}
        (i want you to|i would like you to|you have to|i need you to) (repeat|say) | [now] \
            (the word|after me the word|after me) {echo} [please|now]
        (i say|the word is|my word is|the word that i have is|this is the word) {echo} | \
            (now|and|so|so now|please) (you say it|you repeat it|say it after me|repeat that for \
            me|repeat it)
        (when i say|if i say|when you hear) {echo} | (you say it|repeat it|you repeat that|say \
            it after me|please say that too) [now|for me]
        (here is|this is|i have) a word for you to (repeat|say) | [it is] [the word] {echo}
        [now|so|okay|please] repeat (what i say|what you hear|my word|this word|it) ; after me \
            | [it is|i say|now|that is] {echo}
        the word {echo} | (say it|repeat it please|can you say it|please say it after \
            me|repeat that|i want you to say it|that is what i want you to repeat)
        what i (say|want you to say|want to hear) ; is | [the word] {echo} | [so] (repeat \
            it|say it|say that|now repeat it for me)
        (one word for you|now one word|a word for you|just one word|another word) | (it is|you \
            say|please say|repeat) {echo} [please|now|after me]
        say (it|this|that word|what i say) ; exactly (like me|as i say it|as you hear it) | \
            {echo}
        (let me hear|give me|i want to hear|i would like to hear) | (the word|you say the \
            word|from you the word|again the word) {echo} [please|now]
        (can you|could you|will you|would you) (please|just) (repeat|say) ; (the word \
            {echo}|this for me it is {echo}|{echo} after me)
        (which|what) word is it that i say | (it is|i say|i said) {echo} [now] | (repeat it|so \
            repeat it|say it)
        """,
    ),
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


def question(s: Session) -> tuple[str, list[str], str, int]:
    """A random question: (category, clauses, answer, index of the pause's length in PAUSES)."""

    def make() -> tuple:
        kind = s.choice(("opposite", "opposite", "sum", "colour", "echo", "echo"))
        timing = s.integer(1, len(PAUSES) - 1) if s.chance(0.5) else 0
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
