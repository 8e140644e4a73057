"""What attention means: scores of all pairs, a mask, a softmax."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

HIDDEN = -1e30


def visible(query: Array, key: Array, span) -> Bool[Array, "..."]:
    """Whether the position `query` of a session sees its position `key`."""
    if span.blocks:
        near = query // span.kv_block - key // span.kv_block < span.blocks
    else:
        near = query - key < span.window
    return (key <= query) & near


def attention(q, k, v, rel, position, segment, span) -> Float[Array, "B H S d"]:
    """See `tmi_kernels.attention`. Takes memory for the scores of all pairs of positions."""
    here, there = position[:, :, None], position[:, None, :]
    seen = visible(here, there, span) & (segment[:, :, None] == segment[:, None, :])
    return _attend(q, k, v, rel, here - there, seen & (segment > 0)[:, :, None])


def attention_cached(q, k, v, rel, keys, values, length, count, span):
    """See `tmi_kernels.attention`."""
    n, size = k.shape[2], keys.shape[2]
    row = jnp.arange(n, dtype=jnp.int32)
    position = length[:, None] + row
    # Rows beyond the count are written past the end, which is to write nothing.
    place = jnp.where(row < count[:, None], position % size, size)

    def write(cache, new, place):
        new = jnp.where(jnp.isfinite(new), new, 0)
        return cache.at[:, place].set(new, mode="drop")

    keys, values = (jax.vmap(write)(c, x, place) for c, x in ((keys, k), (values, v)))
    end = (length + count)[:, None]
    held = end - 1 - (end - 1 - jnp.arange(size, dtype=jnp.int32)) % size  # of each place, or < 0
    here, there = position[:, :, None], held[:, None, :]
    seen = visible(here, there, span) & (there >= 0) & (here < end[..., None])
    clean = (jnp.where((held >= 0)[:, None, :, None], x, 0) for x in (keys, values))
    return _attend(q, *clean, rel, here - there, seen), keys, values


def _attend(q, k, v, rel, distance: Int[Array, "B Q T"], seen: Bool[Array, "B Q T"]):
    b, h, n, e = q.shape
    kv = k.shape[1]

    def product(equation, x, y):
        # Highest: a TPU would round f32 operands to bf16.
        exact = jax.lax.Precision.HIGHEST
        return jnp.einsum(equation, x, y, precision=exact, preferred_element_type=jnp.float32)

    scores = product("bkgqe,bkte->bkgqt", q.reshape(b, kv, h // kv, n, e), k)
    if rel is not None:
        extent = rel.shape[-1]
        column = jnp.clip(extent - 1 - distance, 0, extent - 1)[:, None]
        column = jnp.broadcast_to(column, (b, h, *column.shape[2:]))
        bias = jnp.take_along_axis(rel.astype(jnp.float32), column, axis=-1)
        bias = jnp.where((distance < extent)[:, None], bias, 0.0)
        scores = scores + bias.reshape(scores.shape)
    scores = jnp.where(seen[:, None, None], scores, HIDDEN)
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    p = jnp.exp(scores - jnp.maximum(top, HIDDEN / 2))  # a row that sees nothing has zeros
    total = jnp.sum(p, axis=-1, keepdims=True)
    o = product("bkgqt,bktd->bkgqd", p.astype(v.dtype), v) / jnp.maximum(total, 0.5)
    return o.reshape(b, h, n, -1).astype(v.dtype)
