"""Looks of drawn video: individuals, rooms and shades, in pools that no two splits share.

Number i of a split's pool is a pure function of (pool, split, i). Colours of clothes and rooms come
from hue bins dealt out to the splits, shades and shapes from ranges of their own generator, so that
nothing is equal across splits while all of them look alike in kind.
"""

from __future__ import annotations

import colorsys
import dataclasses
import functools
import hashlib
import json

import numpy as np

from data_pipelines.splits import SPLITS

POOL_SIZES = {"train": 480, "dev": 60, "eval": 120}
HUES = 36  # bins of 10 degrees; of each six, four go to train, one to dev, one to eval
_HUE_SHARE = {"train": (0, 1, 2, 3), "dev": (4,), "eval": (5,)}

Colour = tuple[int, int, int]  # RGB, 0..255


def scaled(colour: Colour, factor: float) -> Colour:
    """Each part times `factor`."""
    red, green, blue = (round(factor * c) for c in colour)
    return red, green, blue


def mixed(a: Colour, b: Colour, share: float) -> Colour:
    """`share` of the way from `a` to `b`."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


@dataclasses.dataclass(frozen=True)
class Figure:
    """A person: proportions in units of body height, colours of the parts."""

    id: str
    tone: str  # "dark" clothes go before light rooms and the other way round
    build: str  # "stick", "soft", "robot" or "dress"
    limb: float  # thickness of limbs
    head: float  # radius
    torso: float
    upper_arm: float
    forearm: float
    thigh: float
    shank: float
    shoulder: float  # half width
    hip: float  # half width
    shirt: Colour
    trousers: Colour
    skin: Colour
    hair: Colour


@dataclasses.dataclass(frozen=True)
class Background:
    """A room or a place; `pattern` says what is drawn on it, `seed` where."""

    id: str
    tone: str
    pattern: str
    wall: Colour
    floor: Colour
    mark: Colour
    horizon: float  # share of the height above the floor
    seed: int


@dataclasses.dataclass(frozen=True)
class Paint:
    """How a split draws things: shade, line and lettering of its own."""

    id: str
    hue_shift: float
    saturation: float
    value: float
    outline: float  # 0 none .. 1 strong
    font: int
    stroke: float
    aspect: float
    card: Colour
    ink: Colour


def hsv(hue: float, saturation: float, value: float) -> Colour:
    r, g, b = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * r), round(255 * g), round(255 * b)


def _rng(pool: str, split: str, number: int) -> np.random.Generator:
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    if not 0 <= number < POOL_SIZES[split]:
        raise ValueError(f"{split} has looks 0 to {POOL_SIZES[split] - 1}, not {number}")
    digest = hashlib.sha256(f"{pool}/{split}/{number}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def _hue(rng: np.random.Generator, split: str) -> float:
    bin_ = 6 * rng.integers(HUES // 6) + rng.choice(_HUE_SHARE[split])
    return float(bin_ + rng.uniform(0.1, 0.9)) / HUES


@functools.cache
def figure(split: str, number: int) -> Figure:
    rng = _rng("figure", split, number)
    tone = ("dark", "light")[number % 2]
    value = (lambda: rng.uniform(0.1, 0.5)) if tone == "dark" else (lambda: rng.uniform(0.85, 1.0))
    most = 0.95 if tone == "dark" else 0.5
    u = rng.uniform
    arm, leg = u(0.33, 0.40), u(0.44, 0.50)
    bend = u(0.48, 0.55)
    return Figure(
        id=f"figure-{split}-{number}",
        tone=tone,
        build=str(rng.choice(["stick", "soft", "soft", "robot", "dress"])),
        limb=round(u(0.05, 0.1), 4),
        head=round(u(0.085, 0.12), 4),
        torso=round(u(0.28, 0.34), 4),
        upper_arm=round(arm * bend, 4),
        forearm=round(arm * (1 - bend), 4),
        thigh=round(leg * bend, 4),
        shank=round(leg * (1 - bend), 4),
        shoulder=round(u(0.08, 0.13), 4),
        hip=round(u(0.04, 0.07), 4),
        shirt=hsv(_hue(rng, split), u(0.2, most), value()),
        trousers=hsv(_hue(rng, split), u(0.2, most), value()),
        skin=hsv(u(0.03, 0.11), u(0.25, 0.6), u(0.35, 0.6) if tone == "dark" else u(0.75, 1.0)),
        hair=hsv(_hue(rng, split), u(0.1, 0.7), value()),
    )


PATTERNS = ("plain", "gradient", "stripes", "boards", "dots", "window", "shelf", "hills", "tiles")


@functools.cache
def background(split: str, number: int) -> Background:
    rng = _rng("background", split, number)
    tone = ("dark", "light")[number % 2]
    u = rng.uniform
    wall = u(0.08, 0.25) if tone == "dark" else u(0.72, 0.96)
    step = u(0.05, 0.12) * (1 if tone == "dark" else -1)
    most = 0.5 if tone == "dark" else 0.3
    hue = _hue(rng, split)
    return Background(
        id=f"background-{split}-{number}",
        tone=tone,
        pattern=str(rng.choice(PATTERNS)),
        wall=hsv(hue, u(0.03, most), wall),
        floor=hsv(_hue(rng, split), u(0.03, most), min(1.0, max(0.0, wall + step))),
        mark=hsv(hue, u(0.03, most), min(1.0, max(0.0, wall + u(0.6, 1.2) * step))),
        horizon=round(u(0.62, 0.8), 4),
        seed=int(rng.integers(2**31)),
    )


@functools.cache
def paint(split: str, number: int) -> Paint:
    rng = _rng("paint", split, number)
    u = rng.uniform
    light = rng.random() < 0.5
    ink, card = (u(0.0, 0.25), u(0.85, 1.0)) if light else (u(0.85, 1.0), u(0.05, 0.3))
    return Paint(
        id=f"paint-{split}-{number}",
        hue_shift=round(u(-0.012, 0.012), 5),
        saturation=round(u(0.85, 1.0), 4),
        value=round(u(0.88, 1.0), 4),
        outline=round(u(0.0, 1.0), 4),
        font=int(rng.choice([0, 2, 3, 4])),
        stroke=round(u(0.1, 0.17), 4),
        aspect=round(u(0.88, 1.12), 4),
        card=hsv(_hue(rng, split), u(0.0, 0.3), card),
        ink=hsv(_hue(rng, split), u(0.0, 0.6), ink),
    )


_POOLS = {"figure": figure, "background": background, "thing": paint}


def draw(rng: np.random.Generator, pool: str, split: str, tone: str | None = None):
    """A random look of `pool` ("figure", "background", "thing"), of one tone if that is named."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    number = int(rng.integers(POOL_SIZES[split]))
    if tone is not None:  # even numbers are dark, odd ones light
        number = number // 2 * 2 + ("dark", "light").index(tone)
    return _POOLS[pool](split, number)


def pool_hashes(split: str) -> set[str]:
    """ "<pool>:<sha1 of its parameters without the id>" for every look that `split` can use."""
    hashes = set()
    for pool, look in _POOLS.items():
        for number in range(POOL_SIZES[split]):
            values = dataclasses.asdict(look(split, number))
            del values["id"]
            text = json.dumps(values, sort_keys=True)
            hashes.add(f"{pool}:{hashlib.sha1(text.encode()).hexdigest()}")
    return hashes
