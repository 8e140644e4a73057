"""f. Answers when the answer comes into view, and warns when something named appears."""

from __future__ import annotations

from data_pipelines import video
from data_pipelines.phrases import ANIMALS, COLOURS, Carriers, lines, number, varied
from data_pipelines.session import Session
from data_pipelines.skills.repcount import instruct

NAME = "watch"
WEIGHT = 1.6

WARNING = "watch out"
DIGITS = tuple(number(n) for n in range(1, 10))
WINDOW_S = 4.0  # within which an answer is of use

COLOUR = Carriers(
    train=varied(
        120,
        """
        tell me the colour of the {shape} | when it shows up
        what colour is the {shape} | say it as soon as you see it
        a {shape} will appear | name its colour then
        look for a {shape} | and name the colour it has
        when a {shape} comes into view | tell me its colour
        [please|now|okay|so|can you|could you|i want you to] (tell me|say|name|give me) ; the \
            colour of (the|a) {shape} | (when it comes|when it comes into view|as soon as it \
            appears|as soon as you see it|once it is there|when you see it|at the moment it shows \
            up) [please]
        [so|okay|now] (what|which) colour (is|has|will be|would be) (the|a) {shape} | (say \
            it|tell me|name it|please tell me|tell me that) (when it comes|as soon as it \
            appears|when it shows up|once you see it|as you see it) [please]
        (a|the) {shape} (will come|will come into view|will show up|is coming up) | (tell \
            me|say|name|please tell me|i want to know) (its colour|the colour of it|which colour \
            it has|what colour it is|the colour that it has) [then|please|at once]
        (when|as soon as|once|at the moment) (a|the) {shape} (appears|comes|comes up|is \
            there|comes into view) | (tell me|say|name|please tell me|let me know) (its colour|the \
            colour of it|which colour it has|what colour it is|the colour that it has) [please]
        (when|as soon as|once) you see (a|the) {shape} | [please|you] (tell me|name|let me \
            know) (its colour|the colour|which colour it has|what colour it is) [please|at once]
        (look out for|wait for|watch for|look for|keep looking for) (a|the) {shape} | \
            (and|then|and then) (tell me|say|name|let me know) (its colour|the colour|which colour \
            it is|what colour it has) [please|at once|when you see it]
        (i want to know|i would like to know|i need to know|do you see|can you tell me|let me \
            know) | (what|which) colour (the|a) {shape} (has|is) ; (when it comes|as soon as it \
            appears|when it shows up|once you see it)
        """,
    ),
    dev=lines("""
        when you see a {shape} | say the colour it has
        """),
    eval=lines("""
        as soon as the {shape} shows up | name the colour of it
        look for the {shape} | and tell me its colour when it appears
        """),
    slots={"shape": video.SHAPES},
)

ANIMAL = Carriers(
    train=varied(
        100,
        """
        which animal do you see | say it when it comes
        tell me | which animal shows up
        name the animal | as soon as it appears
        an animal will come into view | tell me which one it is
        look for an animal | and say what it is
        [please|now|okay|so|can you|could you|i want you to] (tell me|say|name) ; (the \
            animal|which animal it is|which animal you see|what animal there is|which animal \
            comes) | (when it comes|when it shows up|as soon as you see it|once it is there|when \
            you see it|as soon as it comes into view) [please]
        [so|okay|now] (what|which) animal (is it|is there|comes|do you see|will it be|appears) \
            | (say it|tell me|name it|please tell me) (when it appears|as soon as it appears|when \
            it shows up|once you see it|as you see it) [please]
        (an animal|some animal|one animal) (will come|will appear|will show up|is coming up) | \
            (tell me|say|name|i want to know) (which one|which one it is|what it is|it as soon as \
            you see it) [then|please|at once]
        (when|as soon as|once|at the moment) (an animal|the animal|any animal) \
            (appears|comes|comes up|is there|comes into view) | (tell me|say|name|please tell \
            me|let me know) (which one|which one it is|which animal it is|the animal) [please]
        (when|as soon as|once) you see (an animal|any animal|the animal) | [please|you] (tell \
            me|say|let me know) (which it is|what it is|which one that is) [please|at once]
        (look out for|wait for|watch for|keep looking for) (an animal|the animal|any animal) | \
            (and|then|and then) (tell me|say|name) (which one it is|which animal it is|what animal \
            it is) [please|at once]
        (i want to know|i would like to know|i need to know|can you tell me|let me know) | \
            (what|which) animal (it is|there is|you see|comes) ; (as soon as it appears|when it \
            shows up|once you see it)
        """,
    ),
    dev=lines("""
        say which animal it is | when it appears
        """),
    eval=lines("""
        as soon as an animal shows up | tell me what it is
        look and name the animal | when it comes into view
        """),
)

NUMBER = Carriers(
    train=varied(
        100,
        """
        which number do you see | read it when it comes
        read the number | as soon as it appears
        a number will come into view | read it to me
        tell me the number | when it shows up
        look for a number | and read it out loud
        [please|now|okay|so|can you|could you|i want you to] (tell me|say|read|name) ; the \
            number | (when it comes|when it shows up|as soon as you see it|once it is there|when \
            it comes into view|at the moment it appears) [please]
        [please|now|so|can you] read (out|out loud|me|to me) ; the number | (when it \
            comes|when it appears|as soon as you see it|once it is there|that comes into view) \
            [please]
        [so|okay|now] (what|which) number (is it|is there|comes|do you see|will it be|appears) \
            | (say it|tell me|read it|read it out|please read it) (when it appears|as soon as it \
            appears|when it shows up|once you see it|as you see it) [please]
        (a number|some number|one number) (will come|will appear|will show up|is coming up) | \
            (tell me|say|read me|i want to know) (which one|which one it is|what it is|the number) \
            [then|please|at once]
        (when|as soon as|once|at the moment) (a number|the number|any number) \
            (appears|comes|comes up|is there|comes into view) | (read it|tell me which one it \
            is|read it out|say it|please read it|say which it is) [please|at once|then]
        (when|as soon as|once) you see (a number|any number|the number) | [please|you] (read \
            it|read it out|tell me what it is|say it out loud|tell me which one it is) [please|at \
            once|then]
        (look out for|wait for|watch for|keep looking for) (a number|the number|any number) | \
            (and|then|and then) (read it|tell me which it is|say what it is|read it to me) \
            [please|at once]
        (i want to know|i would like to know|i need to know|can you tell me|let me know) | \
            (what|which) number (it is|there is|you see|comes) ; (as soon as it appears|when it \
            shows up|once you see it)
        """,
    ),
    dev=lines("""
        read out the number | when you see it
        """),
    eval=lines("""
        as soon as a number shows up | read it out loud
        tell me which number it is | when it comes into view
        """),
)

WARN = Carriers(
    train=varied(
        120,
        """
        warn me | when {thing} appears
        please warn me | as soon as you see {thing}
        i am afraid of {thing} | so warn me when it comes
        look out for {thing} | and warn me
        give me a warning | if {thing} comes into view
        [please|now|okay|so|can you|could you|would you|i want you to|you have to] warn me ; \
            (when|if|as soon as|once|at the moment|each time) (you see {thing}|{thing} \
            appears|{thing} comes|{thing} shows up|there is {thing}|{thing} comes into view) \
            [please]
        [please|now|can you|i want you to] (give me a warning|say it|tell me|let me know) ; \
            (when|if|as soon as|once) (you see {thing}|{thing} appears|{thing} shows up|there is \
            {thing}) [please|so that i know]
        (when|if|as soon as|once|at the moment) (you see {thing}|{thing} appears|{thing} shows \
            up|there is {thing}|{thing} comes up) | [please|then|you] (warn me|give me a \
            warning|let me know|tell me) [please|at once|then|so that i know]
        (look out for|please look out for|watch out for|look for|watch for|keep looking for) \
            {thing} | (and|then|and please|and then) (warn me|give me a warning|tell me|let me \
            know) [please|at once|when it comes|if you see it|when it appears]
        i (am afraid of|do not like|am so afraid of|want no) {thing} | [so] (warn me|please \
            warn me|give me a warning|tell me) (if you see one|when there is one|if one comes|as \
            soon as you see one|when it appears|if it shows up)
        {thing} (could|will|may) (come|appear|show up|come into view) | [so|please|then] (warn \
            me|give me a warning|let me know|tell me) (when it does|if it does|at once|when you \
            see it|as soon as it comes)
        (i need|i want|i would like|let me have) a warning ; (when|if|as soon as|once) (you \
            see {thing}|{thing} appears|{thing} comes|there is {thing}|{thing} shows up) [please]
        """,
    ),
    dev=lines("""
        warn me please | if you see {thing}
        """),
    eval=lines("""
        give me a warning please | as soon as {thing} appears
        look out and warn me | when {thing} comes into view
        """),
    slots={
        "thing": tuple(t.spoken for t in video.THINGS.values() if t.kind in ("animal", "object")),
    },
)

CARRIERS = (COLOUR, ANIMAL, NUMBER, WARN)
MODEL_PHRASES = (*COLOURS, *ANIMALS, *DIGITS, WARNING)


def _task(s: Session) -> tuple[str, str, str, int]:
    """(category, thing, answer, seconds of waiting)."""

    def make() -> tuple:
        category = s.choice(("colour", "colour", "animal", "number", "warn"))
        thing = {
            "colour": lambda: f"{s.choice(COLOURS)} {s.choice(video.SHAPES)}",
            "animal": lambda: s.choice(video.ANIMALS),
            "number": lambda: s.choice(DIGITS),
            "warn": lambda: s.choice((*video.ANIMALS, *video.OBJECTS)),
        }[category]()
        return NAME, category, thing, s.integer(1, 12)

    _, category, thing, waits = s.draw(make)
    answer = {"colour": thing.split()[0], "warn": WARNING}.get(category, thing)
    return category, thing, answer, waits


def _instruct(s: Session, category: str, thing: str) -> tuple[float, float]:
    if category == "colour":
        return instruct(s, COLOUR, shape=thing.split()[1])
    if category == "warn":
        return instruct(s, WARN, thing=video.THINGS[thing].spoken)
    return instruct(s, {"animal": ANIMAL, "number": NUMBER}[category])


def _distractors(s: Session, category: str, thing: str) -> list[str]:
    """Things that are no answer: of another kind, or of the same where those can be told apart."""
    kind = video.THINGS[thing].kind
    names = [n for n, t in video.THINGS.items() if t.kind not in (kind, "digit", "letter")]
    if category == "warn":
        names += [n for n, t in video.THINGS.items() if t.kind == kind and n != thing]
    if category == "colour":
        shape = video.THINGS[thing].shape
        names += [n for n, t in video.THINGS.items() if t.colour and t.shape != shape]
    return names


def scene(s: Session) -> None:
    category, thing, answer, waits = _task(s)
    start, end = _instruct(s, category, thing)
    shown = s.cursor + s.uniform(0.0, 0.5) if s.chance(0.5) else end + s.uniform(0.1, 0.6)
    at = round(max(end - shown, 0.0) + waits + s.uniform(0.0, 0.9), 3)
    length = round(at + s.uniform(2.5, 5.0), 3)
    s.fits(shown + length)
    distractors = []
    if waits >= 4 and s.chance(0.6):
        a = round(max(end - shown, 0.0) + s.uniform(0.3, 1.0), 3)
        other = s.choice(_distractors(s, category, thing))
        distractors.append((other, a, round(min(at + 0.5, a + s.uniform(1.5, 5.0)), 3)))
    clip = video.appearing(
        s.rng,
        s.split,
        thing,
        at,
        length,
        distractors=distractors,
        timing=video.random_timing(s.rng),
    )
    s.show(clip, shown)
    seen = round(shown + at, 4)
    spoken = s.reply(answer, seen)
    until = round(min(seen + WINDOW_S, shown + length), 4)
    s.expect(seen, until)
    s.trial(
        "ProactiveVideoQA", category, (start, max(until, spoken.end + 0.5)),
        window=[seen, until], answer=answer, answer_s=seen,
    )  # fmt: skip
    s.cursor = max(shown + length, spoken.end) + 0.2
