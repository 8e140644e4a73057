"""What the attention kernels share: the sizes of tiles, the bias of a tile, one step of a softmax.

A tile is `queries` positions of a query head against `keys` positions of its key head. A row's
visible keys are an interval that ends with itself, so its mask is one number, the first of them.
"""

from __future__ import annotations

import dataclasses
import math
import typing

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float

LANES = 128
SUBLANES = 8
ROWS = 128  # of queries in every product of the forward pass, in training and decoding alike
HIDDEN = -1e30
VMEM_BYTES = 40 * 2**20  # all that a kernel's blocks may take
MOST_VMEM_BYTES = 48 * 2**20  # and what a compiler adds; the smallest of these TPUs has 64 MiB


def whole(n: int, tile: int) -> int:
    return -(-n // tile) * tile


def reach(span) -> int:
    """Positions before its own that a query may see at most."""
    return span.blocks * span.kv_block - 1 if span.blocks else span.window - 1


def first_visible(position: Array, span) -> Array:
    """The first position of its session that each sees."""
    if span.blocks:
        return jnp.maximum(position // span.kv_block - span.blocks + 1, 0) * span.kv_block
    return jnp.maximum(position - span.window + 1, 0)


def dot(a, b, contracted: tuple[int, int]):
    """The product of two matrices in f32, over one axis of each."""
    return jax.lax.dot_general(
        a,
        b,
        (((contracted[0],), (contracted[1],)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )


@dataclasses.dataclass(frozen=True)
class BiasWindow:
    """Which columns of the bias rows a tile of `rows` queries and `columns` keys needs, and how
    they are turned.

    Bias rows hold `extent` distances (whole lanes), the farthest first. Query i needs for key t
    column t - i + c, c that of query 0 and key 0: rows turned one lane more each. So a stretch of
    columns that begins at a multiple of the lanes is read and rolled with a stride. Mosaic takes
    no negative strides, so the way back, from keys to columns, is taken with the rows upside down.

    grain: what the distances between tiles are multiples of.
    """

    extent: int
    rows: int
    columns: int
    grain: int
    interpret: bool

    @property
    def width(self) -> int:
        slack = LANES - math.gcd(LANES, self.grain)
        return min(self.extent, whole(self.rows + self.columns - 1 + slack, LANES))

    def start(self, between: Array) -> Array:
        """The first column read, where query 0 is `between` positions after key 0."""
        start = (self.extent - between - self.rows) & -LANES
        return pl.multiple_of(jnp.clip(start, 0, self.extent - self.width), LANES)

    def near(self, between: Array) -> Array:
        """Whether any key is within the extent."""
        return between - (self.columns - 1) < self.extent

    def _within(self, between: Array) -> Bool[Array, "q t"]:
        shape = (self.rows, self.columns)
        distance = between + _iota(shape, 0) - _iota(shape, 1)
        return (distance >= 0) & (distance < self.extent)

    def _first(self, between: Array) -> Array:
        """The column of query 0 and key 0, in what is read."""
        return self.extent - 1 - between - self.start(between)

    def bias(self, rel: Float[Array, "q w"], between: Array) -> Float[Array, "q t"]:
        """Of what was read, f32; 0 beyond the extent."""
        x = self._turned(rel.astype(jnp.float32), -self._first(between))
        x = jnp.concatenate([x] * -(-self.columns // self.width), axis=1)[:, : self.columns]
        return jnp.where(self._within(between), x, 0.0)

    def back(self, x: Float[Array, "q t"], between: Array, dtype) -> Float[Array, "q w"]:
        """Where bias() takes from, x goes to; the rows come upside down."""
        x = jnp.where(self._within(between), x, 0.0)
        x = jnp.pad(x, ((0, 0), (0, -self.columns % LANES)))
        parts = range(0, whole(self.columns, LANES), self.width)
        wide = [_to_width(x[:, i : i + self.width], self.width) for i in parts]
        x = upside_down(sum(wide[1:], wide[0]).astype(dtype))
        return self._turned(x, self._first(between) - (self.rows - 1))

    def _turned(self, x: Float[Array, "q w"], turn: Array) -> Float[Array, "q w"]:
        """Row i rolled to the right by `turn` + i."""
        turn = jnp.remainder(turn, self.width)
        if self.interpret:
            return turned_by_gather(x, turn)
        if self.grain % SUBLANES:
            # Mosaic turns 8 rows at a time, the last of them by 128 lanes at most.
            x = pltpu.roll(x, turn, 1)
            return pltpu.roll(x, 0, 1, stride=1, stride_axis=0)
        return pltpu.roll(x, turn, 1, stride=1, stride_axis=0)


def turned_by_gather(x: Float[Array, "q w"], turn: Array) -> Float[Array, "q w"]:
    """pltpu.roll(x, turn, 1, stride=1, stride_axis=0), which takes a minute to compile on CPUs."""
    column = (_iota(x.shape, 1) - turn - _iota(x.shape, 0)) % x.shape[1]
    return jnp.take_along_axis(x, column, axis=1)


def _iota(shape, axis: int) -> Array:
    return jax.lax.broadcasted_iota(jnp.int32, shape, axis)


def _to_width(x: Array, width: int) -> Array:
    return x if x.shape[1] == width else jnp.pad(x, ((0, 0), (0, width - x.shape[1])))


def upside_down(x: Float[Array, "q t"]) -> Float[Array, "q t"]:
    """The rows in reverse, f32, to the bit: by the matrix unit, which is quick at it."""
    n = x.shape[0]
    flip = _iota((n, n), 0) + _iota((n, n), 1) == n - 1
    return dot(jnp.where(flip, 1.0, 0.0).astype(x.dtype), x, (1, 0))


def when(some: Array, update, window: BiasWindow | None, between: Array, reach: int) -> None:
    """update(window) where `some`; update(None) where all keys are beyond the bias, if that is
    worth a second program: adding zeros instead changes no bit."""
    if window is None or reach < 2 * window.extent:
        pl.when(some)(lambda: update(window))
        return
    near = window.near(between)
    pl.when(some & near)(lambda: update(window))
    pl.when(some & ~near)(lambda: update(None))


class Softmax(typing.NamedTuple):
    """A row's greatest score so far, and over its keys so far the sums of exp(score - greatest) and
    of the values weighted by it."""

    top: Float[Array, "q 1"]
    total: Float[Array, "q 1"]
    sums: Float[Array, "q d"]


def nothing(rows: int, dim: int) -> Softmax:
    column = (rows, 1)
    return Softmax(
        jnp.full(column, HIDDEN / 2, jnp.float32),
        jnp.zeros(column, jnp.float32),
        jnp.zeros((rows, dim), jnp.float32),
    )


def step(state: Softmax, scores: Float[Array, "q t"], values: Float[Array, "t d"]) -> Softmax:
    """A block more. One that a row does not see, whose scores are HIDDEN, changes no bit of it:
    the greatest stays, all is multiplied by exp(0) = 1, and zeros are added."""
    top = jnp.maximum(state.top, jnp.max(scores, axis=1, keepdims=True))
    p, old = jnp.exp(scores - top), jnp.exp(state.top - top)
    total = state.total * old + jnp.sum(p, axis=1, keepdims=True)
    return Softmax(top, total, state.sums * old + dot(p.astype(values.dtype), values, (1, 0)))
