"""Low-rank changes of weights (LoRA, arXiv 2106.09685): W + alpha / rank * up down, of attention
and experts.

The change is added to the weights, not to the products: every product, exchange of experts and
decoder sees plain weights, and a model that is done with training is one without LoRA. It costs the
gradient of the whole matrix where the textbook's form does not, and saves optimizer state as that
does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from tmi.config import Config, ModelConfig
from tmi.models.layers import Param

DOWN, UP = "_lora_down", "_lora_up"  # behind the name of the weight that they change


def is_lora(name: str) -> bool:
    return name.endswith((DOWN, UP))


def attach(module: nnx.Module, names: tuple[str, ...], c: ModelConfig, key: Array) -> None:
    """Gives weights [.., out, in] of `module` factors `up` [.., out, rank], zero to begin with, and
    `down` [.., rank, in]."""
    if not c.lora_rank:
        return
    for i, name in enumerate(n for n in names if hasattr(module, n)):
        weight = getattr(module, name)
        *lead, out, inner = weight.shape
        *lead_axes, out_axis, in_axis = weight.get_metadata()["axes"]
        down = jax.random.normal(jax.random.fold_in(key, i), (*lead, c.lora_rank, inner))
        up = jnp.zeros((*lead, out, c.lora_rank), jnp.float32)
        setattr(module, name + DOWN, Param(down / inner**0.5, axes=(*lead_axes, None, in_axis)))
        setattr(module, name + UP, Param(up, axes=(*lead_axes, out_axis, None)))


def change(c: ModelConfig, up: Float[Array, "*n o r"], down: Float[Array, "*n r i"]) -> Array:
    return jnp.einsum("...or,...ri->...oi", up, down) * (c.lora_alpha / c.lora_rank)


def merge(module, c: ModelConfig):
    """The module with its changes added to its weights."""
    if not c.lora_rank:
        return module
    leaves, treedef = jax.tree_util.tree_flatten_with_path(
        module, is_leaf=lambda v: isinstance(v, nnx.Variable)
    )
    by_name = {".".join(str(getattr(k, "name", k)) for k in path): v for path, v in leaves}
    out = []
    for name, v in by_name.items():
        if name + UP in by_name:
            v = v.replace(v[...] + change(c, by_name[name + UP][...], by_name[name + DOWN][...]))
        out.append(v)
    return jax.tree.unflatten(treedef, out)


def merged(config: Config, params: Mapping[str, Array]) -> tuple[Config, dict[str, Array]]:
    """The same model without LoRA: its config, and its arrays by name."""
    if not config.model.lora_rank:
        return config, dict(params)
    out = {}
    for name, x in params.items():
        if name + UP in params:
            x = x + change(config.model, params[name + UP], params[name + DOWN])
        if not is_lora(name):
            out[name] = x
    model = dataclasses.replace(config.model, lora_rank=0)
    optimizer = dataclasses.replace(config.optimizer, trainable=("all",))
    return dataclasses.replace(config, model=model, optimizer=optimizer), out
