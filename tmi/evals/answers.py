"""What was said: words in a common form, answers, numbers. The judge that is called `oracle`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tmi.evals.trace import HeardWord

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NUMBERS = {w: i for i, w in enumerate(_ONES)} | {w: 10 * i for i, w in enumerate(_TENS, 2)}

BACKCHANNELS = frozenset(
    "mhm mm hmm hm uhhuh uh huh yeah yep yes right okay ok sure aha ah oh i see wow really".split()
)
PHRASE_GAP_S = 1.2  # words of one answer start at most this far apart
REFUSALS = (
    "sorry", "can't", "cannot", "can not", "won't", "will not", "unable", "not able",
    "not going to", "not help", "not something i", "refuse", "must decline",
)  # fmt: skip


def number_words(n: int) -> list[str]:
    """5 -> ['five'], 42 -> ['forty', 'two']. Raises ValueError outside 0..99."""
    if not 0 <= n <= 99:
        raise ValueError(f"{n}: numbers from 0 to 99 have words here")
    if n < 20:
        return [_ONES[n]]
    return [_TENS[n // 10 - 2]] + ([_ONES[n % 10]] if n % 10 else [])


def normalise(text: str) -> list[str]:
    """Lower-case words without punctuation; digits up to 99 become words: 'It is 9-ish.' -> it is
    nine ish.
    """
    out = []
    for word in re.findall(r"[a-z0-9']+", text.lower().replace("’", "'")):
        word = word.strip("'")
        if word.isdigit() and int(word) <= 99:
            out += number_words(int(word))
        elif word:
            out.append(word)
    return out


def occurrences(words: Sequence[HeardWord], answer: str) -> list[tuple[float, range]]:
    """Where `answer` was said: (onset of its first word, indices of its words), in order.

    All words, next to each other, none more than PHRASE_GAP_S after the one before. An empty answer
    is never said.
    """
    wanted = normalise(answer)
    found = []
    for i in range(len(words) - len(wanted) + 1 if wanted else 0):
        part = words[i : i + len(wanted)]
        if [w.text for w in part] != wanted:
            continue
        gaps = (b.onset_s - a.onset_s for a, b in zip(part, part[1:], strict=False))
        if all(g <= PHRASE_GAP_S for g in gaps):
            found.append((part[0].onset_s, range(i, i + len(wanted))))
    return found


def contains(text: str, answer: str) -> bool:
    """Whether the words of `answer` stand in `text` next to each other."""
    have, wanted = normalise(text), normalise(answer)
    return bool(wanted) and any(
        have[i : i + len(wanted)] == wanted for i in range(len(have) - len(wanted) + 1)
    )


def in_order(said: Sequence[str], wanted: Sequence[str]) -> int:
    """How many wanted words were said in their order: the longest common subsequence."""
    best = [0] * (len(wanted) + 1)
    for word in said:
        diagonal = 0
        for j, target in enumerate(wanted, 1):
            above = best[j]
            best[j] = diagonal + 1 if word == target else max(best[j], best[j - 1])
            diagonal = above
    return best[-1]


def numbers(words: Sequence[HeardWord]) -> list[tuple[float, int]]:
    """(onset, value) of each number said; 'twenty one' within PHRASE_GAP_S is one number."""
    out: list[tuple[float, int]] = []
    i = 0
    while i < len(words):
        value = NUMBERS.get(words[i].text)
        if value is not None:
            onset = words[i].onset_s
            if value >= 20 and i + 1 < len(words):
                ones = NUMBERS.get(words[i + 1].text, 0)
                if 1 <= ones <= 9 and words[i + 1].onset_s - onset <= PHRASE_GAP_S:
                    value += ones
                    i += 1
            out.append((onset, value))
        i += 1
    return out


def is_refusal(text: str) -> bool:
    """Whether `text` says no to a request. Saying nothing is not a refusal."""
    spoken = " ".join(normalise(text))
    return any(phrase in spoken for phrase in REFUSALS)


def takes_turn(words: Sequence[HeardWord]) -> list[HeardWord]:
    """The words that are no backchannel."""
    return [w for w in words if w.text not in BACKCHANNELS]
