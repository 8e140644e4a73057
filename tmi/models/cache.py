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

from tmi import mesh
from tmi.config import Config
from tmi.models.attention import heads_of, key_dim, with_ones

ROW_TILE = 16  # a call's positions are padded to a multiple of this
FEW_ROWS = 4  # or are so few


class LayerCache(typing.NamedTuple):
    """Keys, values, and the inputs before the next position of the four convolutions. Keys and
    values lie as their products are fastest, k [B,K,E,T] and v [B,K,T,d]; where numerics are
    invariant they lie as in training, k [B,K,T,E] and v in blocks, [B,K,N,R,T/N], each `with_ones`
    (see tmi/models/ring.py); for a kernel (model.attention_kernel) k [B,K,T,E] and v [B,K,T,d]."""

    k: Float[Array, "B K E T"] | Float[Array, "B K T E"]
    v: Float[Array, "B K T d"] | Float[Array, "B K N R T/N"]
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


def capacity(span, chunk: int, whole: bool = False) -> int:
    """Ring slots of a layer whose calls append at most `chunk` positions. In `whole` blocks, where
    those count: then no query sees both what is new and what is old of one."""
    block = span.kv_block
    if not (whole or span.blocks):
        return pad_rows(span.reach + 1 + pad_rows(chunk))
    return -(-(max(span.reach, block - 1) + max(block, pad_rows(chunk))) // block) * block


def init_cache(config: Config, spans: list, slots: int, chunk: int) -> KVCache:
    """Empty caches for `slots` sessions, for calls of at most `chunk` positions."""
    m = config.model

    def zeros(*shape, dtype="float32"):
        return jnp.zeros((slots, *shape), dtype)

    def layer(span):
        kernel = m.attention_kernel != "reference"
        t, w = capacity(span, chunk, kernel or m.numerics != "fast"), m.conv_width - 1
        _, n, hd = heads_of(m, span)
        if kernel:
            k = zeros(n, t, key_dim(m, span), dtype=m.dtype)
            v = zeros(n, t, hd, dtype=m.dtype)
        elif m.numerics == "fast":
            k = zeros(n, key_dim(m, span), t, dtype=m.dtype)
            v = zeros(n, t, hd, dtype=m.dtype)
        else:
            k = zeros(n, t, key_dim(m, span), dtype=m.dtype)
            v = with_ones(zeros(n, t // span.kv_block, hd, span.kv_block, dtype=m.dtype))
        return LayerCache(
            k=k,
            v=v,
            k_conv=zeros(w, n * hd),
            v_conv=zeros(w, n * hd),
            attention_conv=zeros(w, m.width),
            mlp_conv=zeros(w, m.width),
        )

    return KVCache(jnp.zeros((slots,), jnp.int32), tuple(layer(s) for s in spans))


def ring_size(c: LayerCache) -> int:
    return c.v.shape[2] if c.v.ndim == 4 else c.k.shape[2]


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
    """Writes N rows at their ring slots; returns the cache's keys and values.

    What is not finite is written as zero: it would reach who comes after it in the slot."""
    k, v = (jnp.where(jnp.isfinite(x), x, 0) for x in (k, v))
    if k.shape[2] <= FEW_ROWS and mesh.one_cpu():
        return _append_few(cache, k, v, slots)

    def one(ck, cv, k, v, at):
        if cv.ndim == 3:
            return ck.at[:, :, at].set(k.swapaxes(1, 2)), cv.at[:, at].set(v)
        block, dim = cv.shape[-1], v.shape[-1]
        # Indices apart from each other come first in what is set: [N, K, d].
        return ck.at[:, at].set(k), cv.at[:, at // block, :dim, at % block].set(v.swapaxes(0, 1))

    return jax.vmap(one)(cache.k, cache.v, k, v, slots)


def _append_few(cache: LayerCache, k, v, slots):
    """As `append_kv`, a row at a time and in place: of a scatter of one row XLA for CPUs makes a
    choice between it and what was there, and copies the ring."""
    block = cache.v.shape[-1]

    def write(rings, b, n):
        ck, cv = rings
        at = slots[b, n]
        key, value = (jax.lax.dynamic_slice_in_dim(x[:, :, n], b, 1) for x in (k, v))  # [1, K, e]
        if cv.ndim == 4:
            ck = jax.lax.dynamic_update_slice(ck, key[..., None], (b, 0, 0, at))
            return ck, jax.lax.dynamic_update_slice(cv, value[:, :, None], (b, 0, at, 0))
        ck = jax.lax.dynamic_update_slice(ck, key[:, :, None], (b, 0, at, 0))
        where = (b, 0, at // block, 0, at % block)
        return ck, jax.lax.dynamic_update_slice(cv, value[:, :, None, :, None], where)

    def session(b, rings):
        for n in range(k.shape[2]):
            rings = write(rings, b, n)
        return rings

    # Always all of them; a loop whose end is known might be unrolled, and its writes be fused with
    # what reads the ring, into a copy.
    end = jnp.where(slots[0, 0] >= 0, k.shape[0], 0)
    return jax.lax.fori_loop(0, end, session, (cache.k, cache.v))


def reset(cache: KVCache, reset_mask: Array) -> KVCache:
    """Starts the sessions of `reset_mask` [B] afresh. Keys and values need no clearing: their
    positions say empty."""
    fresh = reset_mask[:, None, None]

    def layer(c: LayerCache) -> LayerCache:
        return c._replace(
            k_conv=jnp.where(fresh, 0, c.k_conv),
            v_conv=jnp.where(fresh, 0, c.v_conv),
            attention_conv=jnp.where(fresh, 0, c.attention_conv),
            mlp_conv=jnp.where(fresh, 0, c.mlp_conv),
        )

    return KVCache(jnp.where(reset_mask, 0, cache.length), tuple(layer(c) for c in cache.layers))
