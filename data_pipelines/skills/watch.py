"""f. Answers when the answer comes into view, and warns when something named appears."""

from __future__ import annotations

from data_pipelines import video
from data_pipelines.phrases import ANIMALS, COLOURS, Carriers, lines, number
from data_pipelines.session import Session
from data_pipelines.skills.repcount import instruct

NAME = "watch"
WEIGHT = 1.6

WARNING = "watch out"
DIGITS = tuple(number(n) for n in range(1, 10))
WINDOW_S = 4.0  # within which an answer is of use

COLOUR = Carriers(
    train=lines("""
        tell me the colour of the {shape} | when it shows up
        what colour is the {shape} | say it as soon as you see it
        a {shape} will appear | name its colour then
        look for a {shape} | and name the colour it has
        when a {shape} comes into view | tell me its colour
        """),
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
    train=lines("""
        which animal do you see | say it when it comes
        tell me | which animal shows up
        name the animal | as soon as it appears
        an animal will come into view | tell me which one it is
        look for an animal | and say what it is
        """),
    dev=lines("""
        say which animal it is | when it appears
        """),
    eval=lines("""
        as soon as an animal shows up | tell me what it is
        look and name the animal | when it comes into view
        """),
)

NUMBER = Carriers(
    train=lines("""
        which number do you see | read it when it comes
        read the number | as soon as it appears
        a number will come into view | read it to me
        tell me the number | when it shows up
        look for a number | and read it out loud
        """),
    dev=lines("""
        read out the number | when you see it
        """),
    eval=lines("""
        as soon as a number shows up | read it out loud
        tell me which number it is | when it comes into view
        """),
)

WARN = Carriers(
    train=lines("""
        warn me | when {thing} appears
        please warn me | as soon as you see {thing}
        i am afraid of {thing} | so warn me when it comes
        look out for {thing} | and warn me
        give me a warning | if {thing} comes into view
        """),
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
