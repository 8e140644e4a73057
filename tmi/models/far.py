"""Attention that reaches far back over packed rows: blocks of queries one after the other, each
over the keys from the first that it sees to its own, whatever else the row holds.

A session is short beside a row, so most of what a block of fixed reach multiplies belongs to
others. Here the work follows the sessions, by loops whose ends are data: a near part of fixed size,
which has the bias by distance, and as many tiles of keys before it as the block needs. The backward
pass computes the weights again; nothing of the size of the scores is kept.
"""

from __future__ import annotations

import functools
import math
import typing

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tmi.models.layers import TILE as COLUMNS
from tmi.models.layers import contract, whole_tiles

MASKED = -1e30
QUERIES, TILE = 256, 256


class Plan(typing.NamedTuple):
    """Sizes: queries of a block, keys near it (its own included), keys of a tile, tiles at most;
    `order`: the keys whose sum is added as one where the order of sums is written out, else 0."""

    queries: int
    near: int
    tile: int
    tiles: int
    order: int

    @property
    def before(self) -> int:
        """Keys that a row's first block is given before the row."""
        return self.near - self.queries + self.tile * self.tiles


def plan(length: int, reach: int, extent: int, kv_block: int, invariant: bool) -> Plan:
    """For rows of `length`, `reach` keys before a query's own, and a bias up to `extent` of them.
    All sizes are whole kv_blocks."""

    def whole(size: int, of: int) -> int:
        return -(-size // of) * of

    def fitting(size: int) -> int:
        size = max(1, size // kv_block) * kv_block
        return size if length % size == 0 else math.gcd(length, kv_block)

    queries = fitting(QUERIES)
    back = min(whole(reach, queries), length - queries)
    near = min(whole(extent, math.lcm(kv_block, COLUMNS)), back)
    tile = min(whole(TILE, queries), whole(max(1, back - near), queries))
    tiles = -(-(back - near) // tile)
    return Plan(queries, queries + near, tile, tiles, kv_block if invariant else 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def attend(
    q: Float[Array, "B H S E"], k: Float[Array, "B K S E"], v: Float[Array, "B K S d"],
    rel: Float[Array, "B H S N"] | None, low: Int[Array, "B S"], p: Plan,
) -> Float[Array, "B H S d"]:  # fmt: skip
    """Each query sees the keys from `low` to itself, nothing where `low` is beyond it. `rel`: what
    is added to the scores by distance, the farthest first."""
    return _forward(q, k, v, rel, low, p)[0]


class _Block(typing.NamedTuple):
    """What a block of queries works with. `at`: where it begins in row `b`; `tiles`: how many it
    needs; groups of query heads are rows."""

    b: Array
    at: Array
    low: Int[Array, "Q 1"]
    tiles: Array

    def here(self, x: Float[Array, "B H S e"], kv: int, p: Plan) -> Float[Array, "K gQ e"]:
        part = self.own(x, p)
        return part.reshape(kv, -1, x.shape[3])

    def own(self, x: Float[Array, "B H S e"], p: Plan) -> Float[Array, "H Q e"]:
        size = (1, x.shape[1], p.queries, x.shape[3])
        return jax.lax.dynamic_slice(x, (self.b, 0, self.at, 0), size)[0]

    def near(self, p: Plan) -> Array:
        """Where its near keys begin, in a row with `before`."""
        return self.at + p.queries - p.near + p.before

    def tile(self, j, p: Plan) -> Array:
        """And its j-th tile."""
        return self.near(p) - (self.tiles - j) * p.tile

    def hidden(self, start, size: int, p: Plan, causal: bool) -> Float[Array, "Q T"]:
        """What is added to the scores of the keys from `start`."""
        key = start - p.before + jnp.arange(size, dtype=jnp.int32)[None]
        seen = key >= self.low
        if causal:
            seen &= key <= self.at + jnp.arange(p.queries, dtype=jnp.int32)[:, None]
        return jnp.where(seen, 0.0, MASKED)


def _block(n: Array, low: Int[Array, "B S"], p: Plan) -> _Block:
    blocks = low.shape[1] // p.queries
    b, at = n // blocks, n % blocks * p.queries
    own = jax.lax.dynamic_slice(low, (b, at), (1, p.queries))[0]
    far = at + p.queries - p.near - jnp.min(own)
    return _Block(b, at, own[:, None], jnp.clip(-(-far // p.tile), 0, p.tiles))


def _keys(x: Float[Array, "B K T e"], b, start, size: int) -> Float[Array, "K size e"]:
    return jax.lax.dynamic_slice(x, (b, 0, start, 0), (1, x.shape[1], size, x.shape[3]))[0]


def _columns(x: Float[Array, "B K e T"], b, start, size: int) -> Float[Array, "K e size"]:
    return jax.lax.dynamic_slice(x, (b, 0, 0, start), (1, x.shape[1], x.shape[2], size))[0]


def _masked(scores: Float[Array, "K gQ T"], hidden: Float[Array, "Q T"], bias=None):
    kv, rows, size = scores.shape
    scores = scores.reshape(kv, -1, *hidden.shape)
    if bias is not None:
        scores = scores + bias.reshape(scores.shape)
    return (scores + hidden).reshape(kv, rows, size)


def _added(o, weights: Float[Array, "K gQ T"], v_t: Float[Array, "K e T"], order: int):
    """o and the weighted values, `order` keys at a time: a block of zeros changes no bit."""
    if not order:
        return o + contract(weights, v_t)

    def blocks(z):  # [K, r, T] -> [K, T / order, r, order]
        return z.reshape(*z.shape[:-1], -1, order).swapaxes(1, 2)

    parts = contract(blocks(weights), blocks(v_t))
    for i in range(parts.shape[1]):
        o = o + parts[:, i]
    return o


def _padded(x: Float[Array, "B K S e"], p: Plan) -> Float[Array, "B K T e"]:
    return jnp.pad(x, ((0, 0), (0, 0), (p.before, 0), (0, 0)))


def _forward(q, k, v, rel, low, p: Plan):
    """The output, and of each row of weights the greatest score and the sum."""
    b, h, s, _ = q.shape
    kv, d = k.shape[1], v.shape[3]
    rows = h // kv * p.queries
    ones = jnp.zeros((*v.shape[:3], 2 - d % 2), v.dtype).at[..., 0].set(1)
    keys = _padded(k, p)
    values = _padded(jnp.concatenate([v, ones], axis=3), p).swapaxes(2, 3)
    tile, order = p.tile, p.order

    def product(x, keys):
        return contract(x, whole_tiles(keys) if order else keys)[..., : keys.shape[1]]

    def one(_, n):
        block = _block(n, low, p)
        here, start = block.here(q, kv, p), block.near(p)
        scores = product(here, _keys(keys, block.b, start, p.near))
        bias = None if rel is None else toeplitz(block.own(rel, p), p.near - p.queries)
        near = _masked(scores, block.hidden(start, p.near, p, True), bias)
        top = jnp.max(near, axis=-1, keepdims=True)

        def score(j, carry):
            far, top = carry
            at = block.tile(j, p)
            x = product(here, _keys(keys, block.b, at, tile))
            x = _masked(x, block.hidden(at, tile, p, False))
            far = jax.lax.dynamic_update_slice_in_dim(far, x, j * tile, 2)
            return far, jnp.maximum(top, jnp.max(x, axis=-1, keepdims=True))

        def weigh(j, o):
            x = jax.lax.dynamic_slice_in_dim(far, j * tile, tile, 2)
            values_here = _columns(values, block.b, block.tile(j, p), tile)
            return _added(o, jnp.exp(x - top).astype(v.dtype), values_here, order)

        o = jnp.zeros((kv, rows, values.shape[2]), jnp.float32)
        if p.tiles:
            far = jnp.zeros((kv, rows, tile * p.tiles), jnp.float32)
            far, top = jax.lax.fori_loop(0, block.tiles, score, (far, top))
        top = jnp.maximum(top, MASKED / 2)
        if p.tiles:
            o = jax.lax.fori_loop(0, block.tiles, weigh, o)
        weights = jnp.exp(near - top).astype(v.dtype)
        o = _added(o, weights, _columns(values, block.b, start, p.near), order)
        total = jnp.maximum(o[..., d : d + 1], 0.5)  # 1 at least, or 0
        parts = (o[..., :d] / total, top, total)
        return _, tuple(x.reshape(h, p.queries, -1) for x in parts)

    _, found = jax.lax.scan(one, None, jnp.arange(b * s // p.queries, dtype=jnp.int32))
    return tuple(_whole(x, b) for x in found)


def _whole(x: Float[Array, "n H Q e"], b: int) -> Float[Array, "B H S e"]:
    n, h, queries, e = x.shape
    return jnp.moveaxis(x.reshape(b, n // b, h, queries, e), 1, 2).reshape(b, h, -1, e)


def _attend_fwd(q, k, v, rel, low, p: Plan):
    o, top, total = _forward(q, k, v, rel, low, p)
    return o, (q, k, v, rel, low, o, top, total)


def _attend_bwd(p: Plan, saved, g):
    q, k, v, rel, low, o, top, total = saved
    b, h, s, e = q.shape
    kv, d = k.shape[1], v.shape[3]
    keys, values = _padded(k, p), _padded(v, p).swapaxes(2, 3)
    g = (g / total).astype(jnp.float32)
    delta = jnp.sum(g * o, axis=-1, keepdims=True)
    length, tile = keys.shape[2], p.tile

    def product(x, y, x_axis: int, y_axis: int):
        dims = (((x_axis,), (y_axis,)), ((0,), (0,)))
        return jax.lax.dot_general(x, y, dims, preferred_element_type=jnp.float32)

    def add(whole, part, row, at):
        old = _columns(whole, row, at, part.shape[2])
        return jax.lax.dynamic_update_slice(whole, (old + part)[None], (row, 0, 0, at))

    def one(sums, n):
        block = _block(n, low, p)
        here, above, of_g, less = (block.here(x, kv, p) for x in (q, top, g, delta))
        here_v = of_g.astype(v.dtype)

        def back(carry, at, size: int, causal: bool, bias=None):
            dq, dk, dv = carry
            k_here = _keys(keys, block.b, at, size)
            scores = product(here, k_here, 2, 2)
            scores = _masked(scores, block.hidden(at, size, p, causal), bias)
            weights = jnp.exp(scores - above)
            slope = product(here_v, _columns(values, block.b, at, size), 2, 1)
            slope = (weights * (slope - less)).astype(q.dtype)
            dq = dq + product(slope, k_here, 2, 1)
            dk = add(dk, product(here, slope, 1, 1), block.b, at)
            dv = add(dv, product(here_v, weights.astype(v.dtype), 1, 1), block.b, at)
            return (dq, dk, dv), slope

        carry = (jnp.zeros((kv, here.shape[1], e), jnp.float32), *sums)
        if p.tiles:

            def of_tile(j, carry):
                return back(carry, block.tile(j, p), tile, False)[0]

            carry = jax.lax.fori_loop(0, block.tiles, of_tile, carry)
        before, d_rel = p.near - p.queries, None
        if rel is None:
            (dq, *sums), _ = back(carry, block.near(p), p.near, True)
        else:
            bias, pull = jax.vjp(lambda x: toeplitz(x, before), block.own(rel, p))
            (dq, *sums), slope = back(carry, block.near(p), p.near, True, bias)
            (d_rel,) = pull(slope.astype(bias.dtype).reshape(bias.shape))
        return tuple(sums), (dq.reshape(h, p.queries, e), d_rel)

    sums = tuple(jnp.zeros((b, kv, n, length), jnp.float32) for n in (e, d))
    count = jnp.arange(b * s // p.queries, dtype=jnp.int32)
    found: typing.Any = jax.lax.scan(one, sums, count)
    (dk, dv), (dq, d_rel) = found
    dk, dv = (x[..., p.before :].swapaxes(2, 3) for x in (dk, dv))
    d_rel = None if rel is None else _whole(d_rel, b).astype(rel.dtype)
    return _whole(dq, b).astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), d_rel, None


attend.defvjp(_attend_fwd, _attend_bwd)


def toeplitz(rel: Float[Array, "*h Q N"], before: int) -> Float[Array, "*h Q T"]:
    """Bias rows by distance -> bias by key, for the T = before + Q keys that end with the queries'
    own.

    out[q, t] = rel[q, N - 1 - (before + q - t)] where 0 <= before + q - t < N, else 0 (keys to come
    too: they are masked elsewhere).
    By padding and reshaping alone: a gather would be a scatter in the backward pass.
    """
    *h, n, extent = rel.shape
    some = ((0, 0),) * len(h)
    x = jnp.pad(rel, (*some, (0, 0), (0, n)))
    x = x.reshape(*h, n * (extent + n))[..., : n * (extent + n - 1)]
    x = x.reshape(*h, n, extent + n - 1)  # key column c stands for distance extent - 1 + q - c
    shift = before - (extent - 1)
    if shift >= 0:
        return jnp.pad(x, (*some, (0, 0), (shift, 0)))
    return x[..., -shift:]


def seen_from(
    first: Int[Array, "B S"], position: Int[Array, "B S"], segment: Int[Array, "B S"]
) -> Int[Array, "B S"]:
    """`low` of rows: where in its row each position's sight begins, which may look back to position
    `first` of its session. Segment 0 is padding and sees nothing."""
    here = jnp.arange(position.shape[1], dtype=jnp.int32)[None]
    new = segment != jnp.pad(segment, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    begin = jax.lax.cummax(jnp.where(new, here, 0), axis=1)
    low = jnp.maximum(begin, here - position + first)
    return jnp.where(segment > 0, low, here + 1)
