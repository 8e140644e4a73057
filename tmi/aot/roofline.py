"""Seconds a step takes at least, from a chip's published rates, and what is then expected of it.

Compute: model FLOPs (and those recomputed) at the peak rate times `EFFICIENCY`. HBM: the bytes that
the compiled program's instructions read and write (traffic.py). ICI: each collective over the axes
of the torus that its group fills, on each as a ring of which both directions are used ("How to
Scale Your Model", jax-ml.github.io/scaling-book). A step takes as long as its slowest resource, and
longer by the communication that the compiled program waits for: a collective that it starts and
ends apart goes on beside computation, others do not. However little is sent, it takes `HOP_S` a hop
to get half round the ring (the same source). The optimizer begins when the last gradient is there,
and so is beside nothing: what it computes, then its bytes, are added.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable

from tmi.aot.hardware import Slice
from tmi.aot.hlo import Collective

EFFICIENCY = 0.7  # of the peak, that large matrix products reach
DIRECTIONS = 2  # of a ring
HOP_S = 1e-6  # from a chip to its neighbour


@dataclasses.dataclass(frozen=True)
class Roofline:
    compute_s: float
    hbm_s: float
    waited_s: float  # of communication beside which nothing is computed
    beside_s: float  # of communication beside computation
    model_compute_s: float  # model FLOPs alone at the peak rate
    optimizer_compute_s: float = 0.0
    optimizer_hbm_s: float = 0.0

    @property
    def ici_s(self) -> float:
        return self.waited_s + self.beside_s

    @property
    def optimizer_s(self) -> float:
        return self.optimizer_compute_s + self.optimizer_hbm_s

    def seconds(self, overlap: bool | None = None) -> float:
        """Of one step, as the program overlaps; or with all communication overlapped, or none."""
        busy = max(self.compute_s, self.hbm_s)
        if overlap is None:
            return max(busy, self.beside_s) + self.waited_s + self.optimizer_s
        return (max(busy, self.ici_s) if overlap else busy + self.ici_s) + self.optimizer_s

    def mfu(self, overlap: bool | None = None) -> float:
        """Model FLOPs utilisation, 0 to 1."""
        return self.model_compute_s / self.seconds(overlap) if self.seconds(overlap) else 0.0

    @property
    def bottleneck(self) -> str:
        parts = {
            "compute": self.compute_s + self.optimizer_compute_s,
            "hbm": self.hbm_s + self.optimizer_hbm_s,
            "ici": self.ici_s,
        }
        return max(parts, key=parts.__getitem__)


def spanned(shape: tuple[int, ...], group: int) -> tuple[int, ...]:
    """The sides of the torus that a group of so many devices fills: the fewest with that product,
    or one as long as the group, which no wire closes to a ring."""
    for count in range(1, len(shape) + 1):
        for sides in itertools.combinations(shape, count):
            if math.prod(sides) == group:
                return sides
    return (group,)


def ici_seconds(where: Slice, found: Iterable[Collective]) -> float:
    """Of all collectives, one after the other."""
    total = 0.0
    for c in found:
        sides = spanned(where.shape, c.group)
        closed = math.prod(sides) == c.group and all(where.closes(side) for side in sides)
        ring = where.chip.link_bytes * (DIRECTIONS if closed else 1)  # of one side
        passed = c.bytes * (c.group - 1) / max(1, c.group) / len(sides)
        if c.kind == "all-reduce":
            passed *= 2  # reduce-scatter, then all-gather
        elif c.kind in ("all-to-all", "ragged-all-to-all"):
            # On a ring that goes both ways a block travels a quarter round on average.
            passed = c.bytes * max(sides) / 4
        elif c.kind == "collective-permute":
            passed = c.bytes * DIRECTIONS  # one of them
        total += c.times * max(passed / ring, HOP_S * max(sides) / 2)
    return total


def roofline(
    where: Slice, model_flops: float, extra_flops: float, hbm_bytes: float,
    found: Iterable[Collective], optimizer_flops: float = 0.0, optimizer_bytes: float = 0.0,
) -> Roofline:  # fmt: skip
    """FLOPs of the whole step, the optimizer's by themselves; bytes of one chip, the optimizer's in
    hbm_bytes too."""
    peak = where.chip.flops_bf16 * where.num_chips
    found = list(found)
    return Roofline(
        compute_s=(model_flops + extra_flops) / (peak * EFFICIENCY),
        hbm_s=max(0.0, hbm_bytes - optimizer_bytes) / where.chip.hbm_bandwidth,
        waited_s=ici_seconds(where, [c for c in found if not c.asynchronous]),
        beside_s=ici_seconds(where, [c for c in found if c.asynchronous]),
        model_compute_s=model_flops / peak,
        optimizer_compute_s=optimizer_flops / (peak * EFFICIENCY),
        optimizer_hbm_s=optimizer_bytes / where.chip.hbm_bandwidth,
    )
