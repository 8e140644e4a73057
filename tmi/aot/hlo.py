"""What the compiled text says about communication: collectives, counted once a run of the program,
those inside a loop as often as the loop runs.

An all-gather that goes on beside computation is spread over fusions of a TPU's text: one starts it,
others take it on while they compute something else, one ends it. It is counted where it starts.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from tmi.aot.text import Computation, Module, read, starts
from tmi.models.exchange import ROWS_OF_ALL

COMPUTES = ("fusion", "custom-call", "convolution", "dot", "while", "conditional", "call", "sort")


@dataclasses.dataclass(frozen=True)
class Collective:
    """bytes: of the larger of what one device puts in and gets out; group: devices that take part
    together; times: runs in one run of the program; axes: of the mesh, along which the group lies;
    dims: of what bytes are of; source: what of the program it comes from."""

    kind: str
    bytes: int
    group: int
    times: int
    asynchronous: bool
    axes: tuple[str, ...] = ()
    dims: tuple[int, ...] = ()
    source: str = ""


def collectives(
    text: str | Module, default_trips: int = 1, mesh: Mapping[str, int] | None = None
) -> list[Collective]:
    """All collectives of a compiled module. `mesh`: its axes and their sizes; without, no axes."""
    module = read(text, default_trips) if isinstance(text, str) else text
    devices = math.prod((mesh or {}).values())
    out = []
    for name, instructions in module.computations.items():
        begun = starts(instructions)
        for at, i in enumerate(instructions):
            kind, times = i.collective, module.times.get(name)
            if kind is None or not times:
                continue
            groups = _groups(i.rest, devices)
            group = len(groups[0])
            largest = max(i.arrays, key=lambda a: a.bytes, default=None)
            size, dims = (largest.bytes, largest.dims) if largest else (0, ())
            if kind == "reduce-scatter":  # its result is the smaller side
                size *= group
            beside = begun or i.op.endswith("-start") and _computes(i.name, instructions[at + 1 :])
            axes = _axes(groups, mesh) if mesh else ()
            source = re.search(r'op_name="([^"]*)"', i.rest)
            source = source[1] if source else ""
            out.append(Collective(kind, size, group, times, beside, axes, dims, source))
    return out


def _computes(started: str, after: Computation) -> bool:
    """Whether anything is computed between a collective's start and its end; a compiled text is in
    the order in which it runs."""
    for i in after:
        if i.op.endswith("-done") and started in i.operands:
            return False
        if i.op in COMPUTES:
            return True
    return False


def by_kind(found: list[Collective]) -> dict[str, dict]:
    """Kind -> count of runs and bytes of one device, bytes by the mesh's axes along which they
    travel, and the largest of them."""
    out: dict[str, dict] = {}
    for c in found:
        kind = out.setdefault(c.kind, {"count": 0, "bytes": 0, "largest": 0, "axes": {}})
        kind["count"] += c.times
        kind["bytes"] += c.times * c.bytes
        kind["largest"] = max(kind["largest"], c.bytes)
        along = ",".join(c.axes)
        kind["axes"][along] = kind["axes"].get(along, 0) + c.times * c.bytes
    return out


def whole_gathers(
    found: list[Collective], parameters: Mapping[str, tuple[tuple[int, ...], bool]]
) -> dict[str, int]:
    """Parameters that one all-gather makes whole where FSDP would not -> its bytes.

    An all-gather is that of a parameter by the dimensions of its result, in whatever order; an
    activation that happens to have them is taken for it, but for rows on their way to experts,
    which say what they are.

    Args:
      parameters: name -> (shape, whether FSDP alone makes it whole, a layer at a time).
    """

    def sides(dims: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(d for d in dims if d > 1))

    gathered: dict[tuple[int, ...], int] = collections.defaultdict(int)
    for c in found:
        if c.kind == "all-gather" and ROWS_OF_ALL not in c.source:
            gathered[sides(c.dims)] = max(gathered[sides(c.dims)], c.bytes)
    return {
        name: gathered[sides(shape)]
        for name, (shape, by_fsdp) in parameters.items()
        if not by_fsdp and sides(shape) in gathered
    }


def _groups(rest: str, devices: int) -> list[list[int]]:
    """The devices of a group, by their places in the mesh, others being alike; of a permutation all
    pairs of one and whom it sends to. `devices`: of all, where no group is written."""
    if pairs := re.search(r"source_target_pairs=\{([{}\d,]*)\}", rest):
        return [_whole(pair) for pair in re.findall(r"\{([\d,]+)\}", pairs[1])]
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return [_whole(match[1])]
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=(\S+?),? ", f"{rest} "):
        return [_order(match[2]).reshape(_whole(match[1]))[0].tolist()]
    named = r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((\S+)\))? \{([^}]*)\}"
    if match := re.search(named, rest):
        sizes = {axis: int(n) for axis, n in re.findall(r"'([\w.\-:]+)'=(\d+)", match[1])}
        order = _order(match[2]) if match[2] else np.arange(math.prod(sizes.values()))
        order = order.reshape(list(sizes.values()))
        # An axis, or a part of one: 'axis_0' or 'axis_0':(before)size.
        taken = {axis: np.zeros(1, np.int64) for axis in sizes}
        for axis, before, part in re.findall(r"'([\w.\-]+)'(?::\((\d+)\)(\d+))?", match[3]):
            step = sizes[axis] // (int(before) * int(part)) if part else 1
            at = step * np.arange(int(part or sizes[axis]))
            taken[axis] = np.add.outer(taken[axis], at).ravel()
        return [order[np.ix_(*taken.values())].ravel().tolist()]
    return [list(range(devices)) if "replica_groups={}" in rest else [0, 1]]


def _whole(numbers: str) -> list[int]:
    return [int(n) for n in numbers.split(",")]


def _order(text: str) -> np.ndarray:
    """Of devices: '[2,4]T(1,0)', or a list."""
    match = re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if match is None:
        return np.array(_whole(text))
    dims, turned = _whole(match[1]), _whole(match[2]) if match[2] else None
    return np.arange(math.prod(dims)).reshape(dims).transpose(turned).ravel()


def _axes(groups: list[list[int]], mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Those along which the places of a group differ."""
    differ = set()
    for group in groups:
        places = np.unravel_index(group, tuple(mesh.values()))
        differ |= {a for a, at in zip(mesh, places, strict=True) if len(set(at.tolist())) > 1}
    return tuple(axis for axis in mesh if axis in differ)
