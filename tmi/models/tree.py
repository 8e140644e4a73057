"""A model's arrays by name: {'transformer.layers.0.attention.q': array, ...}, for optimizer,
checkpoint and sharding."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax
from flax import nnx
from jaxtyping import Array

from tmi import compiled, mesh
from tmi.config import Config
from tmi.models import lora, moe, stack, transformer
from tmi.models.interaction import InteractionModel
from tmi.models.layers import Balance, Turned, in_dtype

# Weights that decoding reads in products for few rows, and those of experts.
TURNED = (
    ".joint", ".out", ".up", ".down", ".shared_down", "dmel.table", "dmel.merge", "dmel.project",
    "unembed.table",
)  # fmt: skip
TURNED_EXPERTS = (".mlp.gate", ".mlp.up", ".mlp.down")


def _name(path) -> str:
    parts = [str(getattr(k, "name", getattr(k, "idx", k))) for k in path]
    return ".".join(parts)


def _variables(model) -> list[tuple[str, nnx.Variable]]:
    leaves = jax.tree_util.tree_leaves_with_path(
        model, is_leaf=lambda x: isinstance(x, nnx.Variable)
    )
    return [(_name(path), v) for path, v in leaves]


@functools.lru_cache(maxsize=8)
def skeleton(config: Config) -> InteractionModel:
    """The model with shapes in place of arrays."""
    return jax.eval_shape(lambda: InteractionModel(config, jax.random.key(0)))


@functools.lru_cache(maxsize=8)
def names(config: Config) -> tuple[str, ...]:
    return tuple(name for name, _ in _variables(skeleton(config)))


def trained_names(config: Config) -> list[str]:
    """Those a gradient moves; the others are the routers' balancing biases."""
    return [name for name, v in _variables(skeleton(config)) if not isinstance(v, Balance)]


def logical_axes(config: Config) -> dict[str, tuple]:
    """Axes of stacked layers go before those that a module gave."""
    out = {}
    for name, v in _variables(skeleton(config)):
        axes = v.get_metadata()["axes"]
        out[name] = ("layers",) * (len(v.shape) - len(axes)) + tuple(axes)
    return out


def arrays(model: InteractionModel) -> dict[str, Array]:
    return {name: v[...] for name, v in _variables(model)}


def build(config: Config, params: Mapping[str, Array]) -> InteractionModel:
    """The model with these arrays. Raises KeyError naming what is missing or unknown."""
    expected = names(config)
    missing, unknown = sorted(set(expected) - set(params)), sorted(set(params) - set(expected))
    if missing or unknown:
        raise KeyError(f"parameters missing: {missing[:5]}, unknown: {unknown[:5]}")
    treedef = jax.tree.structure(skeleton(config))
    return jax.tree.unflatten(treedef, [params[n] for n in expected])


def served(config: Config, params: Mapping[str, Array]) -> InteractionModel:
    """The model with these arrays as decoding reads them: in the dtype that training computes in,
    what shares an input together."""
    model = in_dtype(build(config, params), config.model.dtype)
    for block in model.transformer.layers:
        block.attention.join()
        block.mlp.join()
    if config.model.numerics != "fast" or not mesh.one_cpu():
        return model

    def turned(path, v):
        name = _name(path)
        bank = name.endswith(TURNED_EXPERTS) and len(v.shape) == 3
        if moe.reads_all(config.model) if bank else name.endswith(TURNED):
            return v.replace(Turned.of(v[...]))
        return v

    return jax.tree_util.tree_map_with_path(
        turned, model, is_leaf=lambda v: isinstance(v, nnx.Variable)
    )


def fresh(config: Config, key: Array) -> dict[str, Array]:
    """Fresh arrays by name."""
    return arrays(InteractionModel(config, key))


def init(config: Config, key: Array) -> dict[str, Array]:
    """As `fresh`, compiled."""
    return _compiled(config)(key)


@functools.lru_cache(maxsize=8)
def _compiled(config: Config):
    return compiled.once(functools.partial(fresh, config))


def layer_by_layer(config: Config, params: Mapping[str, Array]) -> tuple[Config, dict[str, Array]]:
    """The same model with weights of their own for each layer and none that change others, as
    decoding and published checkpoints have them."""
    config, params = lora.merged(config, params)
    if not config.model.scan_layers:
        return config, params
    model = dataclasses.replace(config.model, scan_layers=False)
    segments = stack.plan(transformer.kinds(config))
    return dataclasses.replace(config, model=model), stack.unstacked(segments, params)
