"""TPU generations, as published, and slices of them.

Sources: cloud.google.com/tpu/docs (v4, v5e, v5p, v6e, tpu7x: peak compute, HBM) and "How to Scale
Your Model" (jax-ml.github.io/scaling-book, the interconnect per link and direction).
"""

from __future__ import annotations

import dataclasses
import math
import re


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip. `link_bytes` is a link's bandwidth in one direction; an axis of the torus has a
    link each way. `devices` are what JAX sees of it; `config_name` is what the compiler calls the
    setting in which it sees them, where that is not its default; `most_chips`: of one slice."""

    name: str
    flops_bf16: float  # per second
    hbm_bytes: float
    hbm_bandwidth: float  # bytes a second
    link_bytes: float  # bytes a second
    torus_axes: int
    most_chips: int
    devices: int = 1
    config_name: str | None = None


CHIPS = {
    c.name: c
    for c in (
        Chip("v4", 275e12, 32 * 2**30, 1.228e12, 4.5e10, 3, 2048, config_name="megacore"),
        Chip("v5e", 197e12, 16 * 2**30, 8.19e11, 4.5e10, 2, 256),
        Chip("v5p", 459e12, 95 * 2**30, 2.765e12, 9e10, 3, 6144),
        Chip("v6e", 918e12, 32 * 2**30, 1.638e12, 9e10, 2, 256),
        Chip("tpu7x", 2307e12, 192 * 2**30, 7.38e12, 1e11, 3, 9216, devices=2),
    )
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips wired as a grid, e.g. v5p:4x4x4."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    def closes(self, side: int) -> bool:
        """Whether a wire leads from the last chip of this side to its first. Grids close sides of
        16, cubes all sides if they are made of cubes of 4x4x4."""
        if side not in self.shape:
            return False
        return side == 16 if self.chip.torus_axes == 2 else all(s % 4 == 0 for s in self.shape)

    @property
    def num_chips(self) -> int:
        return math.prod(self.shape)

    @property
    def num_devices(self) -> int:
        return self.num_chips * self.chip.devices


def parse(text: str) -> Slice:
    """A slice by its name.

    Raises ValueError for an unknown chip and a grid that it cannot have.
    """
    match = re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+)*)", text)
    if not match or match[1] not in CHIPS:
        raise ValueError(
            f"--topology={text!r} is no slice; accepted is CHIP:AxB or CHIP:AxBxC with CHIP of "
            f"{', '.join(CHIPS)}, e.g. v5p:4x4x4"
        )
    chip, shape = CHIPS[match[1]], tuple(int(n) for n in match[2].split("x"))
    if len(shape) != chip.torus_axes or min(shape) < 1:
        grid = "x".join("ABC"[: chip.torus_axes])
        raise ValueError(
            f"--topology={text!r}: {chip.name} is wired as {grid}, e.g. {example(chip)}"
        )
    if math.prod(shape) > chip.most_chips:
        raise ValueError(
            f"--topology={text!r}: a slice of {chip.name} has {chip.most_chips} chips at most"
        )
    return Slice(chip, shape)


def example(chip: Chip) -> str:
    return f"{chip.name}:{'x'.join(['4'] * chip.torus_axes)}"


def smallest_first(chip: Chip, most: int = 512) -> list[Slice]:
    """Slices of 4 to `most` chips, or as many as there are, whose sides are powers of two,
    balanced, in order of size. A host's own four chips lie in one plane: 2x2x1."""
    sides = [2, 2, 1][: chip.torus_axes]
    out = []
    while math.prod(sides) <= min(most, chip.most_chips):
        out.append(Slice(chip, tuple(sides)))
        sides.sort()
        sides[0] *= 2
        sides.sort()
    return out
