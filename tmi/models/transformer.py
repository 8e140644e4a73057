"""The one transformer: Inkling-style blocks, sliding and global, dense first and mixtures of
experts after."""

from __future__ import annotations

import typing

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from tmi.config import Config, ModelConfig
from tmi.models.attention import (
    Attention,
    Span,
    additive,
    attend,
    gathered_bias,
    row_masks,
    time_phase,
)
from tmi.models.cache import LayerCache, append_kv
from tmi.models.layers import MLP, RMSNorm, ShortConv, next_conv_state
from tmi.models.moe import MoE


def spans(config: Config) -> list[Span]:
    """What each layer may look back on: every `global_every`-th is global, or `global_layers` are,
    and the others slide."""
    m, kv_block = config.model, config.microturn.kv_block
    every = range(m.global_every - 1, m.num_layers, m.global_every)
    far = set(m.global_layers or every)
    return [
        Span(m.window, m.global_blocks if i in far else 0, kv_block) for i in range(m.num_layers)
    ]


def dense_layers(m: ModelConfig) -> frozenset[int]:
    """The layers that are no mixture of experts."""
    return frozenset(m.dense_layers or range(m.num_dense_layers))


class Block(nnx.Module):
    """x + conv(attention(norm x)), then x + conv(mlp(norm x))."""

    def __init__(self, c: ModelConfig, span: Span, dense: bool, key: Array):
        k = jax.random.split(key, 2)
        self.attention_norm = RMSNorm(c.width, eps=c.norm_eps)
        self.attention = Attention(c, span, k[0])
        self.attention_conv = ShortConv(c.width, c.conv_width)
        self.mlp_norm = RMSNorm(c.width, eps=c.norm_eps)
        self.mlp = MLP(c.width, c.mlp_width, k[1], c.mlp_scale) if dense else MoE(c, k[1])
        self.mlp_conv = ShortConv(c.width, c.conv_width)

    def feed_forward(self, x, valid):
        """Returns the output and the routed-expert counts (None for a dense layer)."""
        if isinstance(self.mlp, MLP):
            return self.mlp(x), None
        b, s, d = x.shape
        y, count = self.mlp(x.reshape(b * s, d), valid.reshape(b * s))
        return y.reshape(b, s, d), count

    def __call__(self, x, position, phase, hidden, valid):
        """Training, packed rows. x [B,S,D], valid [B,S] -> (x, expert counts [E] or None)."""
        a = self.attention(self.attention_norm(x), position, phase, hidden)
        x = x + self.attention_conv(a, position)[0]
        y, count = self.feed_forward(self.mlp_norm(x), valid)
        return x + self.mlp_conv(y, position)[0], count

    def append(self, x, position, phase, count, slots, key_position, cache: LayerCache):
        """Decoding: x [B,N,D] of `count` [B] valid positions goes behind the cached ones (write KV,
        then attend).

        slots [B,N]: where in the ring each position is written; key_position [B,T]: what the ring
        holds then (-1: nothing).
        """
        att = self.attention
        width = att.c.conv_width
        h = self.attention_norm(x)
        q, k, v, rel, (k_hist, v_hist) = att.project(
            h, position, phase, (cache.k_conv, cache.v_conv)
        )
        keys, values = append_kv(cache, k, v, slots)
        visible = (
            att.span.visible(position[:, :, None], key_position[:, None])
            & (key_position >= 0)[:, None]
        )
        bias = (
            None
            if rel is None
            else gathered_bias(rel, position[:, :, None] - key_position[:, None])
        )
        a = att.merge(attend(q, keys, values, bias, additive(visible)))
        a, a_hist = self.attention_conv(a, position, cache.attention_conv)
        x = x + a
        valid = jnp.arange(x.shape[1])[None] < count[:, None]
        y, _ = self.feed_forward(self.mlp_norm(x), valid.astype(jnp.float32))
        y, y_hist = self.mlp_conv(y, position, cache.mlp_conv)
        cache = LayerCache(
            k=keys,
            v=values,
            k_conv=next_conv_state(k_hist, count, width),
            v_conv=next_conv_state(v_hist, count, width),
            attention_conv=next_conv_state(a_hist, count, width),
            mlp_conv=next_conv_state(y_hist, count, width),
        )
        return x + y, cache


class TransformerOutput(typing.NamedTuple):
    """hidden: final states; heard: those after model.hearing_layer layers (None if that is 0);
    counts: how many positions chose each routed expert of the MoE layers."""

    hidden: Float[Array, "B S D"]
    heard: Float[Array, "B S D"] | None
    counts: Float[Array, "L E"]


class Transformer(nnx.Module):
    def __init__(self, config: Config, key: Array):
        m = config.model
        self.hearing_layer = m.hearing_layer
        keys = jax.random.split(key, m.num_layers)
        self.config = m
        self.remat = config.train.remat
        self.layers = nnx.List(
            [Block(m, span, i in dense_layers(m), keys[i]) for i, span in enumerate(spans(config))]
        )
        self.final_norm = RMSNorm(m.width, eps=m.norm_eps)

    def __call__(
        self, x: Float[Array, "B S D"], position: Int[Array, "B S"], microturn: Int[Array, "B S"],
        segment: Int[Array, "B S"],
    ) -> TransformerOutput:  # fmt: skip
        counts, heard = [], None
        valid = (segment > 0).astype(jnp.float32)
        phase = time_phase(self.config, microturn)
        masks = {
            span: row_masks(position, segment, span)
            for span in {layer.attention.span for layer in self.layers}
        }
        for i, layer in enumerate(self.layers, start=1):
            hidden = masks[layer.attention.span]

            def step(layer, x, hidden=hidden):
                return layer(x, position, phase, hidden, valid)

            x, count = (jax.checkpoint(step) if self.remat else step)(layer, x)
            if count is not None:
                counts.append(count)
            if i == self.hearing_layer:
                heard = x
        counts = jnp.stack(counts) if counts else jnp.zeros((0, 0))
        return TransformerOutput(self.final_norm(x), heard, counts)
