"""What the compiled text says about memory: bytes between HBM and a device in one run.

Each instruction reads its operands and writes its results, as often as it runs; what lies in the
chip's own memory is free there. Of what is sliced, gathered or updated in place only that part
counts, also where a fusion does it. Kernels (Mosaic) count as if they read and wrote all that they
are given, once. Padding to tiles is left out.
"""

from __future__ import annotations

import re

from tmi.aot.text import Array, Computation, Instruction, Module

FREE = (
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "add-dependency", "opt-barrier", "partition-id", "replica-id",
    "async-start", "async-update", "async-done",
)  # fmt: skip
FREE_CALLS = ("AllocateBuffer", "AsyncCollectiveStart", "AsyncCollectiveDone")
SLICES = ("dynamic-slice", "slice", "gather")
UPDATES = {"dynamic-update-slice": 1, "scatter": 2}  # and which operand is what is new


def hbm_bytes(module: Module) -> int:
    """Of one device, of all that runs in one run of the program."""
    total = 0
    for name, times in module.times.items():
        body = module.computations.get(name, [])
        by_name = {i.name: i for i in body}
        total += times * sum(_moved(module, i, by_name) for i in body)
    return total


def _moved(module: Module, i: Instruction, by_name: dict[str, Instruction]) -> int:
    free_call = i.op == "custom-call" and any(f'"{c}"' in i.rest for c in FREE_CALLS)
    if i.op in FREE or i.op.endswith("-done") or free_call:
        return 0
    given = [by_name[n].arrays if n in by_name else [] for n in i.operands]
    made = i.arrays[:1] if i.op == "copy-start" else i.arrays
    op = i.op.removesuffix("-start")
    if op in SLICES:
        if op != i.op:  # what is given comes first, then what is made
            made = made[len(i.operands) : len(i.operands) + 1]
        return _in_hbm(made) + sum(a.bytes for a in made if given and _in_hbm(given[0]))
    if i.op in UPDATES:
        part = given[UPDATES[i.op]]
        return _in_hbm(part) + sum(a.bytes for a in part if _in_hbm(made))
    if i.collective and i.op.endswith("-start"):
        made = made[len(made) // 2 :]  # what is given comes first
    if i.op != "fusion" or not i.callees:
        moved = sum(map(_in_hbm, given)) + _in_hbm(made)
        said = re.search(r'"bytes_accessed":"(\d+)"', i.rest) if i.op == "custom-call" else None
        return min(moved, int(said[1])) if said else moved
    inner = module.computations.get(i.callees[0], [])
    reads = sum(
        min(_in_hbm(arrays), _read(module, inner, number)) for number, arrays in enumerate(given)
    )
    written = _written(module, inner)
    if len(written) != len(made):
        return reads + _in_hbm(made)
    return reads + sum(n for n, a in zip(written, made, strict=True) if not a.on_chip)


def _in_hbm(arrays: list[Array]) -> int:
    return sum(a.bytes for a in arrays if not a.on_chip)


def _size(i: Instruction) -> int:
    return sum(a.bytes for a in i.arrays)


def _read(module: Module, inner: Computation, number: int) -> int:
    """How much a fusion reads of the operand of that number, at most all of it."""
    own = next((i for i in inner if i.op == "parameter" and i.rest.startswith(f"{number})")), None)
    return _of(module, inner, own) if own else 0


def _of(module: Module, inner: Computation, own: Instruction) -> int:
    """How much the users of `own` read of it."""
    by_name = {i.name: i for i in inner}
    total = 0
    for user in inner:
        if own.name not in user.operands:
            continue
        at = user.operands.index(own.name)
        if user.op == "tuple" or user.collective:
            continue  # passed on; what is sent is counted where that starts
        if user.op == "bitcast":
            total += _of(module, inner, user)
        elif user.op in SLICES and at == 0:
            total += _size(user)
        elif user.op in UPDATES and at == 0:
            new = by_name.get(user.operands[UPDATES[user.op]])
            total += _size(new) if new and user.op == "scatter" else 0
        elif user.op == "fusion" and user.callees:
            nested = module.computations.get(user.callees[0], [])
            total += _of(module, inner, user) if _passes(nested, at) else _read(module, nested, at)
        else:
            return _size(own)
    return min(total, _size(own))


def _passes(inner: Computation, number: int) -> bool:
    """Whether a fusion's result is its operand of that number in another shape."""
    by_name = {i.name: i for i in inner}
    at = next((i for i in inner if i.root), None)
    while at is not None and at.op == "bitcast":
        at = by_name.get(at.operands[0])
    return at is not None and at.op == "parameter" and at.rest.startswith(f"{number})")


def _written(module: Module, inner: Computation) -> list[int]:
    """How much a fusion writes of each of its results."""
    by_name = {i.name: i for i in inner}

    def of(i: Instruction | None) -> int:
        if i is None or i.op == "parameter" or i.collective:
            return 0
        if i.op == "bitcast":
            return of(by_name.get(i.operands[0]))
        if i.op in UPDATES:
            new = by_name.get(i.operands[UPDATES[i.op]])
            return _size(new) if new else 0
        if i.op == "fusion" and i.callees:
            return sum(_written(module, module.computations.get(i.callees[0], [])))
        return _size(i)

    root = next((i for i in inner if i.root), None)
    if root is None:
        return []
    return [of(by_name.get(n)) for n in root.operands] if root.op == "tuple" else [of(root)]
