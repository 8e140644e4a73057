"""Logits of a checkpoint from the arrays that the published model's own forward takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from tmi.config import Config
from tmi.interop.tensors import InteropError
from tmi.models import tree
from tmi.models.attention import NEAR_BLOCK, additive, attend, time_of, toeplitz
from tmi.models.interaction import InteractionModel
from tmi.models.layers import dot
from tmi.sharding import param_shapes

INPUTS = ("input_ids", "attention_mask", "pixel_values", "audio_input_ids", "audio_input_ids_mask")


def with_context(config: Config, positions: int) -> Config:
    """The same model with global layers that see `positions` positions and hardly more: a cache
    holds all that they see."""
    blocks = -(-positions // config.microturn.kv_block)
    return dataclasses.replace(
        config, model=dataclasses.replace(config.model, global_blocks=blocks)
    )


def build(config: Config, params: Mapping[str, np.ndarray]) -> InteractionModel:
    """The model; what a checkpoint without towers lacks is zeros."""
    absent = {n: s for n, s in param_shapes(config).items() if n not in params}
    zeros = {n: np.zeros(s, np.float32) for n, s in absent.items()}
    arrays = {n: jnp.asarray(x) for n, x in (zeros | dict(params)).items()}
    return tree.build(config, arrays)


def check_inputs(inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """ids [B,S] and attention mask [B,S]. Raises InteropError naming what cannot be."""
    unknown = sorted(set(inputs) - set(INPUTS))
    if unknown or "input_ids" not in inputs:
        raise InteropError(
            f"inputs hold {sorted(inputs)}; accepted are {', '.join(INPUTS)}, the first always"
        )
    ids = np.asarray(inputs["input_ids"])
    mask = np.asarray(inputs.get("attention_mask", np.ones_like(ids))) != 0
    if ids.ndim != 2 or mask.shape != ids.shape:
        raise InteropError(
            f"input_ids {ids.shape} and attention_mask {mask.shape} must both be [B, S]"
        )
    return ids, mask


def embed(
    model: InteractionModel, inputs: Mapping[str, np.ndarray], image_id: int, audio_id: int
) -> Float[Array, "B S D"]:
    """Embedded tokens, images and sounds in the places of their tokens.

    Raises InteropError: a token id is outside the vocabulary, or the places are not as many as the
    patches or frames.
    """
    ids, _ = check_inputs(inputs)
    rows = model.tokens.table.shape[0]
    if ids.min(initial=0) < 0 or ids.max(initial=0) >= rows:
        raise InteropError(
            f"input_ids reach from {ids.min()} to {ids.max()}; the vocabulary has {rows} tokens"
        )
    x = model.tokens(jnp.asarray(ids))
    x = x.reshape(-1, x.shape[-1])
    if "pixel_values" in inputs:
        pixels = jnp.asarray(inputs["pixel_values"], jnp.float32)
        features = model.video.fold(model.video.ordered(pixels))
        x = _placed(x, ids == image_id, features, "pixel_values", "patches", image_id)
    if "audio_input_ids" in inputs:
        bins = np.asarray(inputs["audio_input_ids"])
        heard = np.asarray(inputs.get("audio_input_ids_mask", np.ones(bins.shape[:2]))) != 0
        frames = jnp.asarray(bins[heard])[None, :, None]
        x = _placed(
            x, ids == audio_id, model.dmel(frames)[0], "audio_input_ids", "frames", audio_id
        )
    return x.reshape(*ids.shape, -1)


def _placed(x, places: np.ndarray, features, name: str, what: str, token: int):
    index = np.flatnonzero(places)
    if len(index) != len(features):
        raise InteropError(
            f"{name} holds {len(features)} {what}, input_ids {len(index)} places for them "
            f"(token {token})"
        )
    return x.at[index].set(features)


@jax.jit
def _logits(model: InteractionModel, x: Array, valid: Array) -> Float[Array, "B S V"]:
    b, s, _ = x.shape
    position = jnp.broadcast_to(jnp.arange(s, dtype=jnp.int32), (b, s))
    out = model.transformer(x, position, jnp.zeros_like(position), valid.astype(jnp.int32))
    return model.unembed(out.hidden)


@jax.jit
def _padded_logits(
    model: InteractionModel,
    x: Float[Array, "B S D"],
    valid: Bool[Array, "B S"],
    size: Int[Array, ""],
) -> Float[Array, "B S V"]:
    """With padding anywhere, which the published code does not leave out: such a row attends to
    what others would see from its place, or, where that is nothing, to all `size` positions alike;
    the convolutions of others read zeros in its place. What is computed for it means nothing, but
    is what it is there."""
    transformer = model.transformer
    b, s, _ = x.shape
    position = jnp.broadcast_to(jnp.arange(s, dtype=jnp.int32), (b, s))
    time = time_of(transformer.config, transformer.layout, jnp.zeros_like(position))
    shown, share = valid[..., None], (jnp.arange(s) < size)[:, None] / size

    def convolved(conv, y):
        return conv(jnp.where(shown, y, 0.0), position)[0] + jnp.where(shown, 0.0, y)

    for block in transformer.layers:
        att = block.attention
        visible = att.span.visible(position[:, :, None], position[:, None]) & valid[:, None]
        h = block.attention_norm(x)
        q, _, _, rel, _ = att.project(h, position, time)
        _, k, v, _, _ = att.project(jnp.where(shown, h, 0.0), position, time)
        bias = None if rel is None else toeplitz(rel, 0)
        o = attend(q, k, v.swapaxes(2, 3), bias, additive(visible), block.attention.span.kv_block)
        own = dot(jnp.where(shown, 0.0, h), att.v[...]).reshape(b, s, v.shape[1], -1)
        mean = jnp.sum((v + own.swapaxes(1, 2)) * share, axis=2, keepdims=True)
        mean = jnp.repeat(mean, o.shape[1] // v.shape[1], axis=1)
        o = jnp.where(visible.any(axis=-1)[:, None, :, None], o, mean)
        x = x + convolved(block.attention_conv, att.merge(o))
        y, *_ = block.feed_forward(block.mlp_norm(x), valid.astype(jnp.float32))
        x = x + convolved(block.mlp_conv, y)
    return model.unembed(transformer.final_norm(x))


def logits(
    config: Config,
    params: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray],
    image_id: int,
    audio_id: int,
) -> np.ndarray:
    """float32 [B, S, V] (V: tokens, the padding of the vocabulary cut off) of arrays named as in
    INPUTS, by the training forward; padded rows are computed as the published code does.

    `image_id`, `audio_id`: the tokens in whose places patches and frames stand.
    """
    ids, mask = check_inputs(inputs)
    size = ids.shape[1]
    with jax.default_matmul_precision("highest"):
        if size > config.model.global_blocks * config.microturn.kv_block:
            config = with_context(config, size)
        model = build(config, params)
        x = embed(model, inputs, image_id, audio_id)
        # Whole blocks of positions: what is added lies behind everything and is seen by nothing.
        more = ((0, 0), (0, -size % NEAR_BLOCK))
        x, valid = jnp.pad(x, (*more, (0, 0))), jnp.pad(jnp.asarray(mask), more)
        if mask.all():
            y = _logits(model, x, valid)
        else:
            y = _padded_logits(model, x, valid, jnp.asarray(size))
    return np.asarray(y[:, :size], np.float32)
