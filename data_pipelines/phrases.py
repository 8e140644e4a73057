"""The words of the corpus, and the machinery of carrier sentences.

A carrier is a template such as "in {seconds} seconds | say {word}". `|` separates clauses, each of
which is one utterance of the user; a pause may fall between them. Every clause, with every value of
its slots, is in `--list_phrases`, and no clause is in two splits.
"""

from __future__ import annotations

import dataclasses
import itertools
import string
from collections.abc import Iterable, Mapping

import numpy as np

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def number(n: int) -> str:
    """0..99 in words, as they are spoken."""
    if not 0 <= n < 100:
        raise ValueError(f"{n} cannot be named; 0 to 99 can")
    if n < 20:
        return _ONES[n]
    return _TENS[n // 10 - 2] + (f" {_ONES[n % 10]}" if n % 10 else "")


PAIRS = (
    "hot cold, open closed, fast slow, clean dirty, happy sad, wet dry, hard soft, full empty, "
    "quiet noisy, black white, day night, sweet sour, strong weak"
)
OPPOSITE = {a: b for pair in PAIRS.split(", ") for a, b in (pair.split(), pair.split()[::-1])}
COLOURS = tuple("red blue green yellow orange purple brown pink black white".split())
ANIMALS = tuple("cat dog bird fish rabbit snake".split())
COLOUR_OF = {
    "grass": "green", "sky": "blue", "snow": "white", "sun": "yellow", "banana": "yellow",
    "coal": "black", "blood": "red", "mud": "brown", "milk": "white", "carrot": "orange",
}  # fmt: skip
ECHO = tuple("apple river music garden window paper cat dog banana snow sun house".split())
TIME_WORDS = tuple("coffee now go time done ready beep bingo dinner home".split())  # of "say W"
COUNT_WORDS = tuple("apple river music garden window paper".split())  # whose uses are counted
SPANISH = {  # words that the model's English voice says clearly
    "dog": "perro", "house": "casa", "boy": "chico", "sun": "sol", "water": "agua",
    "friend": "amigo", "hand": "mano", "table": "mesa", "village": "pueblo", "man": "hombre",
    "love": "amor", "much": "mucho", "white": "blanco", "red": "rojo", "river": "rio",
    "big": "grande", "hello": "hola", "soon": "pronto", "square": "plaza", "pretty": "bonito",
}  # fmt: skip
DAYS = tuple("monday tuesday wednesday thursday friday saturday sunday".split())
MONTHS = tuple(
    "january february march april may june july august september october november december".split()
)

SECONDS = tuple(number(n) for n in range(2, 16))  # of waits and periods
CUES = tuple(
    dict.fromkeys([*COLOURS, *ANIMALS, *OPPOSITE, *SPANISH, *COUNT_WORDS])
)  # what a running sentence may bring


@dataclasses.dataclass(frozen=True)
class Carriers:
    """The carrier sentences of one intent, apart for each split, and what its slots may hold."""

    train: tuple[str, ...]
    dev: tuple[str, ...]
    eval: tuple[str, ...]
    slots: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def of(self, split: str) -> tuple[str, ...]:
        return getattr(self, split)

    def pick(self, rng: np.random.Generator, split: str) -> str:
        options = self.of(split)
        return options[int(rng.integers(len(options)))]

    def fill(self, carrier: str, **values: str) -> list[str]:
        """The clauses of `carrier`. Raises ValueError if a value is none of its slot's."""
        for name, value in values.items():
            if name in self.slots and value not in self.slots[name]:
                accepted = ", ".join(self.slots[name])
                raise ValueError(f"slot {{{name}}} holds no {value!r}: {accepted}")
        return [clause.format(**values) for clause in carrier.split(" | ")]

    def texts(self, split: str) -> set[str]:
        """Every clause `split` can utter."""
        clauses = {clause for carrier in self.of(split) for clause in carrier.split(" | ")}
        return {text for clause in clauses for text in self._all(clause)}

    def _all(self, clause: str) -> Iterable[str]:
        names = sorted({name for _, name, _, _ in string.Formatter().parse(clause) if name})
        for values in itertools.product(*(self.slots[n] for n in names)):
            yield clause.format(**dict(zip(names, values, strict=True)))


def lines(text: str) -> tuple[str, ...]:
    """One carrier a line."""
    return tuple(line.strip() for line in text.strip().splitlines() if line.strip())


# What the user says to others, or others say in the room: never a request to the model.
SIDE_TALK = Carriers(
    train=lines("""
        honey | can you close the door
        honey can you bring the bread | it is on the table
        mum is at the door | can you open it
        mum | where did you put my paper
        darling the water is running | please look after it
        hey kids | come to the table
        kids please put the music away | we have to leave
        no mum | i am on the phone
        hang on honey | i will be there in a minute
        did you see my shirt | it was on the bed
        my friend is here | open the window for him
        who left the window open | it is getting dark
        yes honey we can eat rice | put it on the table
        have you got the keys | i have to leave
        look after the flower in the garden | please honey
        we are going to the river | are you coming with us
        """),
    dev=lines("""
        honey where are the keys | they were on the bed
        mum can you look | who is at the window
        kids | the bread is here
        """),
    eval=lines("""
        honey did you put the keys | on the table
        darling can you open the window | it is getting dark in here
        mum my friend is at the door | come and look
        kids the rice is running | i think the water
        """),
)

# Frames of running speech. {cue} is followed by more speech, so that answers fall into it.
RUNNING = Carriers(
    train=lines("""
        then it was {cue} for us i think
        somebody said {cue} and went along
        the other thing was {cue} and we kept it
        i remember {cue} was part of the story
        they told me about {cue} when we came back
        maybe it was {cue} that she looked for
        so i wrote {cue} in my letter to them
        my uncle likes {cue} more than anything
        we heard {cue} again while we were walking
        there is {cue} in that song as well
        and he asked about {cue} before they left
        you could read {cue} on the wall there
        """),
    dev=lines("""
        and then she asked {cue} while we walked
        i heard about {cue} from my uncle before
        """),
    eval=lines("""
        she told us {cue} before we went back
        then my uncle asked about {cue} as well
        and we heard {cue} while they were walking
        """),
    slots={"cue": CUES},
)

FILLERS = Carriers(
    train=lines("""
        so we were walking along the wall
        and she kept looking for them
        you know what they told me
        then he went back to the station
        i think we all heard the song
        and there was somebody with a letter
        my uncle likes that story
        it was more than we asked for
        well i remember that as well
        we came there before anything else
        the story was from him i think
        and we walked along with them
        """),
    dev=lines("""
        and then we heard my uncle
        she likes what he wrote
        """),
    eval=lines("""
        i remember the song they heard
        so my uncle went looking for somebody
        and we kept walking back along there
        you know that she told them
        then she looked for my letter
        """),
)

DONE = Carriers(  # ends a task that goes on while the user speaks
    train=(
        "that is all", "okay that is it", "thank you that is enough", "thanks that was all",
        "we are done with that now",
    ),
    dev=("okay that was it thanks", "thank you that is it"),
    eval=("thanks that is all", "thank you we are done with it", "okay that was enough now"),
)  # fmt: skip

ACKNOWLEDGEMENTS = Carriers(  # the user's backchannels
    train=(
        "uh-huh", "right", "yeah", "mhm", "yeah yeah", "okay yeah", "mhm right", "i see",
        "uh-huh uh-huh", "nice",
    ),
    dev=("mhm yeah", "okay right"),
    eval=("yeah right", "uh-huh okay", "right i see", "mhm nice"),
)  # fmt: skip

SHARED = (SIDE_TALK,)  # used between scenes, whatever the skills
