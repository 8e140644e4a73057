"""Seconds a step takes at least, from a chip's published rates, and what is then expected of it.

Compute: model FLOPs (and those recomputed) at the peak rate times `EFFICIENCY`. HBM: every byte of
state read and written once, temporaries too. ICI: each collective as a ring over one axis of the
torus, both directions used. With `overlap` the step takes as long as its slowest resource; without,
compute and communication are summed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from tmi.aot.hardware import Chip
from tmi.aot.hlo import Collective

EFFICIENCY = 0.7  # of the peak, that large matrix products reach
DIRECTIONS = 2  # of a ring


@dataclasses.dataclass(frozen=True)
class Roofline:
    compute_s: float
    hbm_s: float
    ici_s: float
    model_compute_s: float  # model FLOPs alone at the peak rate

    def seconds(self, overlap: bool) -> float:
        """Of one step."""
        busy = max(self.compute_s, self.hbm_s)
        return max(busy, self.ici_s) if overlap else busy + self.ici_s

    def mfu(self, overlap: bool) -> float:
        """Model FLOPs utilisation, 0 to 1."""
        return self.model_compute_s / self.seconds(overlap) if self.seconds(overlap) else 0.0

    @property
    def bottleneck(self) -> str:
        parts = {"compute": self.compute_s, "hbm": self.hbm_s, "ici": self.ici_s}
        return max(parts, key=parts.__getitem__)


def ici_seconds(chip: Chip, found: Iterable[Collective]) -> float:
    """Of all collectives, one after the other."""
    ring = chip.link_bytes * DIRECTIONS
    total = 0.0
    for c in found:
        passed = c.bytes * (c.group - 1) / max(1, c.group)
        if c.kind == "all-reduce":
            passed *= 2  # reduce-scatter, then all-gather
        elif c.kind in ("all-to-all", "ragged-all-to-all"):
            # On a ring that goes both ways a block travels a quarter round on average.
            passed = c.bytes * c.group / 4
        elif c.kind == "collective-permute":
            passed = c.bytes
        total += c.times * passed / ring
    return total


def roofline(
    chip: Chip, num_chips: int, model_flops: float, extra_flops: float, hbm_bytes: float,
    found: Iterable[Collective],
) -> Roofline:  # fmt: skip
    """model_flops and extra_flops of the whole step, hbm_bytes of one chip."""
    peak = chip.flops_bf16 * num_chips
    return Roofline(
        compute_s=(model_flops + extra_flops) / (peak * EFFICIENCY),
        hbm_s=hbm_bytes / chip.hbm_bandwidth,
        ici_s=ici_seconds(chip, found),
        model_compute_s=model_flops / peak,
    )
