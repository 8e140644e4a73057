"""Machines that repeat a motion, to be counted like exercises."""

from __future__ import annotations

import math

import cv2
import numpy as np

from data_pipelines.looks import Colour
from data_pipelines.things import ONE, SHIFT, Pen, fixed

MACHINES = {  # kind: what one, many and the doing are called
    "pendulum": ("swing", "swings", "swinging"),
    "bounce": ("bounce", "bounces", "bouncing"),
    "door": ("opening", "openings", "opening the door"),
    "hammer": ("blow", "blows", "hammering"),
    "flash": ("flash", "flashes", "flashing"),
}


def draw_machine(
    image: np.ndarray, kind: str, u: float, colour: Colour, dark: Colour, x: float, ground: float
) -> None:
    """The machine `kind` at u in [0, 1] of its motion; (x, ground) is the middle of its foot."""
    h, top = image.shape[0], 0.08 * image.shape[0]
    pen = Pen(image, x, ground - 0.4 * h, 0.8 * h, dark, 1)  # y: -1 top .. 1 ground
    if kind == "pendulum":
        angle = math.radians(42 * (2 * u - 1))
        end = (x + 0.62 * h * math.sin(angle), top + 0.62 * h * math.cos(angle))
        cv2.line(image, fixed(x - 12, top), fixed(x + 12, top), dark, 3, cv2.LINE_AA, SHIFT)
        cv2.line(image, fixed(x, top), fixed(*end), dark, 2, cv2.LINE_AA, SHIFT)
        cv2.circle(image, fixed(*end), round(0.1 * h * ONE), colour, -1, cv2.LINE_AA, SHIFT)
    elif kind == "bounce":
        y = ground - (0.12 + 0.58 * (1 - (1 - u) ** 2)) * h  # fast below, slow above
        shadow = (fixed(x, ground), fixed((0.16 - 0.1 * u) * h, 0.03 * h), 0, 0, 360)
        cv2.ellipse(image, *shadow, dark, -1, cv2.LINE_AA, SHIFT)
        pen.disc(0, (y - pen.y) / pen.r, 0.11 * h / pen.r, colour)
    elif kind == "door":
        pen.polygon([(-0.62, -0.9), (0.62, -0.9), (0.62, 1), (-0.62, 1)], dark)
        right = -0.55 + 1.1 * (1 - 0.85 * u)  # the free edge swings to the viewer
        tilt = 0.16 * u
        leaf = [(-0.55, -0.83), (right, -0.83 - tilt), (right, 1 + tilt), (-0.55, 1)]
        pen.polygon(leaf, colour)
        pen.disc(right - 0.12, 0.1, 0.06, dark, edge=False)
    elif kind == "hammer":
        angle = math.radians(8 + 82 * u)
        handle = (0.85 * 1.0 * math.cos(angle) - 0.55, 0.45 - 0.85 * 1.6 * math.sin(angle))
        pen.polygon([(0.05, 0.62), (0.75, 0.62), (0.6, 1), (0.2, 1)], dark)
        pen.line((-0.55, 0.45), handle, dark, 0.14)
        across = (math.sin(angle) * 0.3, math.cos(angle) * 0.3)
        a = (handle[0] - across[0], handle[1] - across[1])
        pen.line(a, (handle[0] + across[0], handle[1] + across[1]), colour, 0.36)
    elif kind == "flash":
        pen.line((0, 0.2), (0, 1), dark, 0.16)
        off = [0.3 * c for c in dark]
        lit = (round(c + (on - c) * u) for c, on in zip(off, (255, 240, 90), strict=True))
        red, green, blue = lit
        pen.disc(0, -0.25, 0.5 + 0.14 * u, (red, green, blue))
    else:
        raise ValueError(f"machine {kind!r} is not one of {', '.join(MACHINES)}")
