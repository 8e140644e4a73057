"""Which logical axis of an array lies on which axis of the mesh: one table for parameters,
activations and caches."""

from __future__ import annotations

import contextvars
import dataclasses
import math
from collections.abc import Callable

import jax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import Array

Axes = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class ShardingRules:
    """Logical axis -> mesh axis or axes; None: not divided.

    The expert axis divides batches and dense weights as well: what is no expert sees data x fsdp x
    expert devices that are all alike.
    """

    batch: Axes = ("data", "fsdp", "expert")
    seq: Axes = "sequence"
    embed: Axes = ("fsdp", "expert")
    heads: Axes = "tensor"
    kv_heads: Axes = "tensor"
    head_dim: Axes = None
    mlp: Axes = "tensor"
    bank_mlp: Axes = ("tensor", "fsdp", "expert")
    experts: Axes = "expert"
    vocab: Axes = "tensor"
    layers: Axes = None
    # Attention of rows whose sequence is divided: heads over its axis in place of positions.
    attended_heads: Axes = ("tensor", "sequence")

    def spec(
        self, axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh | AbstractMesh
    ) -> PartitionSpec:
        """Where an array's dimensions go.

        A dimension lies on the most of its mesh axes, the first ones first, that no earlier
        dimension took and that divide it: sharding changes where things are, never what is
        computed.
        """
        taken: set[str] = set()
        out: list[Axes] = []
        for name, size in zip(axes, shape, strict=True):
            target = getattr(self, name) if name else None
            group = (target,) if isinstance(target, str) else tuple(target or ())
            group = [a for a in group if a not in taken and mesh.shape[a] > 1]
            while group and size % math.prod(mesh.shape[a] for a in group):
                group.pop()
            taken |= set(group)
            out.append(group[0] if len(group) == 1 else tuple(group) or None)
        return PartitionSpec(*out)


RULES = ShardingRules()
# Decoding has few rows and reads all weights for each: they stay whole, or divided over 'tensor'
# and 'expert', where they are multiplied, and rows travel.
SERVING = dataclasses.replace(RULES, embed=None, bank_mlp="tensor")

_rules = contextvars.ContextVar("rules", default=RULES)
_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def on(mesh: Mesh, function: Callable, rules: ShardingRules = RULES) -> Callable:
    """`function`, traced with `mesh` as the current one, for its devices, and `rules` for what lies
    where."""

    def traced(*args, **kwargs):
        before = _rules.set(rules), _platform.set(mesh.devices.flat[0].platform)
        try:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return function(*args, **kwargs)
        finally:
            _rules.reset(before[0])
            _platform.reset(before[1])

    return traced


def current_rules() -> ShardingRules:
    """Those that `on` set; RULES if it set none."""
    return _rules.get()


def current() -> AbstractMesh | None:
    """The mesh that `on` set; None if there is none, or it has one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 else mesh


def divides(axis: str) -> bool:
    """Whether the current mesh has several devices along one of its axes."""
    mesh = current()
    return mesh is not None and mesh.shape[axis] > 1


def platform() -> str:
    """What the traced program is for: the devices of the mesh that `on` set, which need not be this
    machine's, or those on which jax computes by default."""
    return _platform.get() or jax.default_backend()


def one_cpu() -> bool:
    """Whether what is traced runs on a CPU alone, whose loops are as fast as batches."""
    return current() is None and platform() == "cpu"


def constrain(x: Array, *axes: str | None) -> Array:
    """`x` laid over the current mesh by its logical axes; `x` itself without a mesh."""
    mesh = current()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, current_rules().spec(axes, x.shape, mesh))
