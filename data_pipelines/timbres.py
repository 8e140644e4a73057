"""Timbres made at random: further espeak-ng variants for the `train` split.

The library brings some hundred variants; a model that trains on half of them knows those speakers,
not speech: numbers were right in 98 % of new sentences of the training voices and 63 % of those of
other voices (docs/LOG.md). A drawn timbre has its own vocal tract (a factor a formant, besides a
common one), voice source, breath, spectral tilt and stress. `dev` and `eval` have none of them.
"""

from __future__ import annotations

import functools
import re

import numpy as np

NUM_TIMBRES = 800
_NAME = re.compile(r"drawn(\d{4})")


def names() -> tuple[str, ...]:
    """The names of all timbres, e.g. "drawn0000"."""
    return tuple(f"drawn{i:04d}" for i in range(NUM_TIMBRES))


@functools.cache
def definition(name: str) -> str | None:
    """The variant file (docs of espeak-ng, "Voice Files") of timbre `name`; None for other
    variants."""
    match = _NAME.fullmatch(name)
    if not match or int(match[1]) >= NUM_TIMBRES:
        return None
    rng = np.random.default_rng([31, int(match[1])])
    draw, chance = rng.uniform, lambda share: rng.random() < share
    base = np.exp(draw(np.log(58), np.log(170)))
    lines = [
        "language variant",
        f"name {name}",
        f"pitch {base:.0f} {base * draw(1.15, 1.7):.0f}",
        f"flutter {draw(0, 14):.0f}",
        f"voicing {np.exp(draw(np.log(40), np.log(190))):.0f}",
        f"consonants {draw(60, 160):.0f} {draw(60, 160):.0f}",
    ]
    if chance(0.3):
        lines.append(f"klatt {rng.integers(1, 7)}")
    tract = np.exp(draw(-0.12, 0.12))
    for formant in range(9):
        frequency = 100 * tract * np.exp(np.clip(0.06 * rng.standard_normal(), -0.15, 0.15))
        height = draw(60, 160) if formant == 0 else draw(45, 125)
        lines.append(f"formant {formant} {frequency:.0f} {height:.0f} {draw(70, 170):.0f}")
    if chance(0.3):
        lines.append(f"roughness {draw(0, 6):.0f}")
    if chance(0.3):
        lines.append("breath " + " ".join(f"{draw(0, 14):.0f}" for _ in range(8)))
    if chance(0.3):
        lines.append(f"intonation {rng.integers(1, 5)}")
    if chance(0.6):
        edges = np.sort(np.exp(draw(np.log(100), np.log(4500), size=4)))
        lines.append("tone " + " ".join(f"{f:.0f} {draw(20, 255):.0f}" for f in edges))
    if chance(0.5):
        lines.append("stressAdd " + " ".join(f"{draw(-20, 60):.0f}" for _ in range(8)))
        lines.append("stressAmp " + " ".join(f"{draw(15, 26):.0f}" for _ in range(8)))
    return "\n".join(lines) + "\n"
