"""Grouped-query attention with learned relative bias, over packed training rows and over a
persistent cache.

Inkling's attention: per-head RMSNorm on q and k, scale 1/head_dim, no RoPE; a learned bias `r = W_r
x` times a bank `[rank, extent]`, gathered by backward distance in positions and zero beyond the
extent; short convolutions on k and v. Ours adds a second bias by distance in *micro-turns*: `sum_f
a_f cos(w_f dm) + b_f sin(w_f dm)` with `a, b = W_t x` of the query ("how long ago was it?") and, in
global layers, of the key too ("look at me in N seconds": what a wait that the user asks for needs).
There a key may also name digits of the clock ("look at me at second N").
Being a product of a query's and a key's features, it rides in the same contraction as q k^T,
reaches any distance, and needs no gather. `position_bias` selects either or both.
"""

from __future__ import annotations

import dataclasses
import typing

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from tmi import numerics
from tmi.config import ModelConfig
from tmi.mesh import constrain, current, current_rules, one_cpu
from tmi.microturn import Layout
from tmi.models import far, lora
from tmi.models.far import MASKED, toeplitz
from tmi.models.layers import (
    Param,
    RMSNorm,
    ShortConv,
    contract,
    contract_in_blocks,
    decimal,
    dot,
    dots,
    fourier_features,
    fourier_periods,
    in_memory,
    split,
    weight,
    whole_tiles,
)
from tmi_kernels.attention import attention

NEAR_BLOCK = 64  # queries of a block where the reach is short
NEAR_REACH = 256  # a reach is long from here on
KEY_TILE = 8  # 126 numbers take a CPU twice as long as 128
SMALL_BANK = 4  # times its rank: a wider bank of bias rows is not multiplied into the weights


@dataclasses.dataclass(frozen=True)
class Span:
    """What a layer may look back on: `window` positions, or whole blocks if `blocks` > 0."""

    window: int
    blocks: int
    kv_block: int

    @property
    def reach(self) -> int:
        """Positions before its own that a query may see at most."""
        return self.blocks * self.kv_block - 1 if self.blocks else self.window - 1

    def first(self, query: Int[Array, "*n"]) -> Int[Array, "*n"]:
        """The farthest position that a query may see, were its session so long."""
        if self.blocks:
            return (query // self.kv_block - self.blocks + 1) * self.kv_block
        return query - self.window + 1

    def visible(self, query: Array, key: Array) -> Bool[Array, "..."]:
        """Of positions inside a session; causal."""
        return (key >= self.first(query)) & (key <= query)


class Heads(typing.NamedTuple):
    """How many heads a layer has for queries and for keys and values, and their width."""

    query: int
    kv: int
    dim: int


def heads_of(c: ModelConfig, span: Span) -> Heads:
    """Sliding layers may have heads of their own."""
    if span.blocks:
        return Heads(c.num_heads, c.num_kv_heads, c.head_dim)
    return Heads(
        c.sliding_num_heads or c.num_heads,
        c.sliding_num_kv_heads or c.num_kv_heads,
        c.sliding_head_dim or c.head_dim,
    )


def bias_extent(c: ModelConfig, span: Span) -> int:
    """Distance in positions beyond which a layer's learned bias is zero."""
    return c.global_bias_extent if span.blocks and c.global_bias_extent else c.bias_extent


def features(c: ModelConfig, span: Span) -> int:
    """Numbers of a key that meet a query's: those of the head, and the time features where there
    are any."""
    dim = heads_of(c, span).dim
    if c.position_bias == "token":
        return dim
    if not span.blocks:
        return dim + 2 * c.time_frequencies
    return dim + 4 * c.time_frequencies + 10 * max(0, c.clock_digits - 1)


def key_dim(c: ModelConfig, span: Span) -> int:
    """Width of a key: its features, and zeros to whole groups of KEY_TILE where there are some of
    time."""
    if c.position_bias == "token":
        return features(c, span)
    return -(-features(c, span) // KEY_TILE) * KEY_TILE


class Attention(nnx.Module):
    def __init__(self, c: ModelConfig, span: Span, key: Array):
        self.c = c
        self.span = span
        k = jax.random.split(key, 8)
        self.extent = bias_extent(c, span)
        n, n_kv, hd = heads_of(c, span)
        d = c.width
        self.q = weight(k[0], n * hd, d, ("heads", "embed"))
        self.k = weight(k[1], n_kv * hd, d, ("kv_heads", "embed"))
        self.v = weight(k[2], n_kv * hd, d, ("kv_heads", "embed"))
        self.out = weight(k[3], d, n * hd, ("embed", "heads"), scale=0.5)
        self.q_norm = RMSNorm(hd, c.qk_gain, c.norm_eps)
        self.k_norm = RMSNorm(hd, c.qk_gain, c.norm_eps)
        self.k_conv = ShortConv(n_kv * hd, c.conv_width)
        self.v_conv = ShortConv(n_kv * hd, c.conv_width)
        if c.position_bias in ("token", "both"):
            self.rel = weight(k[4], n * c.bias_rank, d, ("heads", "embed"))
            bank = jax.random.normal(k[5], (c.bias_rank, self.extent)) * 0.02
            self.bank = Param(bank, axes=(None, None))
        if c.position_bias in ("microturn", "both"):
            self.time = weight(k[6], n * 2 * c.time_frequencies, d, ("heads", "embed"), scale=0.2)
            if span.blocks:
                self.time_key = weight(
                    k[7], n_kv * 2 * c.time_frequencies, d, ("kv_heads", "embed"), 0.2
                )
                if c.clock_digits > 1:
                    zeros = jnp.zeros((n_kv * 10 * (c.clock_digits - 1), d), jnp.float32)
                    self.clock_key = Param(zeros, axes=("kv_heads", "embed"))
        lora.attach(self, ("q", "k", "v", "out"), c, jax.random.fold_in(key, 8))

    def rows(self) -> dict[str, Float[Array, "o D"]]:
        """By name, all that x is multiplied by."""
        c, n, d = self.c, heads_of(self.c, self.span).query, self.c.width
        weights = {"q": self.q[...], "k": self.k[...], "v": self.v[...]}
        if hasattr(self, "rel"):
            rel = self.rel[...]
            if self.extent <= SMALL_BANK * c.bias_rank:  # then the bank is applied to the weights
                bank = self.bank[..., ::-1]  # the farthest distance first, as toeplitz() wants it
                rel = jnp.einsum("rn,hrd->hnd", bank, rel.reshape(n, c.bias_rank, d))
            weights["rel"] = rel.reshape(-1, d)
        for name in ("time", "time_key"):
            if hasattr(self, name):
                ab = getattr(self, name)[...].reshape(-1, 2, c.time_frequencies, d)
                weights[name + " a"] = ab[:, 0].reshape(-1, d)
                weights[name + " b"] = ab[:, 1].reshape(-1, d)
        if hasattr(self, "clock_key"):
            weights["clock_key"] = self.clock_key[...]
        return weights

    def join(self) -> None:
        """For decoding: `rows` become one matrix for good, which training makes anew each step."""
        rows = self.rows()
        self.parts = tuple((name, w.shape[0]) for name, w in rows.items())
        self.joint = Param(jnp.concatenate(list(rows.values())), axes=(None, "embed"))
        for name in ("q", "k", "v", "rel", "time", "time_key", "clock_key"):
            if hasattr(self, name):
                delattr(self, name)

    def _products(self, x) -> dict[str, Float[Array, "B S o"]]:
        if hasattr(self, "joint"):
            names, sizes = zip(*self.parts, strict=True)
            return dict(zip(names, split(dot(x, self.joint[...]), sizes), strict=True))
        rows = self.rows()
        return dict(zip(rows, dots(x, *rows.values()), strict=True))

    def project(self, x, position, time: Time, states=(None, None)):
        """q [B,H,S,key_dim], k [B,K,S,key_dim], v [B,K,S,hd], token-bias rows [B,H,S,extent] (the
        farthest distance first) or None, conv histories.

        q is scaled; the time features are appended to q and k.
        """
        c = self.c
        n, n_kv, hd = heads_of(c, self.span)
        b, s, d = x.shape
        y = self._products(x)

        q = self.q_norm(y["q"].reshape(b, s, n, hd)) / hd
        k, k_hist = self.k_conv(y["k"], position, states[0])
        v, v_hist = self.v_conv(y["v"], position, states[1])
        k = self.k_norm(k.reshape(b, s, n_kv, hd))
        v = v.reshape(b, s, n_kv, hd)
        scaling = None
        if c.log_scaling_floor and self.span.blocks:
            length = (position + 1).astype(jnp.float32) / c.log_scaling_floor
            scaling = 1 + c.log_scaling_alpha * jnp.log(jnp.maximum(1.0, length))
            scaling = scaling[..., None, None]
            q = q * scaling
        if "time a" in y:
            here = jnp.concatenate([time.cos, time.sin], axis=-1)[:, :, None]

            def turned(name, heads, sign):
                """The two features of each head, computed on whole rows."""
                cos, sin = (jnp.tile(x, heads) for x in (time.cos, time.sin))
                a_, b_ = y[name + " a"], sign * y[name + " b"]
                none = numerics.zero(position)[..., None]
                rows = none + a_ * cos + b_ * sin, none + a_ * sin - b_ * cos
                rows = jax.lax.optimization_barrier(rows)
                return [r.reshape(b, s, heads, c.time_frequencies) for r in rows]

            def along(here, heads):
                return jnp.broadcast_to(here, (b, s, heads, here.shape[-1]))

            q_parts = [q, *turned("time", n, 1)]
            k_parts = [k, along(here, n_kv)]
            if "time_key a" in y:
                q_parts.append(along(here, n))
                k_parts += turned("time_key", n_kv, -1)
            if "clock_key" in y and time.digits is not None:
                q_parts.append(along(time.digits[:, :, None], n))
                k_parts.append(y["clock_key"].reshape(b, s, n_kv, -1))
            if more := key_dim(c, self.span) - features(c, self.span):
                q_parts.append(jnp.zeros((b, s, n, more)))
                k_parts.append(jnp.zeros((b, s, n_kv, more)))
            q, k = jnp.concatenate(q_parts, axis=-1), jnp.concatenate(k_parts, axis=-1)
        rel = None
        if "rel" in y:
            rel = y["rel"].reshape(b, s, n, -1)
            if self.extent > SMALL_BANK * c.bias_rank:
                rel = dot(rel, self.bank[..., ::-1].T)
            rel = rel if scaling is None else rel * scaling
        dtype = self.out.dtype  # of the products; norms and convolutions are f32
        rel = None if rel is None else heads_first(rel)
        q, k, v = (heads_first(z.astype(dtype)) for z in (q, k, v))
        return q, k, v, rel, (k_hist, v_hist)

    def foreseen(self, x: Float[Array, "B K D"], time: Time, later: Time) -> Float[Array, "B K M"]:
        """How much keys made of `x`, at `time`, will ask queries at times `later` [1, M] to look at
        them: what the time features of the first head's keys add to its scores."""
        c = self.c
        a, b = self.time_key[...].reshape(-1, 2, c.time_frequencies, c.width)[0]
        a, b = dots(x, a, b)
        keys = [a * time.cos - b * time.sin, a * time.sin + b * time.cos]
        queries = [later.cos, later.sin]
        if later.digits is not None:
            keys.append(dot(x, self.clock_key[...][: later.digits.shape[-1]]))
            queries.append(later.digits)
        queries = jnp.concatenate(queries, axis=-1)
        shape = (x.shape[0], *queries.shape[1:])
        return contract(jnp.concatenate(keys, axis=-1), jnp.broadcast_to(queries, shape))

    def merge(self, o: Float[Array, "B H S d"]) -> Float[Array, "B S D"]:
        b, h, s, d = o.shape
        return dot(o.swapaxes(1, 2).reshape(b, s, h * d), self.out[...])

    def __call__(self, x, position, time: Time, hidden):
        """Training: x [B,S,D] of packed rows, which start their sessions on kv_block boundaries;
        `hidden` of `hidden_of`."""
        q, k, v, rel, _ = self.project(x, position, time)
        # Where a row's positions are divided, attention divides heads in their place.
        q, k, v = (constrain(z, "batch", "attended_heads", None, None) for z in (q, k, v))
        if rel is not None:
            rel = constrain(rel, "batch", "attended_heads", None, None)
        if self.c.attention_kernel == "reference":
            return self.merge(attend_rows(q, k, v, rel, hidden, self.span))
        implementation = self.c.attention_kernel
        return self.merge(by_kernel(q, k, v, rel, position, hidden, self.span, implementation))


def heads_first(x: Float[Array, "B S H e"]) -> Float[Array, "B H S e"]:
    """A copy of its own, both ways: a fusion that computes across it is slow."""
    return jax.lax.optimization_barrier(x).swapaxes(1, 2)


class Time(typing.NamedTuple):
    """What every layer's time features are made of. digits: of the whole seconds that the clock
    shows (tmi/models/embed.py), one-hot; None without `clock_digits`."""

    cos: Float[Array, "B S F"]
    sin: Float[Array, "B S F"]
    digits: Float[Array, "B S G"] | None


def time_of(c: ModelConfig, lay: Layout, microturn: Int[Array, "B S"]) -> Time:
    """Held in memory: XLA would take each cosine anew in every fusion that reads it."""
    periods = fourier_periods(c.time_frequencies, c.time_max_microturns)

    def make(microturn) -> Time:
        digits = None
        if c.clock_digits > 1:
            digits = decimal(lay.output_tenths(microturn) // 10, c.clock_digits - 1)
        return Time(*fourier_features(microturn, periods), digits)

    return in_memory(make, microturn)


def is_near(span: Span, length: int) -> bool:
    return span.reach < NEAR_REACH and length % NEAR_BLOCK == 0


def hidden_of(c: ModelConfig, position: Int[Array, "B S"], segment: Int[Array, "B S"], span: Span):
    """What layers of a span are told of who is hidden from whom: `row_mask`; where each position's
    sight begins if the reach is long; the segments where a kernel finds out by itself."""
    if c.attention_kernel != "reference":
        return segment
    if is_near(span, position.shape[1]):
        return row_mask(position, segment, span)
    return far.seen_from(span.first(position), position, segment)


def by_kernel(q, k, v, rel, position, segment, span: Span, implementation: str):
    """`attend_rows` by tmi_kernels.attention; on a mesh each device has whole rows of its heads."""

    def run(q, k, v, position, segment, *rel):
        bias = rel[0] if rel else None
        return attention(q, k, v, bias, position, segment, span, implementation=implementation)

    mesh, bias = current(), () if rel is None else (rel,)
    if mesh is not None:
        # Query heads go where their key heads are.
        by_head = current_rules().spec(("batch", "attended_heads", None, None), k.shape, mesh)
        by_row = PartitionSpec(by_head[0])
        specs = (by_head,) * 3 + (by_row,) * 2 + (by_head,) * len(bias)
        run = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=by_head, check_vma=False)
    return run(q, k, v, position, segment, *bias)


def row_mask(
    position: Int[Array, "B S"], segment: Int[Array, "B S"], span: Span
) -> Float[Array, "b Q T"]:
    """What is added to the scores of each block of queries of a short reach: 0 where the key is
    seen, else MASKED. Segment 0 is padding. Layers of one span share it, held in memory: integer
    comparisons for every head in every fusion cost more than reading it."""
    n, steps = position.shape[1] // NEAR_BLOCK, -(-span.reach // NEAR_BLOCK)
    qp, qs = (x.reshape(-1, NEAR_BLOCK) for x in (position, segment))
    kp = _with_history(qp, n, steps, 1, 0)
    ks = _with_history(qs, n, steps, 1, -1)
    return jax.lax.optimization_barrier(_mask(qp, kp, qs, ks, span))


def _mask(q_position, k_position, q_segment, k_segment, span: Span) -> Float[Array, "*b Q T"]:
    visible = span.visible(q_position[..., :, None], k_position[..., None, :])
    return additive(visible & (q_segment[..., :, None] == k_segment[..., None, :]))


def additive(visible: Bool[Array, "*b"]) -> Float[Array, "*b"]:
    return jnp.where(visible, 0.0, MASKED)


def attend_rows(q, k, v, rel, hidden, span: Span) -> Array:
    """Attention over packed rows. q [B,H,S,E], k [B,K,S,E], v [B,K,S,d], rel [B,H,S,extent],
    `hidden` of `hidden_of` -> [B,H,S,d].

    Short reaches are one batched product: each block of queries beside the blocks within its reach.
    For long ones see tmi/models/far.py; accelerators and meshes take all rows together.
    """
    length = q.shape[2]
    if is_near(span, length):
        return _attend_near(q, k, v, rel, hidden, span, NEAR_BLOCK)
    extent = 0 if rel is None else rel.shape[3]
    sizes = far.plan(length, span.reach, extent, span.kv_block, numerics.invariant())
    one: typing.Any = far.attend
    return (one if one_cpu() else _attend_together)(q, k, v, rel, hidden, sizes)


def _with_history(x, n: int, steps: int, axis: int, fill):
    """[B * n, ...] -> the `steps` blocks before beside each of n, along `axis`."""
    x = x.reshape((-1, n) + x.shape[1:])
    past = [
        jnp.concatenate([jnp.full_like(x[:, : min(i, n)], fill), x[:, : max(n - i, 0)]], axis=1)
        for i in range(steps, 0, -1)
    ]
    x = jnp.concatenate([*past, x], axis=axis + 1)
    return x.reshape((-1,) + x.shape[2:])


def _attend_near(q, k, v, rel, mask, span: Span, block: int):
    """Every block of queries beside the blocks of keys within its reach and its own, as one
    batch."""
    b, h, s, _ = q.shape
    n, steps = s // block, -(-span.reach // block)

    def blocks(x):  # [B, heads, S, e] -> [B * n, heads, block, e]
        x = x.reshape(b, x.shape[1], n, block, x.shape[3]).swapaxes(1, 2)
        return x.reshape(b * n, x.shape[2], block, x.shape[4])

    keys = _with_history(blocks(k), n, steps, 2, 0)
    values = _with_history(blocks(v).swapaxes(2, 3), n, steps, 3, 0)
    bias = None if rel is None else toeplitz(blocks(rel), steps * block)
    o = attend(blocks(q), keys, values, bias, mask, span.kv_block)
    return o.reshape(b, n, h, block, -1).swapaxes(1, 2).reshape(b, h, s, -1)


def _attend_together(q, k, v, rel, low: Int[Array, "B S"], p: far.Plan):
    """As `far.attend`: a block of queries of all rows at a time, with as many keys as one of them
    may see. It keeps nothing but its inputs for the backward pass."""
    b, h, s, _ = q.shape
    size = p.queries + p.before
    keys, values = (jnp.pad(x, ((0, 0), (0, 0), (p.before, 0), (0, 0))) for x in (k, v))
    values = values.swapaxes(2, 3)

    def blocks(x, axis: int):  # [.., S, ..] -> [n, .., queries, ..]
        x = x.reshape(*x.shape[:axis], -1, p.queries, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    @jax.checkpoint
    def one(args):
        at, q, low, rel = args
        near = jax.lax.dynamic_slice_in_dim(keys, at, size, axis=2)
        values_near = jax.lax.dynamic_slice_in_dim(values, at, size, axis=3)
        bias = None if rel is None else toeplitz(rel, p.before)
        key = at - p.before + jnp.arange(size, dtype=jnp.int32)
        query = at + jnp.arange(p.queries, dtype=jnp.int32)
        visible = (key >= low[..., None]) & (key <= query[:, None])
        return attend(q, near, values_near, bias, additive(visible), p.order)

    rel = None if rel is None else blocks(rel, 2)
    at = jnp.arange(0, s, p.queries, dtype=jnp.int32)
    o = jax.lax.map(one, (at, blocks(q, 2), blocks(low, 1), rel))
    return jnp.moveaxis(o, 0, 2).reshape(b, h, s, -1)


def attend(
    q: Float[Array, "B H Q E"], k: Float[Array, "B K T E"], v_t: Float[Array, "B K d T"],
    bias: Float[Array, "B H Q T"] | None, hidden: Float[Array, "B Q T"], block: int,
) -> Float[Array, "B H Q d"]:  # fmt: skip
    """Softmax attention of grouped queries; v is stored transposed. `hidden` is 0 or MASKED; rows
    that see nothing give zeros. `block`: the positions after which sums begin anew, from the
    session's beginning, where numerics are invariant."""
    p = weights_of(q, k, bias, hidden)
    if numerics.invariant():
        o, total = apart(
            contract_in_blocks(p.astype(v_t.dtype), with_ones(v_t), block), v_t.shape[2]
        )
    else:
        total = jnp.sum(p, axis=-1, keepdims=True)
        o = contract(p.astype(v_t.dtype), v_t)
    return shared_out(o, total, q.shape[1])


def weights_of(q, k, bias, hidden) -> Float[Array, "B K gQ T"]:
    """exp(score - greatest score), the queries of a key's group one after the other: 0 where
    hidden, whatever the row."""
    b, h, n, e = q.shape
    kv = k.shape[1]
    keys = whole_tiles(k) if numerics.invariant() else k
    scores = contract(q.reshape(b, kv, h // kv * n, e), keys)[..., : k.shape[2]]
    scores = scores.reshape(b, kv, h // kv, n, -1)
    if bias is not None:
        scores = scores + bias.reshape(scores.shape)
    scores = scores + hidden[:, None, None]
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    p = jnp.exp(scores - jnp.maximum(top, MASKED / 2))
    return p.reshape(b, kv, h // kv * n, -1)


def with_ones(v_t: Float[Array, "*b d T"]) -> Float[Array, "*b n T"]:
    """Values, a row of ones, and zeros to whole tiles: their product with weights holds the sum of
    the weights too."""
    *b, d, t = v_t.shape
    rest = jnp.zeros((*b, value_rows(d) - d, t), v_t.dtype).at[..., 0, :].set(1)
    return jnp.concatenate([v_t, rest], axis=-2)


def value_rows(d: int) -> int:
    return -(-(d + 1) // 2) * 2


def apart(o: Float[Array, "*b n"], d: int) -> tuple[Float[Array, "*b d"], Float[Array, "*b 1"]]:
    """Weighted values and the sum of the weights, of a product with `with_ones`."""
    return o[..., :d], o[..., d : d + 1]


def shared_out(o: Float[Array, "B K gQ d"], total: Float[Array, "B K gQ 1"], heads: int):
    """Sums of weighted values over those of the weights, by heads [B, H, Q, d]."""
    y = o / jnp.maximum(total, 0.5)  # 1 at least, or 0
    return y.reshape(o.shape[0], heads, -1, o.shape[-1])


def attention_macs(c: ModelConfig, span: Span, length: int) -> float:
    """Multiply-adds a position spends on scores and values, masked ones left out, in sessions of
    `length` positions."""
    seen = min(span.reach + 1, length)
    mean = seen - seen * (seen - 1) / (2 * length)
    n, _, hd = heads_of(c, span)
    return mean * n * (features(c, span) + hd)
