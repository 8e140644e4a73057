"""What the machines of a job are: chips, hosts and jax devices of a TPU slice or of GPU nodes.

    v5p:4x4x4    a TPU slice: the kind and the shape of its chips
    gpu:4x8      four nodes of eight GPUs each

Sources: cloud.google.com/tpu/docs (v4, v5e, v5p, v6e, tpu7x: shapes, chips a VM, accelerator
types), /tpu/docs/runtimes (software versions), /kubernetes-engine/docs/concepts/plan-tpus (machine
types, accelerator labels); read in November 2026.
"""

from __future__ import annotations

import dataclasses
import math
import re

FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
SMALL = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")  # of the kinds in three dimensions: under one cube


class TopologyError(ValueError):
    """A topology that does not exist; the message says which do."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A generation of TPUs."""

    most_chips: int  # of one slice
    devices_per_chip: int  # as jax counts them; 1 where a chip's two cores are one (megacore)
    cores_per_chip: int  # as accelerator types count them
    gke_accelerator: str
    machine: str  # type of a host, up to its number of chips
    gcloud_type: str  # accelerator type, up to its number of cores; "" where gcloud has none
    software: str  # version of a TPU VM
    flat: bool = False  # two dimensions


KINDS = {
    "v4": Kind(
        2048, 1, 2, "tpu-v4-podslice", "ct4p-hightpu", "v4", "tpu-ubuntu2204-base"
    ),
    "v5e": Kind(
        256, 1, 1, "tpu-v5-lite-podslice", "ct5lp-hightpu", "v5litepod", "v2-alpha-tpuv5-lite", True
    ),
    "v5p": Kind(6144, 1, 2, "tpu-v5p-slice", "ct5p-hightpu", "v5p", "v2-alpha-tpuv5"),
    "v6e": Kind(256, 1, 1, "tpu-v6e-slice", "ct6e-standard", "v6e", "v2-alpha-tpuv6e", True),
    "tpu7x": Kind(9216, 2, 2, "tpu7x", "tpu7x-standard", "", ""),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Topology:
    """The machines of one job."""

    kind: str  # of KINDS, or 'gpu'
    shape: str  # '4x4x4'; of GPUs nodes x GPUs a node
    chips: int
    hosts: int  # each runs one process, which has all chips of its host

    @property
    def chips_per_host(self) -> int:
        return self.chips // self.hosts

    @property
    def devices(self) -> int:
        """As jax.devices() counts them, over all hosts."""
        return self.chips * (1 if self.kind == "gpu" else KINDS[self.kind].devices_per_chip)

    @property
    def machine_type(self) -> str:
        """Of a host on GKE."""
        return f"{KINDS[self.kind].machine}-{self.chips_per_host}t"

    @property
    def accelerator_type(self) -> str:
        """As gcloud names the slice by its size; '' if the kind is to be had on GKE alone."""
        kind = KINDS[self.kind]
        return kind.gcloud_type and f"{kind.gcloud_type}-{self.chips * kind.cores_per_chip}"

    def __str__(self) -> str:
        return f"{self.kind}:{self.shape}"


def parse(text: str) -> Topology:
    """Raises TopologyError, naming what is accepted, for a slice that cannot be had."""
    kind, _, shape = text.partition(":")
    if kind != "gpu" and kind not in KINDS:
        raise TopologyError(
            f"topology {text!r}: the kind before the colon is {kind!r}; accepted are "
            f"{', '.join(KINDS)} with their shape, as in v5p:4x4x4, and gpu:NODESxGPUS"
        )
    numbers = re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape)
    sizes = [int(n) for n in shape.split("x")] if numbers else []
    if kind == "gpu":
        if len(sizes) != 2:
            raise TopologyError(f"topology {text!r}: nodes x GPUs a node are accepted, gpu:4x8")
        return Topology(kind, shape, math.prod(sizes), sizes[0])
    chips = math.prod(sizes)
    if KINDS[kind].flat:
        ok, accepted = shape in FLAT, ", ".join(FLAT)
    else:
        cubes = len(sizes) == 3 and sizes == sorted(sizes) and all(n % 4 == 0 for n in sizes)
        ok = shape in SMALL or (cubes and chips <= KINDS[kind].most_chips)
        accepted = (
            f"{', '.join(SMALL)}, and three multiples of 4 in ascending order (4x4x4, 4x4x8, "
            f"8x8x8, ...) of {KINDS[kind].most_chips} chips at most"
        )
    if not ok:
        raise TopologyError(f"topology {text!r}: accepted shapes of {kind} are {accepted}")
    # A slice of eight in one plane is one machine of eight; others are made of machines of four.
    per_host = chips if chips <= 4 or shape == "2x4" else 4
    return Topology(kind, shape, chips, chips // per_host)
