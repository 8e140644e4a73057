"""Attention over a ring of keys and values (tmi/models/cache.py): position p is at p % T."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from tmi import mesh
from tmi.models.attention import (
    MASKED,
    Span,
    additive,
    apart,
    shared_out,
    toeplitz,
    weights_of,
)
from tmi.models.cache import LayerCache, append_kv
from tmi.models.layers import contract
from tmi_kernels.attention import attention_cached

MOST_SELECTED = 8  # blocks of a ring that get a bias of their own
MANY = 4  # sessions: more of them are attended for one after the other
FEW = 2  # rows: an END and what was heard
PIECE = 2048  # positions of a ring at most that are read at a time


def append_and_attend(
    cache: LayerCache, q: Float[Array, "B H N E"], k: Float[Array, "B K N E"],
    v: Float[Array, "B K N d"], rel: Float[Array, "B H N extent"] | None,
    position: Int[Array, "B N"], count: Int[Array, " B"], slots: Int[Array, "B N"],
    held: Int[Array, "B T"], span: Span,
) -> tuple[Float[Array, "B H N d"], Array, Array]:  # fmt: skip
    """Writes N positions, of which `count` are valid, at their `slots` of the ring; they attend to
    what it holds then, the positions `held` (-1: none). Returns their output, keys and values."""
    keys, values = append_kv(cache, k, v, slots)

    def attended(rows: int, b, q, position, held, rel=None):
        """Of the first rows of each session, or of session b."""
        rel = None if rel is None else rel[:, :, :rows]
        q, position = q[:, :, :rows], position[:, :rows]
        return attend_ring(q, keys, values, rel, position, held, span, v.shape[3], b)

    args = (q, position, held, *(() if rel is None else (rel,)))
    return of_those(count, held.shape[1], attended, *args), keys, values


def append_by_kernel(
    cache: LayerCache, q, k, v, rel, position: Int[Array, "B N"], count: Int[Array, " B"],
    span: Span, implementation: str,
) -> tuple[Float[Array, "B H N d"], Array, Array]:  # fmt: skip
    """`append_and_attend` by tmi_kernels.attention_cached, with the bits of training's kernel; on a
    mesh each device has whole rings of its heads."""

    def run(q, k, v, keys, values, length, count, *rel):
        bias = rel[0] if rel else None
        return attention_cached(
            q, k, v, bias, keys, values, length, count, span, implementation=implementation
        )

    on, bias = mesh.current(), () if rel is None else (rel,)
    if on is not None:
        # As sharding.session_shardings has keys and values: query heads go where those are.
        by_head = mesh.current_rules().spec(("batch", "kv_heads", None, None), k.shape, on)
        by_row = PartitionSpec(by_head[0])
        specs = (by_head,) * 5 + (by_row,) * 2 + (by_head,) * len(bias)
        run = jax.shard_map(run, mesh=on, in_specs=specs, out_specs=(by_head,) * 3, check_vma=False)
    return run(q, k, v, cache.k, cache.v, position[:, 0], count, *bias)


def of_those(count: Int[Array, " B"], size: int, f: Callable[..., Array], *args: Array) -> Array:
    """`f(rows, None, *args)`, all [B, ...], [B, H, rows, ...] for the `count` valid rows of each
    session; where sessions are MANY, or one has a long ring (of `size` positions), `f(rows, b,
    *args)` of those of session b alone, one after the other, for few rows or all, and zeros for
    those that have none.

    As a batch XLA for CPUs would read everybody's ring for the two of 32 that write, and take as
    long for a session's small products as for its share of a large one; on a mesh and on
    accelerators it is a batch."""
    rows = args[0].shape[2]
    together = size <= PIECE if len(count) == 1 else len(count) <= MANY
    if together or not mesh.one_cpu():
        return f(rows, None, *args)
    # Few rows first, then more, then none. Two loops, not a choice in one: XLA gives each of its
    # threads a share of what is done in a loop, but not of what is done in a branch.
    kind = jnp.where(count == 0, 2, (count > FEW).astype(jnp.int32))
    order = jnp.argsort(kind, stable=True)

    def one(few: int, i, out):
        b = order[i]
        y = f(few, b, *(one_of(x, b) for x in args))
        return jax.lax.dynamic_update_slice(out, y, (b, 0, 0, 0))

    out = jax.eval_shape(functools.partial(f, rows, None), *args)
    out = jnp.zeros(out.shape, out.dtype)
    some, all_ = jnp.sum(kind == 0), jnp.sum(kind < 2)
    out = jax.lax.fori_loop(0, some, functools.partial(one, min(FEW, rows)), out)
    return jax.lax.fori_loop(some, all_, functools.partial(one, rows), out) if rows > FEW else out


def one_of(x: Array, b: Int[Array, ""] | None) -> Array:
    """Of all sessions, or [1, ...] of session b."""
    return x if b is None or len(x) == 1 else jax.lax.dynamic_slice_in_dim(x, b, 1)


def attend_ring(
    q: Float[Array, "B H Q E"], keys: Array, values: Array,
    rel: Float[Array, "B H Q N"] | None, position: Int[Array, "B Q"], held: Int[Array, "B T"],
    span: Span, dim: int, b: Int[Array, ""] | None = None,
) -> Float[Array, "B H Q d"]:  # fmt: skip
    """`attend` over the ring of a LayerCache, which holds the positions `held` (-1: none). `rel`:
    bias rows by distance, the farthest first; `dim`: of a value. With b all but the ring is of that
    session alone."""
    size = held.shape[1]
    bias = None if rel is None else ring_bias(rel, position[:, 0], size, span.kv_block)

    first = jnp.maximum(span.first(position), 0)  # not what holds none

    def hidden(held):
        held = held[:, None]
        return additive((held >= first[..., None]) & (held <= position[..., None]))

    if values.ndim == 5:
        keys, values = one_of(keys, b), one_of(values, b)
        return _in_order(q, keys, values, bias, hidden(held), position, dim)
    if b is None or len(keys) == 1 or size <= PIECE:
        keys, values = one_of(keys, b), one_of(values, b)
        return _at_once(q, keys, values, bias, hidden(held))
    return _by_pieces(q, keys, values, bias, hidden, held, b)


def _in_order(
    q: Float[Array, "B H Q E"], k: Float[Array, "B K T E"], v: Float[Array, "B K N R T/N"],
    bias: Float[Array, "B H Q T"] | None, hidden: Float[Array, "B Q T"],
    position: Int[Array, "B Q"], dim: int,
) -> Float[Array, "B H Q d"]:  # fmt: skip
    """With the bits of `attend`: each block's product by itself, added in the order of a query's
    own past. Values are in N blocks `with_ones`."""
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


def _at_once(
    q: Float[Array, "B H Q E"], k: Float[Array, "B K E T"], v: Float[Array, "B K T d"],
    bias: Float[Array, "B H Q T"] | None, hidden: Float[Array, "B Q T"],
) -> Float[Array, "B H Q d"]:  # fmt: skip
    scores = _scores(q, k, bias, hidden)
    p = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True, initial=MASKED / 2))
    total = jnp.sum(p, axis=-1, keepdims=True)
    return shared_out(_product(p.astype(v.dtype), v), total, q.shape[1])


def _by_pieces(q, keys, values, bias, hidden, held, b) -> Float[Array, "1 H Q d"]:
    """Session b's, of those pieces of the ring alone that hold something, the greatest score so far
    kept beside the sums."""
    size, kv, dim = held.shape[1], values.shape[1], values.shape[3]
    rows = q.shape[1] // kv * q.shape[2]
    block = math.gcd(size, PIECE)
    width = -(-size // -(-size // PIECE) // block) * block

    def one(j, carry):
        top, total, o = carry
        at = jnp.minimum(j * width, size - width)  # the last begins where the ring is long enough
        k = jax.lax.dynamic_slice(keys, (b, 0, 0, at), (1, kv, keys.shape[2], width))
        v = jax.lax.dynamic_slice(values, (b, 0, at, 0), (1, kv, width, dim))
        new = at + jnp.arange(width) >= j * width
        here = jnp.where(new, jax.lax.dynamic_slice_in_dim(held, at, width, 1), -1)
        near = None if bias is None else jax.lax.dynamic_slice_in_dim(bias, at, width, 3)
        scores = _scores(q, k, near, hidden(here))
        most = jnp.maximum(top, jnp.max(scores, axis=-1, keepdims=True))
        p, kept = jnp.exp(scores - most), jnp.exp(top - most)
        o = o * kept + _product(p.astype(v.dtype), v)
        return most, total * kept + jnp.sum(p, axis=-1, keepdims=True), o

    def full(fill, n: int):
        return jnp.full((1, kv, rows, n), fill, jnp.float32)

    pieces = -(-jnp.max(jnp.where(held >= 0, jnp.arange(1, size + 1), 0)) // width)
    start = full(MASKED / 2, 1), full(0.0, 1), full(0.0, dim)
    _, total, o = jax.lax.fori_loop(0, pieces, one, start)
    return shared_out(o, total, q.shape[1])


def _scores(q, k: Float[Array, "B K E T"], bias, hidden) -> Float[Array, "B K gQ T"]:
    """The queries of a key's group one after the other."""
    b, h, n, e = q.shape
    kv = k.shape[1]
    scores = _product(q.reshape(b, kv, h // kv * n, e), k)
    scores = scores.reshape(b, kv, h // kv, n, -1)
    if bias is not None:
        scores = scores + bias.reshape(scores.shape)
    return (scores + hidden[:, None, None]).reshape(b, kv, h // kv * n, -1)


def _product(x: Float[Array, "B K r i"], y: Float[Array, "B K i t"]) -> Float[Array, "B K r t"]:
    return jnp.matmul(x, y, preferred_element_type=jnp.float32)


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
    if mesh.one_cpu() and size > PIECE:

        def put(i, out):
            b, j = i // count, i % count
            part = jax.lax.dynamic_slice(near, (b, 0, 0, j * block), (1, *rel.shape[1:3], block))
            return jax.lax.dynamic_update_slice(out, part, (b, 0, 0, here[b, j] * block))

        # Always all of them. What comes out of a loop whose end XLA does not know lies in memory,
        # not computed anew, number by number, in all that reads it.
        end = jnp.where(length[0] >= 0, here.size, 0)
        return jax.lax.fori_loop(0, end, put, jnp.zeros((*rel.shape[:3], size), rel.dtype))
    out = jnp.zeros(())
    for j in range(count):
        hit = (jnp.arange(size // block) == here[:, j, None])[:, None, None, :, None]
        out = out + jnp.where(hit, near[..., None, j * block : (j + 1) * block], 0.0)
    return out.reshape(*rel.shape[:3], size)
