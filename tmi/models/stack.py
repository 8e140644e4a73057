"""Layers that are alike, with their weights stacked: a loop over them is compiled once.

A model of 42 layers, every sixth global, is [2 dense, 3 sliding, 1 global] and then six times
[5 sliding, 1 global]: two segments, five bodies. Decoding goes layer by layer, each with its own
cache, and takes the weights unstacked.
"""

from __future__ import annotations

import itertools
import typing
from collections.abc import Callable, Mapping, Sequence

import jax
from flax import nnx
from jaxtyping import Array

PREFIX = "transformer.layers."


class Segment(typing.NamedTuple):
    """`groups` repetitions of runs of equal layers: (how many, of which kind) each."""

    groups: int
    runs: tuple[tuple[int, typing.Any], ...]


def runs_of(kinds: Sequence[typing.Any]) -> tuple[tuple[int, typing.Any], ...]:
    return tuple((len(list(group)), kind) for kind, group in itertools.groupby(kinds))


def plan(kinds: Sequence[typing.Any]) -> list[Segment]:
    """The segments of layers of these kinds with the fewest bodies: a beginning of its own, and a
    period that fills the rest."""
    best: list[Segment] = [Segment(1, runs_of(kinds))]
    bodies = len(best[0].runs)
    for start in range(len(kinds)):
        rest = kinds[start:]
        for period in range(1, len(rest) // 2 + 1):
            if len(rest) % period or any(a != b for a, b in zip(rest, rest[period:], strict=False)):
                continue
            head, body = runs_of(kinds[:start]), runs_of(rest[:period])
            if len(head) + len(body) < bodies:
                bodies = len(head) + len(body)
                tail = Segment(len(rest) // period, body)
                best = [Segment(1, head), tail] if head else [tail]
    return best


def places(segments: Sequence[Segment]) -> list[tuple[int, int, int, int]]:
    """(segment, run, group, index) of each layer, in order."""
    return [
        (s, r, g, i)
        for s, segment in enumerate(segments)
        for g in range(segment.groups)
        for r, (count, _) in enumerate(segment.runs)
        for i in range(count)
    ]


class Runs(nnx.Module):
    """The layers of a segment: one module a run, its arrays [groups, count, ...]."""

    def __init__(self, segment: Segment, make: Callable, key: Array):
        keys = jax.random.split(key, len(segment.runs))
        self.runs = nnx.List([
            jax.vmap(jax.vmap(lambda k, kind=kind: make(kind, k)))(
                jax.random.split(k, (segment.groups, count))
            )
            for (count, kind), k in zip(segment.runs, keys, strict=True)
        ])  # fmt: skip


def scan(modules: Sequence[nnx.Module], step: Callable, x: Array) -> tuple[Array, list]:
    """x through all layers of a segment. `step(layer, x, r)` -> (x, aux) of run r; the auxes come
    back [groups, count, ...] for each run."""

    def group(x, layers):
        auxes = []
        for r, layer in enumerate(layers):
            x, aux = jax.lax.scan(lambda x, one, r=r: step(one, x, r), x, layer)
            auxes.append(aux)
        return x, auxes

    return jax.lax.scan(group, x, list(modules))


def unstacked(segments: Sequence[Segment], params: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays by name with a name for each layer: 'transformer.segments.S.runs.R.NAME' [G, N, ...]
    become 'transformer.layers.I.NAME'."""
    out = {n: x for n, x in params.items() if not n.startswith("transformer.segments.")}
    for i, (s, r, g, k) in enumerate(places(segments)):
        prefix = f"transformer.segments.{s}.runs.{r}."
        for name, x in params.items():
            if name.startswith(prefix):
                out[f"{PREFIX}{i}.{name.removeprefix(prefix)}"] = x[g, k]
    return out
