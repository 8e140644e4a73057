"""Devices as a mesh, and where parameters, state and batches lie on it (the table: tmi/mesh.py)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from tmi.config import MESH_AXES, Config, ConfigError
from tmi.mesh import RULES, SERVING, ShardingRules
from tmi.models import tree


def make_mesh(config: Config) -> Mesh:
    """The mesh of sizes train.mesh over the first devices.

    Raises ConfigError if there are too few devices, or if processes would be left out.
    """
    sizes = config.train.mesh
    need, devices = math.prod(sizes), jax.devices()
    if need > len(devices):
        raise ConfigError(
            f"config.train.mesh={sizes!r} cannot work: it needs {need} devices for {MESH_AXES}, "
            f"here {'is' if len(devices) == 1 else 'are'} {len(devices)}"
        )
    if jax.process_count() > 1 and need != len(devices):
        raise ConfigError(
            f"config.train.mesh={sizes!r} cannot work: with {jax.process_count()} processes a "
            f"product of {len(devices)}, all their devices, is accepted"
        )
    kinds = (AxisType.Auto,) * len(MESH_AXES)
    return jax.make_mesh(sizes, MESH_AXES, axis_types=kinds, devices=devices[:need])


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_shardings(config: Config, mesh: Mesh, rules: ShardingRules = RULES) -> NamedSharding:
    """Of every array of a batch: rows over the batch axes that divide them, the rest whole."""
    return NamedSharding(mesh, rules.spec(("batch",), (config.data.batch_size,), mesh))


@functools.lru_cache(maxsize=8)
def param_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Of every parameter by name, without making one."""
    made = jax.eval_shape(functools.partial(tree.fresh, config), jax.random.key(0))
    return {n: tuple(x.shape) for n, x in made.items()}


def param_shardings(
    config: Config, mesh: Mesh, rules: ShardingRules = RULES
) -> dict[str, NamedSharding]:
    """Of every parameter by name, from the axes that its module gave it."""
    axes = tree.logical_axes(config)
    shapes = param_shapes(config)
    return {n: NamedSharding(mesh, rules.spec(axes[n], shapes[n], mesh)) for n in axes}


def state_shardings(
    config: Config, state: PyTree, mesh: Mesh, rules: ShardingRules = RULES
) -> PyTree:
    """Of a pytree whose leaves lie in dicts keyed by parameter name, as an optimizer's state does.

    A leaf goes where the parameter of its name goes if their shapes agree; others are replicated.
    """
    params, shapes = param_shardings(config, mesh, rules), param_shapes(config)

    def place(path: tuple, leaf) -> NamedSharding:
        for key in path:
            name = getattr(key, "key", None)
            if name in params and tuple(leaf.shape) == shapes[name]:
                return params[name]
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, state)


def session_shardings(
    state: PyTree, slots: int, mesh: Mesh, rules: ShardingRules = SERVING
) -> PyTree:
    """Of what `slots` sessions carry while they decode: sessions over the batch axes, their keys
    and values (all that has four dimensions) over heads too; anything else is replicated."""

    def place(x) -> NamedSharding:
        axes: tuple[str | None, ...] = (None,) * x.ndim
        if x.shape[:1] == (slots,):
            axes = ("batch", "kv_heads" if x.ndim == 4 else None, *axes[2:])[: x.ndim]
        return NamedSharding(mesh, rules.spec(axes, x.shape, mesh))

    return jax.tree.map(place, state)


def host_rows(config: Config, mesh: Mesh) -> list[int]:
    """Rows of a batch that lie on this process' devices, ascending. Processes share rows where an
    axis that does not divide them (expert, sequence, tensor) reaches over several."""
    size = config.data.batch_size
    parts = batch_shardings(config, mesh).addressable_devices_indices_map((size,)).values()
    return sorted({row for part in parts if part for row in range(size)[part[0]]})


def put_batch(
    batch: dict[str, np.ndarray], sharding: NamedSharding, rows: Sequence[int], size: int
) -> dict[str, jax.Array]:
    """The global batch of `size` rows, of which this process has `rows` in `batch`: its
    `host_rows` at least."""
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    at = {row: i for i, row in enumerate(rows)}

    def place(x: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            return x[[at[row] for row in range(size)[index[0] if index else slice(None)]]]

        return jax.make_array_from_callback((size, *x.shape[1:]), sharding, part)

    return {k: place(v) for k, v in batch.items()}
