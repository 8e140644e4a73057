"""What the compiled text says about communication.

Collectives are counted once a run of the program: those inside a loop as often as the loop runs. A
TPU's text gives no trip counts, so they are read off the constant that the loop's condition
compares with; where that fails the count is the caller's to give. Of branches the one counts that
moves most.

An all-gather that goes on beside computation is spread over fusions of a TPU's text: one starts it,
others take it on while they compute something else, one ends it. It is counted where it starts.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all",
         "collective-permute")  # fmt: skip
BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4,
    "f32": 4, "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip
COMPUTES = ("fusion", "custom-call", "convolution", "dot", "while", "conditional", "call", "sort")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([\w\-]+)\((.*)$", re.M)
_CALLEES = re.compile(r"(?:to_apply|calls|called_computations)=\{?%?([\w.\-]+)")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """bytes: of the larger of what one device puts in and gets out; group: devices that take part
    together; times: runs in one run of the program; loop: whether it stands in one."""

    kind: str
    bytes: int
    group: int
    times: int
    asynchronous: bool


STARTS = 'custom_call_target="AsyncCollectiveStart"'


def collectives(text: str, default_trips: int = 1) -> list[Collective]:
    """All collectives of the text of a compiled module."""
    bodies = _computations(text)
    times = _times(bodies, default_trips)
    out = []
    for name, instructions in bodies.items():
        begun = _starts(instructions)
        for at, (own, shape, op, rest) in enumerate(instructions):
            kind = op.removesuffix("-start")
            if kind not in KINDS or not times.get(name):
                continue
            group = _group_size(rest)
            arrays = [_size(*a) for a in _ARRAY.findall(shape)]
            size = max(arrays, default=0)
            if kind == "reduce-scatter":  # its result is the smaller side
                size *= group
            beside = begun or op.endswith("-start") and _computes(own, instructions[at + 1 :])
            out.append(Collective(kind, size, group, times[name], beside))
    return out


def _computes(started: str, after) -> bool:
    """Whether anything is computed between a collective's start and its end; a compiled text is in
    the order in which it runs."""
    for _, _, op, rest in after:
        if op.endswith("-done") and re.search(rf"%?{re.escape(started)}[,)]", rest):
            return False
        if op in COMPUTES:
            return True
    return False


def _starts(instructions) -> bool:
    """Whether a fusion of these instructions starts a collective that others take on."""
    return any(op == "custom-call" and STARTS in rest for _, _, op, rest in instructions)


def by_kind(found: list[Collective]) -> dict[str, dict[str, float]]:
    """Kind -> count of runs and bytes of one device."""
    out: dict[str, dict[str, float]] = collections.defaultdict(lambda: {"count": 0, "bytes": 0})
    for c in found:
        out[c.kind]["count"] += c.times
        out[c.kind]["bytes"] += c.times * c.bytes
    return dict(out)


def _computations(text: str) -> dict[str, list[tuple[str, str, str, str]]]:
    out: dict[str, list] = {}
    name = None
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" ") and "=" not in line.split("(")[0]:
            head = line.removeprefix("ENTRY ").lstrip("%").split(" ")[0].split("(")[0]
            name = head
            out[name] = []
            if line.startswith("ENTRY"):
                out["ENTRY"] = out[name]
        elif name is not None and (match := _INSTRUCTION.match(line)):
            out[name].append(match.groups())
    return out


def _times(bodies: dict, default_trips: int) -> dict[str, int]:
    """Runs of each computation in one run of the entry, which is listed under its own name."""
    entry = next(n for n, body in bodies.items() if n != "ENTRY" and body is bodies["ENTRY"])

    def runs(name: str) -> collections.Counter[str]:
        """Of those that are run by `name`, itself counted once."""
        out = collections.Counter({name: 1})
        for _, _, op, rest in bodies.get(name, ()):
            if op == "while":
                condition = re.search(r"condition=%?([\w.\-]+)", rest)
                body = re.search(r"body=%?([\w.\-]+)", rest)
                known = re.search(r"known_trip_count[^\d]*(\d+)", rest)
                trips = int(known[1]) if known else _trips(bodies.get(condition[1], ()))  # pyright: ignore
                for callee, count in runs(body[1]).items():  # pyright: ignore
                    out[callee] += count * (trips or default_trips)
            elif op == "conditional":
                out += max(map(runs, _branches(rest)), key=moved, default=collections.Counter())
            elif op in ("call", "async-start"):
                for callee in _CALLEES.findall(rest):
                    out += runs(callee)
            elif op == "fusion":
                for callee in _CALLEES.findall(rest):
                    if _starts(bodies.get(callee, ())):
                        out += runs(callee)
        return out

    def moved(found: collections.Counter[str]) -> int:
        return sum(
            count * max((_size(*a) for a in _ARRAY.findall(shape)), default=0)
            for name, count in found.items()
            for _, shape, op, _ in bodies.get(name, ())
            if op.removesuffix("-start") in KINDS
        )

    return runs(entry)


def _branches(rest: str) -> list[str]:
    listed = re.search(r"branch_computations=\{([^}]*)\}", rest)
    if listed:
        return [name.strip().lstrip("%") for name in listed[1].split(",")]
    return re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", rest)


def _trips(condition) -> int:
    """The constant that a counting loop's condition compares with; 0 if there is not just one."""
    constants = {int(rest.split(")")[0]) for _, shape, op, rest in condition
                 if op == "constant" and shape.startswith("s32[]")}  # fmt: skip
    return constants.pop() if len(constants) == 1 else 0


def _group_size(rest: str) -> int:
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(match[2])
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'([\w.\-:]+)'=(\d+)", match[1]))
        # An axis, or a part of one: 'axis_0' or 'axis_0':(before)size.
        named = re.findall(r"'([\w.\-]+)'(?::\(\d+\)(\d+))?", match[2])
        return math.prod(int(part or sizes[axis]) for axis, part in named)
    return 2  # a permutation: from one to another


def _size(kind: str, dims: str) -> int:
    return BYTES.get(kind, 0) * math.prod(int(d) for d in dims.split(",") if d)
