"""Which carriers, and which combinations of slots, a split may use.

Carrier sentences are written out per split (see `phrases.Carriers`). Combinations of what fills
them, (cue, answer, number, timing), are dealt out by hash: those held out occur in `eval` alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

SPLITS = ("train", "dev", "eval")
HELD_OUT = 0.3  # share of all combinations that only eval may use
EVAL_NEW = 0.6  # share of eval's draws that must be held-out ones
TRIES = 400


def text_hash(text: str) -> str:
    """Short name of a text: the first 16 hex digits of its SHA-1."""
    return hashlib.sha1(text.encode()).hexdigest()[:16]


def key(*combination: object) -> str:
    """A combination of slots as text: 'timespeak/in/5/tea'."""
    return "/".join(str(c) for c in combination)


def held_out(*combination: object) -> bool:
    """Whether the combination belongs to eval alone."""
    digest = hashlib.sha256(key(*combination).encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT * 2**32


def draw(rng: np.random.Generator, split: str, make: Callable[[], tuple]) -> tuple:
    """A combination from `make` that `split` may use.

    train and dev get none that is held out; eval gets a held-out one in EVAL_NEW of the draws and
    any in the others. Raises ValueError if `make` offers none in TRIES draws.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    only_new = split == "eval" and rng.random() < EVAL_NEW
    for _ in range(TRIES):
        combination = make()
        new = held_out(*combination)
        if (split == "eval" and (new or not only_new)) or (split != "eval" and not new):
            return combination
    raise ValueError(f"no combination like {key(*make())} is open to {split} in {TRIES} draws")
