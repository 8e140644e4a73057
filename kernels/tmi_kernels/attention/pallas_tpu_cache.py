"""Attention over a persistent cache for TPUs (v5e and later): a chunk of new positions a slot is
written, then attends.

The cache is a ring of whole blocks: position p of a slot lies at p % T. Two kernels. The first
writes: it visits the blocks that a slot's new positions touch, merges them in, and writes them back
in place (the caches are aliased, other blocks are not touched). The second attends: the grid runs
over (slot, block), from the oldest block that the slot's first new position sees to the newest, as
many steps as the slot that needs most; for a slot that needs fewer the rest fetch and compute
nothing. A step takes the block of all key heads: a decode step's time is that of reading them.

Why a row's bits are its own: the chain is that of pallas_tpu.py, by the same `step` over the same
blocks of kv_block positions from the session's beginning, in products of the same 128 rows: those
of a chunk's heads one after the other, padded. Where in the ring a block lies, how large the ring
is, and which chunk brought a position change nothing in it. What a block holds beyond a slot's
length (nothing yet, or the session before) is hidden from scores and zeroed in values, so that it
cannot reach anybody even if it is no number.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from tmi_kernels.attention.tiles import (
    HIDDEN,
    LANES,
    MOST_VMEM_BYTES,
    ROWS,
    VMEM_BYTES,
    BiasWindow,
    Softmax,
    dot,
    first_visible,
    nothing,
    reach,
    step,
    when,
    whole,
)
from tmi_kernels.platforms import only_on

CHUNK = 16  # is padded to whole ones: the rows of a tile of bfloat16


@dataclasses.dataclass(frozen=True)
class Plan:
    """Of a call. block: positions of a block; ring: blocks of the cache; window, blocks: of the
    span, and its reach; interpret: what pl.pallas_call takes."""

    block: int
    ring: int
    window: int
    blocks: int
    reach: int
    interpret: object

    def first_visible(self, position: Array) -> Array:
        if self.blocks:
            block = jax.lax.div(position, self.block)
            return jnp.maximum(block - self.blocks + 1, 0) * self.block
        return jnp.maximum(position - self.window + 1, 0)


@functools.partial(jax.jit, static_argnames=("span", "interpret"))
def attention_cached(q, k, v, rel, keys, values, length, count, span, *, interpret=False):
    """See `tmi_kernels.attention`. interpret: what pl.pallas_call takes. Raises ValueError if the
    blocks do not fit a TPU's fast memory (VMEM)."""
    b, h, n, e = q.shape
    kv, size = keys.shape[1:3]
    block, groups, d = span.kv_block, h // kv, v.shape[3]
    p = Plan(block, size // block, span.window, span.blocks, reach(span), interpret)
    check_vmem(p, q, keys, values, rel)
    if not interpret:
        length = only_on(length, "tpu", op="attention_cached", implementation="pallas_tpu")
    # What is not finite is written as zero: it would reach who comes after it in the slot.
    k, v = (jnp.where(jnp.isfinite(x), x, 0) for x in (k, v))
    keys, values = _write(p, k, v, keys, values, length, count)

    chunk = whole(n, CHUNK)
    rows = whole(groups * chunk, ROWS)

    def padded(x, far=0):
        return jnp.pad(x, ((0, 0), (0, 0), (0, chunk - n), (far, 0)))

    def of_heads(x):  # [b, heads, chunk, width] -> [b, kv, rows, width]
        x = x.reshape(b, kv, groups * chunk, -1)
        return jnp.pad(x, ((0, 0), (0, 0), (0, rows - groups * chunk), (0, 0)))

    if rel is not None:
        far = -rel.shape[-1] % LANES  # distances beyond the extent, whose bias is 0
        rel = padded(rel, far).reshape(b, kv, groups, chunk, -1)
    row = jnp.arange(chunk, dtype=jnp.int32)
    position = jnp.where(row < count[:, None], length[:, None] + row, -1)  # -1 sees nothing
    position = jnp.tile(position, groups)
    position = jnp.pad(position, ((0, 0), (0, rows - groups * chunk)), constant_values=-1)
    seen = jnp.stack([first_visible(position, span), position], axis=1)[..., None]
    o = _attend(p, of_heads(padded(q)), rel, seen, keys, values, length, count)
    o = o[:, :, : groups * chunk].reshape(b, h, chunk, d)
    return o[:, :, :n], keys, values


def check_vmem(p: Plan, q, keys, values, rel) -> None:
    """Raises ValueError unless the larger of the two kernels fits."""
    (h, n, e), kv, d = q.shape[1:], keys.shape[1], values.shape[3]
    e, d, rows = whole(e, LANES), whole(d, LANES), kv * whole(h // kv * whole(n, CHUNK), ROWS)
    bias = h * whole(n, CHUNK) * whole(rel.shape[3], LANES) if rel is not None else 0
    attend = 2 * (rows * (e + d) + bias + kv * p.block * (e + d)) + rows * (d + 2 * LANES)
    write = kv * (e + d) * (2 * whole(n + p.block, CHUNK) + 4 * p.block)
    need = 4 * max(attend, write)
    if need > VMEM_BYTES:
        raise ValueError(
            f"attention_cached: {q.shape[2]} new positions of {h} query heads and {kv} key heads "
            f"take {need / 2**20:.0f} MiB of VMEM; accepted: at most {VMEM_BYTES // 2**20} MiB, so "
            "a shorter chunk or fewer heads"
        )


def _write_kernel(p: Plan, length, count, k, v, old_keys, old_values, keys, values):
    b, j = pl.program_id(0), pl.program_id(1)
    first = jax.lax.div(length[b], p.block)
    # The block's first position, counted from the first new one; more than 0 in later blocks.
    start = (first + j) * p.block - length[b]

    @pl.when(first + j <= _newest(p, length[b], count[b]))
    def _():
        for new, old, out in ((k, old_keys, keys), (v, old_values, values)):
            rows = new.shape[2]
            at = start + jax.lax.broadcasted_iota(jnp.int32, (p.block, 1), 0)
            own = (at >= 0) & (at < count[b])
            for h in range(new.shape[1]):
                # Rolled as f32, of which Mosaic turns single rows; the values survive it.
                x = pltpu.roll(new[0, h].astype(jnp.float32), jnp.remainder(-start, rows), 0)
                out[0, h] = jnp.where(own, x[: p.block].astype(out.dtype), old[0, h])


def _write(p: Plan, k, v, keys, values, length, count):
    b, kv, n, _ = k.shape
    # Blocks that the new positions touch at most.
    touched = min(p.ring, -(-(n + p.block - 1) // p.block))
    rows = whole(n + p.block, CHUNK)  # with room for a turn

    def of_ring(b, j, length, count):
        # Past the last one touched it is that again, and stays as it was written.
        block = jax.lax.div(length[b], p.block) + j
        block = jnp.minimum(block, _newest(p, length[b], count[b]))
        return b, 0, jax.lax.rem(block, p.ring), 0

    new = [
        jnp.pad(x.astype(c.dtype), ((0, 0), (0, 0), (0, rows - n), (0, 0)))
        for x, c in ((k, keys), (v, values))
    ]
    caches = [pl.BlockSpec((1, kv, p.block, c.shape[3]), of_ring) for c in (keys, values)]
    whole_chunk = [
        pl.BlockSpec((1, kv, rows, c.shape[3]), lambda b, j, length, count: (b, 0, 0, 0))
        for c in (keys, values)
    ]
    return pl.pallas_call(
        functools.partial(_write_kernel, p),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(b, touched),
            in_specs=[*whole_chunk, *caches],
            out_specs=caches,
        ),
        out_shape=[jax.ShapeDtypeStruct(c.shape, c.dtype) for c in (keys, values)],
        input_output_aliases={4: 0, 5: 1},
        cost_estimate=pl.CostEstimate(
            flops=0,
            transcendentals=0,
            # Of each cache the blocks touched, read and written, and what is new.
            bytes_accessed=sum(
                b * kv * (2 * touched * p.block + rows) * c.shape[3] * c.dtype.itemsize
                for c in (keys, values)
            ),
        ),
        **_options(p, "attention_cache_write"),
    )(length, count, *new, keys, values)


def _options(p: Plan, name: str) -> dict:
    order = ("parallel", "arbitrary")
    params = pltpu.CompilerParams(dimension_semantics=order, vmem_limit_bytes=MOST_VMEM_BYTES)
    return dict(compiler_params=params, interpret=p.interpret, name=name)


def _oldest(p: Plan, length):
    """The oldest block that a chunk's first position sees."""
    return jax.lax.div(p.first_visible(length), p.block)


def _newest(p: Plan, length, count):
    """The block of a chunk's last position; that of the next one, if it has none."""
    return jax.lax.div(jnp.maximum(length + count - 1, length), p.block)


def _attend_kernel(p: Plan, extent: int, length, count, q, visible, keys, values, *refs):
    rel, (o, top, total, sums) = (refs[0], refs[1:]) if extent else (None, refs)
    b, j = pl.program_id(0), pl.program_id(1)
    kv, rows = q.shape[1:3]
    oldest, newest = _oldest(p, length[b]), _newest(p, length[b], count[b])
    key, query, end = (oldest + j) * p.block, length[b], length[b] + count[b]
    between = query - key
    window = None
    if rel is not None:
        window = BiasWindow(extent, rel.shape[3], p.block, 1, bool(p.interpret))

    @pl.when(j == 0)
    def _():
        for h in range(kv):
            top[h], total[h], sums[h] = nothing(rows, values.shape[3])

    def bias_of(h, window):
        assert rel is not None  # it is what there is a window for
        read = pl.ds(window.start(between), window.width)
        parts = [window.bias(rel[0, h, g, :, read], between) for g in range(rel.shape[2])]
        rest = rows - rel.shape[2] * rel.shape[3]
        return jnp.concatenate(parts + [jnp.zeros((rest, p.block), jnp.float32)] * (rest > 0))

    def update(window):
        column = key + jax.lax.broadcasted_iota(jnp.int32, (rows, p.block), 1)
        seen = (column >= visible[0, 0]) & (column <= visible[0, 1])
        held = key + jax.lax.broadcasted_iota(jnp.int32, (p.block, 1), 0) < end
        for h in range(kv):
            bias = None if window is None else bias_of(h, window)
            clean = jnp.where(held, values[0, h], jnp.zeros_like(values[0, h]))
            for at in range(0, rows, ROWS):
                part = slice(at, at + ROWS)
                scores = dot(q[0, h, part], keys[0, h], (1, 1))
                if bias is not None:
                    scores = scores + bias[part]
                state = Softmax(top[h, part], total[h, part], sums[h, part])
                state = step(state, jnp.where(seen[part], scores, HIDDEN), clean)
                top[h, part], total[h, part], sums[h, part] = state

    some = (oldest + j <= newest) & (count[b] > 0)
    when(some, update, window, between, p.reach)

    @pl.when(j == pl.num_programs(1) - 1)
    def _():
        for h in range(kv):
            weight = jnp.maximum(total[h], 0.5)  # 1 at least, or 0
            o[0, h] = (sums[h] / weight).astype(o.dtype)


def _attend(p: Plan, q, rel, visible, keys, values, length, count):
    b, kv, rows, e = q.shape
    d = values.shape[3]
    extent = 0 if rel is None else rel.shape[4]
    most = _newest(p, length, count) - _oldest(p, length) + 1
    steps = jnp.max(jnp.where(count > 0, most, 1))

    def chunk(b, j, length, count):
        return b, 0, 0, 0

    def of_ring(b, j, length, count):
        block = jnp.minimum(_oldest(p, length[b]) + j, _newest(p, length[b], count[b]))
        return b, 0, jax.lax.rem(block, p.ring), 0

    inputs = [
        (q, pl.BlockSpec((1, kv, rows, e), chunk)),
        (visible, pl.BlockSpec((1, 2, rows, 1), chunk)),
        (keys, pl.BlockSpec((1, kv, p.block, e), of_ring)),
        (values, pl.BlockSpec((1, kv, p.block, d), of_ring)),
    ]
    if rel is not None:
        spec = pl.BlockSpec((1, *rel.shape[1:]), lambda b, j, length, count: (b, 0, 0, 0, 0))
        inputs.append((rel, spec))
    return pl.pallas_call(
        functools.partial(_attend_kernel, p, extent),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(b, steps),
            in_specs=[spec for _, spec in inputs],
            out_specs=pl.BlockSpec((1, kv, rows, d), chunk),
            scratch_shapes=[
                pltpu.VMEM((kv, rows, 1), jnp.float32),
                pltpu.VMEM((kv, rows, 1), jnp.float32),
                pltpu.VMEM((kv, rows, d), jnp.float32),
            ],
        ),
        out_shape=jax.ShapeDtypeStruct((b, kv, rows, d), values.dtype),
        **_options(p, "attention_cached"),
    )(length, count, *(x for x, _ in inputs))
