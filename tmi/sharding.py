"""Devices as a mesh, and where parameters, state and batches lie on it (the table: tmi/mesh.py)."""

from __future__ import annotations

import functools
import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from tmi.config import MESH_AXES, Config, ConfigError
from tmi.mesh import RULES, ShardingRules
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
    made = jax.eval_shape(functools.partial(tree.init, config), jax.random.key(0))
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


def put_batch(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """The global batch of which each process gives its own rows."""
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def own_rows(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """This process' rows of a batch that every process holds whole."""
    n, h = jax.process_count(), jax.process_index()
    return {k: v[h * len(v) // n : (h + 1) * len(v) // n] for k, v in batch.items()}
