"""A compiled module's text: its computations, and how often each runs.

A TPU's text gives no trip counts, so they are read off the constant that the loop's condition
compares with and what the body adds; where that fails the count is the caller's to give. Of
branches the one counts that sends most to other devices; of those that send as much the first, or
what runs where the predicate is false: the program has its usual case there.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re

COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute",
)  # fmt: skip
BYTES = {
    "pred": 1, "s4": 1, "u4": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2,
    "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip
STARTS = 'custom_call_target="AsyncCollectiveStart"'
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.+?) ([\w\-]+)\((.*)$", re.M)
_CALLEES = re.compile(r"(?:to_apply|calls|called_computations)=\{?%?([\w.\-]+)")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """One of an instruction's results."""

    kind: str
    dims: tuple[int, ...]
    on_chip: bool = False  # in a memory of the chip's own, not in HBM

    @property
    def bytes(self) -> int:
        return BYTES.get(self.kind, 0) * math.prod(self.dims)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`rest`: operands and attributes, as written."""

    name: str
    shape: str
    op: str
    rest: str
    root: bool

    @functools.cached_property
    def arrays(self) -> list[Array]:
        return [
            Array(kind, tuple(int(d) for d in dims.split(",") if d), "S(" in layout)
            for kind, dims, layout in _ARRAY.findall(self.shape)
        ]

    @functools.cached_property
    def operands(self) -> list[str]:
        depth = 1
        for end, char in enumerate(self.rest):
            depth += (char == "(") - (char == ")")
            if not depth:
                return _NAME.findall(self.rest[:end])
        return _NAME.findall(self.rest)

    @functools.cached_property
    def callees(self) -> list[str]:
        return _CALLEES.findall(self.rest)

    @property
    def collective(self) -> str | None:
        """Its kind, if it sends something or begins to."""
        kind = self.op.removesuffix("-start")
        return kind if kind in COLLECTIVES else None


Computation = list[Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
    """`times`: runs of each computation in one run of the program, the parts of fusions left out;
    `unread`: the names of the loops that run whose length is not in the text."""

    computations: dict[str, Computation]
    times: dict[str, int]
    unread: tuple[str, ...]


def read(text: str, default_trips: int = 1) -> Module:
    """Of the text of a compiled module. Loops whose length is not to be read count as often as
    `default_trips`."""
    bodies, entry = _computations(text)
    unread: list[str] = []

    @functools.cache
    def trips(condition: str, body: str, name: str, known: str | None) -> int:
        found = int(known) if known else _trips(bodies.get(condition, []), bodies.get(body, []))
        if not found:
            unread.append(name)
        return found or default_trips

    def runs(name: str) -> collections.Counter[str]:
        """Of those that are run by `name`, itself counted once."""
        out = collections.Counter({name: 1})
        for i in bodies.get(name, ()):
            if i.op == "while":
                condition, body = (
                    re.search(rf"{part}=%?([\w.\-]+)", i.rest)[1]  # pyright: ignore
                    for part in ("condition", "body")
                )
                known = re.search(r"known_trip_count[^\d]*(\d+)", i.rest)
                count = trips(condition, body, i.name, known and known[1])
                for callee, inner in runs(body).items():
                    out[callee] += inner * count
            elif i.op == "conditional":
                out += max(map(runs, _branches(i.rest)), key=moved, default=collections.Counter())
            elif i.op in ("call", "async-start"):
                for callee in i.callees:
                    out += runs(callee)
            elif i.op == "fusion":
                for callee in i.callees:
                    if starts(bodies.get(callee, [])):
                        out += runs(callee)
        return out

    def moved(found: collections.Counter[str]) -> int:
        return sum(
            count * max((a.bytes for a in i.arrays), default=0)
            for name, count in found.items()
            for i in bodies.get(name, ())
            if i.collective
        )

    times = runs(entry)
    return Module(bodies, dict(times), tuple(unread))


def starts(computation: Computation) -> bool:
    """Whether a fusion of these instructions starts a collective that others take on."""
    return any(i.op == "custom-call" and STARTS in i.rest for i in computation)


def _computations(text: str) -> tuple[dict[str, Computation], str]:
    """By name, and the name of the entry."""
    out: dict[str, Computation] = {}
    name, entry = None, ""
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" ") and "=" not in line.split("(")[0]:
            name = line.removeprefix("ENTRY ").lstrip("%").split(" ")[0].split("(")[0]
            out[name] = []
            if line.startswith("ENTRY"):
                entry = name
        elif name is not None and (match := _INSTRUCTION.match(line)):
            root, *rest = match.groups()
            out[name].append(Instruction(*rest, root=bool(root)))
    return out, entry


def _branches(rest: str) -> list[str]:
    listed = re.search(r"branch_computations=\{([^}]*)\}", rest)
    if listed:
        return [name.strip().lstrip("%") for name in listed[1].split(",")]
    found = (re.search(rf"{which}_computation=%?([\w.\-]+)", rest) for which in ("false", "true"))
    return [match[1] for match in found if match]


def _trips(condition: Computation, body: Computation) -> int:
    """Of a loop that counts from 0: the one constant that its condition compares with, over what a
    run adds to the count; 0 if there is not just one."""
    ends = {_constant(i) for i in condition} - {None}
    if len(ends) != 1:
        return 0
    end = ends.pop()
    assert end is not None
    return -(-end // _step(condition, body))


def _step(condition: Computation, body: Computation) -> int:
    """What a run of the body adds to the one number that the condition looks at; 1 if that is not
    to be read."""
    seen = [re.search(r"index=(\d+)", i.rest) for i in condition if i.op == "get-tuple-element"]
    by_name = {i.name: i for i in body}
    root = next((i for i in body if i.root and i.op == "tuple"), None)
    if root is None or len(seen) != 1 or seen[0] is None:
        return 1
    at = int(seen[0][1])
    made = by_name.get(root.operands[at]) if at < len(root.operands) else None
    if made is None or made.op != "add":
        return 1
    added = [_constant(by_name[n]) for n in made.operands if n in by_name]
    return next((n for n in added if n), 1)


def _constant(i: Instruction) -> int | None:
    """The whole number that it is, if it is one."""
    whole = i.op == "constant" and re.match(r"[su]32\[\]", i.shape)
    found = re.match(r"(\d+)\)", i.rest) if whole else None
    return int(found[1]) if found else None
