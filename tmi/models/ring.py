"""Attention over a ring of keys and values (tmi/models/cache.py): position p is at p % T."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tmi import mesh
from tmi.models.attention import apart, shared_out, toeplitz, weights_of
from tmi.models.layers import contract

MOST_SELECTED = 8  # blocks of a ring that get a bias of their own
MANY = 4  # sessions: more of them are attended for one after the other
FEW = 2  # rows: an END and what was heard


def of_those(count: Int[Array, " B"], f: Callable[..., Array], *args: Array) -> Array:
    """`f(rows, *args)`, all [B, ...], [B, H, rows, ...] for the `count` valid rows of each session;
    where sessions are MANY one after the other, and zeros for those that have none.

    As a batch XLA for CPUs would read everybody's ring for the two of 32 that write, and take as
    long for a session's small products as for its share of a large one; on a mesh and on
    accelerators it is a batch."""
    rows = args[0].shape[2]
    if len(count) <= MANY or mesh.current() is not None or jax.default_backend() != "cpu":
        return f(rows, *args)
    first = jnp.argsort(count == 0, stable=True)

    def own(few: int, args) -> Array:
        y = f(few, *args)
        return jnp.pad(y, ((0, 0), (0, 0), (0, rows - few), (0, 0)))

    def one(i, out):
        b = first[i]
        args_ = [jax.lax.dynamic_slice_in_dim(x, b, 1) for x in args]
        if rows > FEW:
            y = jax.lax.cond(
                count[b] <= FEW, functools.partial(own, FEW), functools.partial(own, rows), args_
            )
        else:
            y = own(rows, args_)
        return jax.lax.dynamic_update_slice_in_dim(out, y, b, 0)

    out = jax.eval_shape(functools.partial(f, rows), *args)
    return jax.lax.fori_loop(0, jnp.sum(count > 0), one, jnp.zeros(out.shape, out.dtype))


def attend_ring(
    q: Float[Array, "B H Q E"], k: Float[Array, "B K T E"], v: Float[Array, "B K N R T/N"],
    bias: Float[Array, "B H Q T"] | None, hidden: Float[Array, "B Q T"],
    position: Int[Array, "B Q"], dim: int,
) -> Float[Array, "B H Q d"]:  # fmt: skip
    """`attend` over a ring of N blocks, in which position p is at p % T, the bits those of
    `attend`: each block's product by itself, added in the order of a query's own past. The values
    are of width `dim`, in blocks `with_ones`."""
    b, h, n, _ = q.shape
    kv, blocks, block = v.shape[1], v.shape[2], v.shape[4]
    p = weights_of(q, k, bias, hidden).astype(v.dtype)
    p = p.reshape(b, kv, -1, blocks, block).swapaxes(2, 3)
    parts = contract(p, v).reshape(b, kv, blocks, h // kv, n, -1)
    # A query's own block is its newest; the one after it in the ring is its oldest.
    oldest = ((position // block + 1) % blocks)[:, None, None, :, None]
    o = jnp.zeros_like(parts[:, :, 0])
    for lap in (lambda j: j >= oldest, lambda j: j < oldest):
        for j in range(blocks):
            o = o + jnp.where(lap(j), parts[:, :, j], 0.0)
    o = o.reshape(b, kv, h // kv * n, -1)
    return shared_out(*apart(o, dim), h)


def gathered_bias(
    rel: Float[Array, "B H Q N"], distance: Int[Array, "B Q T"]
) -> Float[Array, "B H Q T"]:
    """Bias rows by distance, the farthest first -> bias by key, for keys in any order (a ring
    buffer)."""
    extent = rel.shape[-1]
    index = jnp.clip(extent - 1 - distance, 0, extent - 1)[:, None]
    bias = jnp.take_along_axis(
        rel, jnp.broadcast_to(index, rel.shape[:2] + index.shape[2:]), axis=-1
    )
    return jnp.where((distance >= 0) & (distance < extent), 1.0, 0.0)[:, None] * bias


def ring_bias(
    rel: Float[Array, "B H Q N"], length: Int[Array, " B"], size: int, kv_block: int
) -> Float[Array, "B H Q T"]:
    """Bias rows by distance, the farthest first -> bias by key, for queries that stand behind
    `length` positions and keys in a ring of `size`, position p at p % size.

    No key is looked up by itself: the few blocks of the ring that lie within the rows' reach get
    theirs whole."""
    extent, n = rel.shape[-1], rel.shape[2]
    block = math.gcd(size, kv_block)
    count = -(-(extent - 1 + block - 1 + n) // block)
    if count > min(MOST_SELECTED, size // block) or size - n < extent:
        slot = jnp.arange(size)
        last = (length + n - 1)[:, None]
        held = last - (last - slot) % size
        distance = length[:, None, None] + jnp.arange(n)[:, None] - held[:, None]
        return gathered_bias(rel, distance)
    # The block that holds the farthest position within reach, and how far its first lies behind.
    first = (length - (extent - 1)) // block
    behind = length - first * block
    most = extent - 1 + block - 1
    near = jnp.pad(toeplitz(rel, most), ((0, 0),) * 3 + ((0, count * block - extent + 1 - n),))
    near = jax.vmap(
        lambda x, start: jax.lax.dynamic_slice_in_dim(x, start, count * block, axis=-1)
    )(near, most - behind)
    here = (first[:, None] + jnp.arange(count)) % (size // block)  # [B, count]
    out = jnp.zeros(())
    for j in range(count):
        hit = (jnp.arange(size // block) == here[:, j, None])[:, None, None, :, None]
        out = out + jnp.where(hit, near[..., None, j * block : (j + 1) * block], 0.0)
    return out.reshape(*rel.shape[:3], size)
