"""f. Counts repetitions that it sees aloud, each when it is over; nothing of them is heard."""

from __future__ import annotations

from data_pipelines import video
from data_pipelines.phrases import Carriers, lines, number, varied
from data_pipelines.session import Session, Spoken

NAME = "repcount"
WEIGHT = 2.2

_MANY = {kind: spoken.many for kind, spoken in video.REPETITIONS.items()}
TEMPI = ((0.9, 1.2), (1.2, 1.6), (1.6, 2.0), (2.0, 2.5))  # seconds a repetition

COUNT = Carriers(
    train=varied(
        140,
        """
        count the {many} | out loud
        count my {many} | please
        can you count | the {many} for me
        how many {many} do you see | count along
        please count along | with the {many}
        i want you to count | my {many} out loud
        watch the {many} | and tell me the number each time
        look and count | the {many} as they happen
        say the number | of the {many} as you see them
        count with me | we do {many} now
        [please|now|okay|so|just] count ; (the|my|all the|all my|these) {many} [now|for \
            me|with me|as you see them|as they come|out loud|each time]
        (can you|could you|would you|will you|please can you|now can you) count [out loud|for \
            me] | (the|my|all the|all my) {many} [please|now|with me|as they come|you see]
        (i want you to|i would like you to|i need you to|you have to) (count|keep a count \
            of|keep count of|watch and count) | (the|my|all the|all my) {many} [please|out loud|as \
            you see them|now]
        [so|okay|now] how many {many} (are there|do i do|will there be|can you see|have i \
            done|do you get) | (count along|count out loud|count them|tell me each time|keep a \
            count)
        [please|now|okay|just] (watch|look at|look out for|see) (the|my|all the|these) {many} \
            ; and (count|count along|count them|count out loud|tell me the number|say the \
            number|keep a count) [please|each time|as you go|for me|as they come]
        (for|with|at|after) (each|every one|each one) of (the|my) {many} | (say|tell me|please \
            say|give me) the number [out loud|at once|please]
        (say|tell me|give me|let me hear) the (number|count) ; (each time|every time|as soon \
            as|whenever|when) (you see|there are|i do|one is over of) [the|my] {many}
        (as|when|while) (you see|i do|they do|we do) (the|my) {many} | [please|you] \
            (count|count them|count along|say the number|tell me the number) [out loud|each \
            time|for me]
        (count|count out loud|count along|please count) ; (with me|for me|as you see) | \
            (the|my|all the) {many} [please|now]
        (i do|we do|there will be|you will see|i begin with|i start with) [some|the|my] {many} \
            | [and|so] (you count|count them|count along|count out loud|you tell me the number) \
            [please|now|for me]
        (keep count|keep a count|please keep count|can you keep count) ; of | (the|my|all \
            the|these) {many} [please|for me|out loud]
        here (are|come) (the|my|some) {many} | (count them|count along|please count|say the \
            number each time|tell me the number)
        """,
    ),
    dev=lines("""
        look and tell me the number | of my {many}
        watch and count | the {many} please
        """),
    eval=lines("""
        please count the {many} | as you see them
        i want you to watch | and count my {many} out loud
        tell me the number each time | for the {many}
        """),
    slots={"many": tuple(_MANY.values())},
)

CARRIERS = (COUNT,)
MODEL_PHRASES = tuple(number(n) for n in range(1, 13))


def instruct(s: Session, carriers: Carriers, **values: str) -> tuple[float, float]:
    """What a video task begins with, in a quarter of cases typed: its (start, end) in seconds."""
    clauses = s.clauses(carriers, **values)
    if s.chance(0.25):
        return s.cursor, s.type(" ".join(clauses), s.cursor)
    turn = s.say(clauses, s.cursor)
    return turn.start, turn.end


def _speak_counts(s: Session, ends: list[float]) -> list[Spoken]:
    """Says the number after each end; one that has no time before the next is left out."""
    plan, free = [], float("inf")
    for i in reversed(range(len(ends))):
        word = number(i + 1)
        start = s.reply_time(ends[i])
        if start + len(s.speech.model(word).wave) / 16_000 <= free:
            plan.append((word, ends[i]))
            free = start
    return [s.speak(word, s.reply_time(end), margin=0.0) for word, end in reversed(plan)]


def scene(s: Session) -> None:
    def make() -> tuple:
        return NAME, s.choice(tuple(_MANY)), s.integer(3, 12), s.integer(0, len(TEMPI) - 1)

    _, kind, count, tempo = s.draw(make)
    start, end = instruct(s, COUNT, many=_MANY[kind])
    periods = video.random_periods(s.rng, count, s.uniform(*TEMPI[tempo]))
    pauses = [s.uniform(0.6, 2.5) if s.chance(0.15) else 0.0 for _ in periods]
    shown = s.cursor + s.uniform(0.0, 0.5) if s.chance(0.5) else end + s.uniform(0.1, 0.6)
    first = round(max(0.0, end - shown) + s.uniform(0.7, 2.5), 3)
    rest = s.uniform(1.2, 2.5)
    length = round(first + sum(periods) + sum(pauses) + rest, 3)
    s.fits(shown + length)
    clip = video.repetitions(
        s.rng, s.split, count, periods, kind=kind, start=first, duration=length, pauses=pauses,
        timing=video.random_timing(s.rng),
    )  # fmt: skip
    s.show(clip, shown)
    reps = [[round(shown + a, 4), round(shown + b, 4)] for a, b in clip.truth["reps"]]
    _speak_counts(s, [b for _, b in reps])
    s.expect(reps[0][1], reps[-1][1] + 1.0)
    s.trial("RepCount", kind, (start, shown + length), count=count, reps=reps)
    s.cursor = shown + length + 0.2
