"""The words of the corpus, and the machinery of carrier sentences.

A carrier is a template such as "in {seconds} seconds | say {word}". `|` separates clauses, each of
which is one utterance of the user; a pause may fall between them. Every clause, with every value of
its slots, is in `--list_phrases`, and no clause is in two splits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
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

# Clauses that dev or eval of one intent has and that a grammar of another would write.
HELD_OUT = frozenset(
    (
        "can you tell me, can you name, would you tell me, tell me what it is, when you see it, "
        "say what i say, stop wait, stop there, stop please, wait there, now stop, okay stop it, "
        "to twenty please, what would {a}, now add {a}, plus {b} please, plus {b} make, "
        "plus {b} would be, and {b} now, and {b} for me, and {b} be please, "
        "the opposite to the word {opposite}, that is the opposite of {opposite}, "
        "the word {echo} please, tell me {word} please, i want to hear {word}, and tell me {word}, "
        "then tell me {word}, then say {word} for me, you say {word} at once, "
        "please keep saying {word}, tell me the number each time, the word {counted} please, "
        "you tell me {word}"
    ).split(", ")
)


@dataclasses.dataclass(frozen=True)
class Carriers:
    """The carrier sentences of one intent, apart for each split, and what its slots may hold.

    Of `train`, which a grammar may write (`varied`), those are dropped that share a clause with
    `dev`, `eval` or HELD_OUT, or hold one of their sentences wherever it breaks.
    """

    train: tuple[str, ...]
    dev: tuple[str, ...]
    eval: tuple[str, ...]
    slots: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        held = (*self.dev, *self.eval)
        clauses = {clause for carrier in held for clause in carrier.split(" | ")} | HELD_OUT
        sentences = [f" {_unbroken(carrier)} " for carrier in held]
        kept = tuple(
            carrier
            for carrier in self.train
            if clauses.isdisjoint(carrier.split(" | "))
            and not any(sentence in f" {_unbroken(carrier)} " for sentence in sentences)
        )
        object.__setattr__(self, "train", kept)

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


def expand(pattern: str) -> tuple[str, ...]:
    """Every carrier that `pattern` stands for, without repetition.

    "(a|b)" is one of a and b, "[a|b]" one of them or nothing; they may be nested. ";" is a break
    between clauses that may be there or not, and "|" outside brackets one that is. So
    "[now] say ; (it|that)" is "now say it", "now say | it", "now say that", "now say | that" and
    the same four without "now".

    Raises ValueError if brackets do not match or a clause may have no words.
    """
    tokens = re.split(r"([][()|;])", pattern)
    texts, at = _one_of(tokens, 0, "")
    if at < len(tokens):
        raise ValueError(f"nothing opens {tokens[at]!r} in {pattern!r}")
    carriers = tuple(dict.fromkeys(" ".join(text.split()) for text in texts))
    if any(not clause.strip() for carrier in carriers for clause in carrier.split("|")):
        raise ValueError(f"a clause without words in {pattern!r}")
    return carriers


def _one_of(tokens: list[str], at: int, closer: str) -> tuple[list[str], int]:
    """What `tokens` from `at` to `closer` (to the end, for "") stand for; where they end."""
    done, texts = [], [""]
    while at < len(tokens) and tokens[at] not in (")", "]"):
        token = tokens[at]
        if token == "|" and closer:
            done, texts = done + texts, [""]
        else:
            parts = [token]
            if token == ";":
                parts = ["|", ""]
            elif token in ("(", "["):
                parts, at = _one_of(tokens, at + 1, {"(": ")", "[": "]"}[token])
                parts = parts + [""] * (token == "[")
            texts = [text + part for text in texts for part in parts]
        at += 1
    if closer and (at == len(tokens) or tokens[at] != closer):
        raise ValueError(f"{closer!r} is missing in {''.join(tokens)!r}")
    return done + texts, at


def varied(most: int, text: str) -> tuple[str, ...]:
    """At most `most` carriers of the patterns of `text`, one a line, an even share of each.

    What is left out of a pattern (see `expand`) falls by hash: the same carriers everywhere.
    """
    rows = [sorted(expand(line), key=_shuffled) for line in lines(text)]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*rows))
    return tuple(dict.fromkeys(carrier for carrier in turns if carrier))[:most]


def salad(count: int, carriers: tuple[str, ...], cue: str = "") -> tuple[str, ...]:
    """`count` sentences of four to eight words of `carriers`, in any order: whoever knows the
    written sentences by heart has to listen to these. `cue` stands within, two words before the
    end at least. The same ones everywhere."""
    words = sorted({w for c in carriers for w in c.split() if w not in ("|", cue)})
    words = [w for w in words if w not in CUES]
    rng = np.random.default_rng(len(words))
    sentences = {}
    while len(sentences) < count:
        sentence = list(rng.choice(words, int(rng.integers(4, 9)), replace=False))
        if cue:
            sentence.insert(int(rng.integers(1, len(sentence) - 1)), cue)
        sentences[" ".join(sentence)] = None
    return tuple(sentences)


def _shuffled(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _unbroken(carrier: str) -> str:
    return carrier.replace(" | ", " ")


# What the user says to others, or others say in the room: never a request to the model.
SIDE_TALK = Carriers(
    train=varied(
        110,
        """
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
        (honey|darling|mum|kids) (did you put|who put|i put|please put) (my bag|the water|the \
            bread|my paper) ; (on the table|on the bed|in the dark|at the window|in the car)
        (kids|honey|mum|darling) ; (the water|the rice|the phone) is (running|getting cold|on \
            the table) ; (please look|i think|come and look|get it please)
        (my friend|mum) (was|is) at the (door|window) ; (honey|darling) (come and see|did you \
            put the water on|can you open it)
        (the keys|the kids|they) were (on the bed|at the window|in the dark|here) \
            (honey|mum|darling) | (did you look|who has them|where are they now|i think)
        (honey|mum|darling|kids|hey honey|no honey|yes mum|hey kids) ; (where are my \
            keys|where is the phone|who is at the door|what did you do with the keys|is the door \
            closed|did you see my bag|have you got my phone)
        (honey|darling|mum|kids|hey mum) | (can you|will you|please|could you) (close the \
            door|bring the bread|put the rice on the table|bring me my shirt|look after the \
            water|take the keys|open the door for him)
        (honey|darling|mum|hey honey) (the rice|the bread|the phone|my shirt|the letter) is \
            (on the table|on the bed|in the car|at the door) | (can you bring it|please put it \
            away|did you see it|come and get it)
        (kids|hey kids|kids please) ; (come to the table|put your things away|we have to leave \
            now|come in|leave the door open|wait in the car|look after your bag)
        (yes|no|okay) (honey|mum|darling|kids) ; (i am on the phone|i will be there|we can \
            leave now|it was on the bed|they are at the river|i have the keys|it is in the car)
        (did you|have you|did mum|did the kids) (see my bag|get the bread|leave the window \
            open|put the rice away|bring the letter|close the window) [honey|darling] | (i think \
            it is getting dark|we have to leave|it was on the table|i have to go)
        (my friend|my uncle|mum|somebody) is (here|at the door|on the phone|in the car) \
            [honey|darling|kids] ; (can you open the door|come and look|please come|bring the \
            keys)
        (the kids|mum and the kids|my uncle and mum) (are at the river|are in the garden|want \
            to leave|will be here soon) | (are you coming|please get the car|do you have the \
            keys|come with us honey)
        hang on (mum|honey|kids|darling) | (i have to find my keys|i am coming|let me get my \
            bag|the phone is for you|i will get the door)
        """,
    ),
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

_RUNNING = varied(
    400,
    """
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
    (while|when|before) (we were|they were|you were|she was) (walking|looking|away) (he \
        said|they heard|she asked about|my uncle wrote) {cue} (from there|again|as well)
    (so|and|then|well|now) (it was|there was|that was|we had) {cue} (in the story|again \
        for them|with us there|for my uncle|before we left)
    (my uncle|somebody|she|they|he) (said|wrote|asked about|kept|remembered) {cue} (and we \
        went on|while we walked|before we left|as we came along|and then left)
    (i|we|they) (heard|thought|said|wrote) {cue} (in that song|while walking along|before \
        anybody came|again with them|more than once)
    (maybe|i think|you know|i remember) (it was|they said|she wrote|we heard|there was) \
        {cue} (in the letter|when we came|and so on|at the station|for somebody)
    (what|all that) (she|he|my uncle|somebody) (said|wrote|remembered|told them) was {cue} \
        (for us|in the end|i think|again|you know)
    (there|here) (is|was|comes) {cue} (in my letter|on the wall as well|again in the \
        song|and then we left|for them and me)
    (they|she|he|somebody) (told me about|asked us about|looked for|went back to) {cue} \
        (and left|after that|in the story|again and again|as i remember)
    (so|then|and) (that|this) (story|song|letter) (had|has|was about) {cue} (in it \
        somewhere|and so we left|as well i think|for a while|and went on)
    """,
)
# Frames of running speech. {cue} is followed by more speech, so that answers fall into it.
RUNNING = Carriers(
    train=(*_RUNNING, *salad(400, _RUNNING, cue="{cue}")),
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

_FILLERS = varied(
    300,
    """
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
    (my uncle|she|somebody|he) was (looking for|walking with|looking at) (them|that \
        letter|my letter|the wall)
    (so|then|and|and then|well|you know) (we|they|he|she|my uncle|somebody) (went \
        back|walked along|came along|left|looked for us|kept looking) (there|with \
        them|again|before that|to the station|after that)
    (i|we|they|she) (remember|heard|thought of|asked about|looked for|kept) (that song|the \
        story|the letter|what they said|the other part|my uncle) [as well|again|for a while|i \
        think]
    (maybe|i think|you know|i remember) (they|she|he|somebody) (told us|said so|heard \
        it|wrote that|asked for more|left before) [as well|again|then|before that]
    (it|that|the story|the letter|the song) was (more than i remember|for my uncle|from \
        somebody else|part of it|the other thing|like that as well) [i think|you know]
    (while|when|before|after) (we were walking|they came back|she told us|he wrote the \
        letter|my uncle left) (i heard them|somebody asked|they went along|we heard that \
        song|she looked for it)
    (there was|we had|they had|she had) (a letter|a story|a song|another part|something) \
        (from him|for my uncle|for them as well|about that|as i remember)
    (nobody|somebody|anybody) (who|that) (heard it|was there|walked along|asked) (would \
        remember|went back|told them|kept it)
    (my uncle|she|he) (likes|told|remembered|wrote) (that song|the story|it) (more than \
        that|for us all|as well|again and again)
    """,
)
FILLERS = Carriers(
    train=(*_FILLERS, *salad(300, _FILLERS)),
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
    train=varied(
        30,
        """
        that is all
        okay that is it
        thank you that is enough
        thanks that was all
        we are done with that now
        [okay|okay thanks|thanks|thank you|okay so] that is (all|enough|it now|all now|enough \
            now|all for now)
        [okay|thanks|thank you|so] that was (all|enough|it|all now)
        [okay|thanks|thank you] (we are|i am) done [now|with this|with that]
        (this is enough|enough now|that will do) [thanks|thank you]
        """,
    ),
    dev=("okay that was it thanks", "thank you that is it"),
    eval=("thanks that is all", "thank you we are done with it", "okay that was enough now"),
)  # fmt: skip

ACKNOWLEDGEMENTS = Carriers(  # the user's backchannels
    train=varied(
        24,
        """
        uh-huh
        right
        yeah
        mhm
        yeah yeah
        okay yeah
        mhm right
        i see
        uh-huh uh-huh
        nice
        (uh-huh|right|yeah|mhm|okay|nice) [yeah|mhm|uh-huh|nice]
        (i see|okay|right) [i see|yeah]
        """,
    ),
    dev=("mhm yeah", "okay right"),
    eval=("yeah right", "uh-huh okay", "right i see", "mhm nice"),
)  # fmt: skip

SHARED = (SIDE_TALK,)  # used between scenes, whatever the skills
