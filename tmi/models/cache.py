"""The attention memory of streaming sessions: one ring buffer a layer, of bounded size, donated
from call to call.

A position p of a session lives at ring slot p % T; sliding layers keep their window, global layers
their whole blocks, both with room for one call's positions, so that a call never overwrites what
its own queries may still see.
"""

from __future__ import annotations

import typing

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tmi.config import Config
from tmi.models.attention import heads_of, key_dim

ROW_TILE = 16  # a call's positions are padded to a multiple of this


class LayerCache(typing.NamedTuple):
    """k [B,K,T,key_dim], v [B,K,d,T] (transposed), and the inputs before the next position of the
    four convolutions."""

    k: Float[Array, "B K T E"]
    v: Float[Array, "B K d T"]
    k_conv: Float[Array, "B W Dk"]
    v_conv: Float[Array, "B W Dk"]
    attention_conv: Float[Array, "B W D"]
    mlp_conv: Float[Array, "B W D"]


class KVCache(typing.NamedTuple):
    """`length` [B]: positions of each session so far; `layers`: one LayerCache each."""

    length: Int[Array, " B"]
    layers: tuple[LayerCache, ...]


def pad_rows(n: int) -> int:
    return -(-n // ROW_TILE) * ROW_TILE


def capacity(span, chunk: int) -> int:
    """Ring slots of a layer whose calls append at most `chunk` positions."""
    return pad_rows(span.reach + 1 + pad_rows(chunk))


def init_cache(config: Config, spans: list, slots: int, chunk: int) -> KVCache:
    """Empty caches for `slots` sessions, for calls of at most `chunk` positions."""
    m = config.model

    def zeros(*shape, dtype="float32"):
        return jnp.zeros((slots, *shape), dtype)

    def layer(span):
        t, w = capacity(span, chunk), m.conv_width - 1
        _, n, hd = heads_of(m, span)
        return LayerCache(
            k=zeros(n, t, key_dim(m, span), dtype=m.dtype),
            v=zeros(n, hd, t, dtype=m.dtype),
            k_conv=zeros(w, n * hd),
            v_conv=zeros(w, n * hd),
            attention_conv=zeros(w, m.width),
            mlp_conv=zeros(w, m.width),
        )

    return KVCache(jnp.zeros((slots,), jnp.int32), tuple(layer(s) for s in spans))


def ring_slots(length: Int[Array, " B"], rows: int, size: int) -> Int[Array, "B N"]:
    """Where the next `rows` positions go."""
    return (length[:, None] + jnp.arange(rows, dtype=jnp.int32)) % size


def ring_positions(
    length: Int[Array, " B"], count: Int[Array, " B"], rows: int, size: int
) -> Int[Array, "B T"]:
    """The position each ring slot holds after `count` of `rows` positions were appended; -1 where
    none does.

    Slots written by the call's padding rows count as empty: they lie beyond every window by
    `capacity`.
    """
    last = length + rows - 1  # of the padding rows too, which were written
    slot = jnp.arange(size, dtype=jnp.int32)
    p = last[:, None] - (last[:, None] - slot) % size
    return jnp.where((p >= 0) & (p < (length + count)[:, None]), p, -1)


def append_kv(
    cache: LayerCache,
    k: Float[Array, "B K N E"],
    v: Float[Array, "B K N d"],
    slots: Int[Array, "B N"],
):
    """Writes N rows at their ring slots; returns keys [B,K,T,E] and values [B,K,d,T]."""

    def one(ck, cv, k, v, at):
        return ck.at[:, at].set(k), cv.at[:, :, at].set(v.swapaxes(1, 2))

    return jax.vmap(one)(cache.k, cache.v, k, v, slots)


def reset(cache: KVCache, reset_mask: Array) -> KVCache:
    """Starts the sessions of `reset_mask` [B] afresh. Keys and values need no clearing: their
    positions say empty."""
    keep = 1.0 - reset_mask.astype(jnp.float32)[:, None, None]

    def layer(c: LayerCache) -> LayerCache:
        return c._replace(
            k_conv=c.k_conv * keep,
            v_conv=c.v_conv * keep,
            attention_conv=c.attention_conv * keep,
            mlp_conv=c.mlp_conv * keep,
        )

    return KVCache(jnp.where(reset_mask, 0, cache.length), tuple(layer(c) for c in cache.layers))
