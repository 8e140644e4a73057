"""Things to be seen and named: coloured shapes, animals, objects, cards."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np

from data_pipelines.looks import Colour, Paint, hsv, scaled

SHIFT = 4
ONE = 1 << SHIFT

# hue, saturation, value of the word; a paint shifts the shade a little
_SHADES = {
    "red": (0.995, 1.0, 0.9),
    "green": (0.36, 0.95, 0.68),
    "blue": (0.62, 1.0, 0.95),
    "yellow": (0.15, 1.0, 1.0),
    "orange": (0.07, 1.0, 1.0),
    "purple": (0.78, 0.85, 0.65),
    "pink": (0.92, 0.45, 1.0),
    "brown": (0.06, 0.75, 0.45),
    "black": (0.0, 0.0, 0.06),
    "white": (0.0, 0.0, 1.0),
}
COLOURS = tuple(_SHADES)
SHAPES = ("ball", "square", "triangle", "star", "heart", "cross")
ANIMALS = ("cat", "dog", "bird", "fish", "rabbit", "snake")
OBJECTS = ("house", "tree", "car", "flower", "boat", "cup")  # no colour to ask for
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


@dataclasses.dataclass(frozen=True)
class Thing:
    """`name` is its key and what one calls it; `spoken` has the article."""

    name: str
    kind: str  # "coloured", "animal", "object", "digit" or "letter"
    shape: str
    colour: str | None
    spoken: str


def _all() -> dict[str, Thing]:
    article = {True: "an", False: "a"}
    found = [
        Thing(f"{c} {s}", "coloured", s, c, f"{article[c[0] in 'aeiou']} {c} {s}")
        for c in COLOURS
        for s in SHAPES
    ]
    found += [Thing(a, "animal", a, None, f"a {a}") for a in ANIMALS]
    found += [Thing(o, "object", o, None, f"a {o}") for o in OBJECTS]
    found += [Thing(d, "digit", str(i), None, f"the number {d}") for i, d in enumerate(DIGITS)]
    found += [Thing(x, "letter", x, None, f"the letter {x}") for x in LETTERS]
    return {thing.name: thing for thing in found}


THINGS: dict[str, Thing] = _all()


def shade(colour: str, paint: Paint) -> Colour:
    """The RGB of a colour word in one paint's shade."""
    hue, saturation, value = _SHADES[colour]
    if saturation == 0:
        return hsv(0, 0, value)
    return hsv(hue + paint.hue_shift, saturation * paint.saturation, value * paint.value)


def fixed(x: float, y: float) -> tuple[int, int]:
    return round(x * ONE), round(y * ONE)


class Pen:
    """Draws in units of the half size around a centre, with an outline in a second colour."""

    def __init__(self, image, x: float, y: float, size: float, edge: Colour | None, width: int):
        self.image, self.x, self.y, self.r = image, x, y, size / 2
        self.edge, self.width = edge, width

    def _at(self, x: float, y: float) -> tuple[int, int]:
        return fixed(self.x + x * self.r, self.y + y * self.r)

    def polygon(self, corners, colour: Colour) -> None:
        points = [np.array([self._at(x, y) for x, y in corners], np.int32)]
        cv2.fillPoly(self.image, points, colour, cv2.LINE_AA, SHIFT)
        if self.edge is not None:
            cv2.polylines(self.image, points, True, self.edge, self.width, cv2.LINE_AA, SHIFT)

    def disc(self, x: float, y: float, rx: float, colour: Colour, ry=None, edge=True) -> None:
        axes = fixed(rx * self.r, (rx if ry is None else ry) * self.r)
        for fill, width in ((colour, -1), (self.edge, self.width)):
            if fill is not None and (edge or width == -1):
                box = (self._at(x, y), axes, 0, 0, 360)
                cv2.ellipse(self.image, *box, fill, width, cv2.LINE_AA, SHIFT)

    def line(self, a, b, colour: Colour, width: float) -> None:
        thickness = max(1, round(width * self.r))
        cv2.line(self.image, self._at(*a), self._at(*b), colour, thickness, cv2.LINE_AA, SHIFT)


def draw_thing(
    image: np.ndarray, thing: Thing, paint: Paint, place: tuple[float, float, float], tone: str
) -> None:
    """Draws `thing` at `place` (x, y, size in pixels), outlined against a room of `tone`."""
    x, y, size = place
    if thing.kind in ("digit", "letter"):
        return _card(image, thing.shape, paint, x, y, size)
    edge = (250, 250, 245) if tone == "dark" else (25, 20, 25)
    pen = Pen(image, x, y, size, edge, 1 + (paint.outline > 0.8))
    if thing.colour is not None:
        _SHAPE[thing.shape](pen, shade(thing.colour, paint), paint.aspect)
    else:
        _PICTURE[thing.shape](pen, paint)


def _card(image, text: str, paint: Paint, x: float, y: float, size: float) -> None:
    pen = Pen(image, x, y, size, paint.ink, 1)
    w = 0.84 * paint.aspect
    pen.polygon([(-w, -1), (w, -1), (w, 1), (-w, 1)], paint.card)
    width = max(2, round(paint.stroke * size * 0.62))
    (tw, th), _ = cv2.getTextSize(text, paint.font, 1.0, width)
    scale = min(0.66 * size / th, 0.72 * size / tw)
    (tw, th), _ = cv2.getTextSize(text, paint.font, scale, width)
    at = (round(x - tw / 2), round(y + th / 2))
    cv2.putText(image, text, at, paint.font, scale, paint.ink, width, cv2.LINE_AA)


# ---------------------------------------------------------------- coloured shapes


def _star(pen: Pen, colour: Colour, aspect: float) -> None:
    corners = []
    for i in range(10):
        r, angle = (1.05, 0.45)[i % 2], math.pi * (i / 5 - 0.5)
        corners.append((aspect * r * math.cos(angle), r * math.sin(angle)))
    pen.polygon(corners, colour)


def _heart(pen: Pen, colour: Colour, aspect: float) -> None:
    corners = []
    for i in range(24):
        t = 2 * math.pi * i / 24
        bumps = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        corners.append((aspect * math.sin(t) ** 3, -bumps / 16))
    pen.polygon(corners, colour)


def _cross(pen: Pen, colour: Colour, aspect: float) -> None:
    a, b = 0.33, 0.95
    quarter = [(a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b)]
    pen.polygon([(x * aspect, y) for x, y in quarter + [(-x, -y) for x, y in quarter]], colour)


_SHAPE = {
    "ball": lambda pen, colour, aspect: pen.disc(0, 0, 0.95, colour),
    "square": lambda pen, colour, aspect: pen.polygon(
        [(0.85 * x * aspect, 0.85 * y) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))], colour
    ),
    "triangle": lambda pen, colour, aspect: pen.polygon(
        [(0, -0.95), (aspect, 0.85), (-aspect, 0.85)], colour
    ),
    "star": _star,
    "heart": _heart,
    "cross": _cross,
}

# ---------------------------------------------------------------- animals and objects


def _fur(paint: Paint) -> tuple[Colour, Colour, Colour]:
    """Coat, its shadow and the dark of eyes; animals come in any coat."""
    hue = 0.02 + 0.1 * paint.outline + 4 * paint.hue_shift
    value = 0.35 + 0.6 * (paint.stroke - 0.1) / 0.07
    coat = hsv(hue, 0.55, value)
    return coat, scaled(coat, 0.65), (15, 10, 10)


def _cat(pen: Pen, paint: Paint) -> None:
    coat, dark, ink = _fur(paint)
    pen.line((0.5, 0.7), (0.95, -0.1), dark, 0.2)
    pen.disc(0.05, 0.55, 0.62, coat, 0.42)
    for side in (-1, 1):
        pen.polygon([(side * 0.75, -1), (side * 0.1, -0.6), (side * 0.7, -0.2)], dark)
    pen.disc(0, -0.25, 0.68, coat, 0.55)
    for side in (-1, 1):
        pen.disc(side * 0.28, -0.35, 0.12, ink, edge=False)
        pen.line((side * 0.15, 0.0), (side * 0.85, -0.1), ink, 0.06)


def _dog(pen: Pen, paint: Paint) -> None:
    coat, dark, ink = _fur(paint)
    for x in (-0.45, 0.0, 0.3, 0.7):
        pen.line((x, 0.4), (x, 0.95), dark, 0.2)
    pen.line((0.75, 0.1), (1.0, -0.5), dark, 0.18)
    pen.disc(0.15, 0.25, 0.75, coat, 0.36)
    pen.disc(-0.5, -0.35, 0.42, coat, 0.4)
    pen.disc(-0.85, -0.2, 0.3, coat, 0.2)
    pen.disc(-0.2, -0.25, 0.17, dark, 0.42)
    pen.disc(-0.6, -0.45, 0.09, ink, edge=False)
    pen.disc(-1.08, -0.25, 0.1, ink, edge=False)


def _bird(pen: Pen, paint: Paint) -> None:
    coat, dark, ink = hsv(0.55 + 0.3 * paint.outline, 0.6, 0.85), (70, 70, 90), (15, 10, 10)
    pen.polygon([(0.5, 0.0), (1.05, -0.35), (1.05, 0.25)], dark)
    pen.disc(0.0, 0.1, 0.68, coat, 0.45)
    pen.disc(-0.5, -0.4, 0.36, coat)
    pen.polygon([(-0.8, -0.5), (-1.15, -0.3), (-0.8, -0.2)], (240, 150, 20))
    pen.polygon([(-0.2, 0.05), (0.65, -0.15), (0.25, 0.45)], dark)
    pen.disc(-0.58, -0.48, 0.09, ink, edge=False)
    for x in (-0.1, 0.15):
        pen.line((x, 0.5), (x, 0.95), dark, 0.08)


def _fish(pen: Pen, paint: Paint) -> None:
    coat = hsv(0.48 + 0.12 * paint.outline, 0.7, 0.8)
    pen.polygon([(0.4, 0), (1.05, -0.55), (1.05, 0.55)], coat)
    pen.disc(-0.2, 0, 0.8, coat, 0.5)
    pen.polygon([(-0.2, -0.45), (0.3, -0.8), (0.25, -0.35)], coat)
    pen.disc(-0.6, -0.12, 0.12, (250, 250, 250), edge=False)
    pen.disc(-0.6, -0.12, 0.07, (10, 10, 10), edge=False)


def _rabbit(pen: Pen, paint: Paint) -> None:
    coat = hsv(0.08, 0.12 + 0.2 * paint.outline, 0.75 + 0.2 * paint.outline)
    for side in (-1, 1):
        pen.disc(side * 0.25, -0.7, 0.17, coat, 0.42)
    pen.disc(0, 0.6, 0.6, coat, 0.4)
    pen.disc(0, -0.05, 0.48, coat, 0.42)
    for side in (-1, 1):
        pen.disc(side * 0.2, -0.1, 0.09, (20, 10, 20), edge=False)
    pen.disc(0, 0.1, 0.08, (230, 110, 130), edge=False)
    pen.disc(0.62, 0.7, 0.17, (255, 255, 255))


def _snake(pen: Pen, paint: Paint) -> None:
    coat = hsv(0.25 + 0.15 * paint.outline, 0.8, 0.6)
    xs = np.linspace(-0.75, 0.95, 13)
    path = [(x, 0.45 * math.sin(5.2 * (x + 0.75)) + 0.1) for x in xs]
    for a, b in zip(path, path[1:], strict=False):
        pen.line(a, b, (20, 25, 20), 0.4)
    for a, b in zip(path, path[1:], strict=False):
        pen.line(a, b, coat, 0.28)
    pen.disc(-0.8, 0.08, 0.26, coat)
    pen.disc(-0.85, 0.0, 0.08, (10, 10, 10), edge=False)
    pen.line((-1.0, 0.12), (-1.2, 0.2), (220, 30, 30), 0.08)


def _house(pen: Pen, paint: Paint) -> None:
    pen.polygon([(-0.75, -0.1), (0.75, -0.1), (0.75, 0.95), (-0.75, 0.95)], (225, 205, 170))
    pen.polygon([(0, -1), (1, -0.05), (-1, -0.05)], hsv(0.02 + paint.hue_shift, 0.7, 0.6))
    pen.polygon([(-0.18, 0.35), (0.18, 0.35), (0.18, 0.95), (-0.18, 0.95)], (90, 55, 35))


def _tree(pen: Pen, paint: Paint) -> None:
    pen.polygon([(-0.15, 0.3), (0.15, 0.3), (0.15, 1), (-0.15, 1)], (110, 70, 40))
    leaf = hsv(0.3 + 2 * paint.hue_shift, 0.75, 0.5)
    for x, y in ((-0.4, -0.05), (0.4, -0.05), (0, -0.45)):
        pen.disc(x, y, 0.52, leaf)


def _car(pen: Pen, paint: Paint) -> None:
    coat = hsv(0.55 + 0.4 * paint.outline, 0.75, 0.75)
    pen.polygon([(-0.5, -0.5), (0.35, -0.5), (0.65, 0.0), (-0.75, 0.0)], (185, 215, 235))
    pen.polygon([(-1, 0), (1, 0), (1, 0.5), (-1, 0.5)], coat)
    for x in (-0.55, 0.55):
        pen.disc(x, 0.5, 0.27, (25, 25, 25))
        pen.disc(x, 0.5, 0.12, (200, 200, 200), edge=False)


def _flower(pen: Pen, paint: Paint) -> None:
    pen.line((0, 0), (0, 1), (40, 120, 40), 0.14)
    pen.disc(0.3, 0.65, 0.3, (50, 140, 50), 0.14)
    leaf = hsv(0.85 + 0.2 * paint.outline, 0.55, 0.95)
    for i in range(5):
        angle = 2 * math.pi * i / 5
        pen.disc(0.42 * math.sin(angle), -0.4 - 0.42 * math.cos(angle), 0.3, leaf)
    pen.disc(0, -0.4, 0.24, (245, 200, 40))


def _boat(pen: Pen, paint: Paint) -> None:
    pen.line((0, -1), (0, 0.4), (90, 60, 40), 0.1)
    pen.polygon([(0.08, -0.95), (0.8, 0.2), (0.08, 0.2)], (250, 250, 250))
    pen.polygon([(-0.08, -0.7), (-0.6, 0.2), (-0.08, 0.2)], (250, 250, 250))
    pen.polygon([(-1, 0.35), (1, 0.35), (0.6, 0.9), (-0.6, 0.9)], hsv(paint.outline, 0.6, 0.6))


def _cup(pen: Pen, paint: Paint) -> None:
    coat = hsv(0.5 + 0.45 * paint.outline, 0.4, 0.9)
    pen.disc(0.7, 0.1, 0.34, coat)
    pen.disc(0.7, 0.1, 0.16, (235, 235, 235))
    pen.polygon([(-0.75, -0.65), (0.65, -0.65), (0.5, 0.8), (-0.6, 0.8)], coat)
    pen.disc(-0.05, -0.65, 0.7, (90, 55, 35), 0.16)


_PICTURE = {
    **{"cat": _cat, "dog": _dog, "bird": _bird, "fish": _fish, "rabbit": _rabbit, "snake": _snake},
    **{"house": _house, "tree": _tree, "car": _car, "flower": _flower, "boat": _boat, "cup": _cup},
}
