"""Attention of packed training rows for TPUs (v5e and later), forward and backward.

The grid runs over (row of the batch, key head, tile of queries, tile of keys). A tile of queries
holds those of all heads that share the key head. Tiles of keys before the first that any of its
rows sees are neither fetched nor computed (the first visible key of each tile is prefetched as a
scalar), nor those after its own end. The bias of a tile is rolled out of the queries' bias rows
(tiles.py): no gather, no array of the size of the scores.

Why a row's bits are its own. Keys count in blocks of `kv_block`, which begin where sessions do; a
row's softmax takes the blocks one after the other, oldest first (tiles.step). Each product is one
of 128 rows, over E (scores) or over one block (values), in training as in decoding: of one shape,
in one order, and the matrix unit computes a row of its left operand from that row alone, whatever
stands beside it. A block that a row does not see is an exact no-op. So a row's bits are those of
the chain over its own visible blocks: they depend neither on its place in the tile or in the
training row, nor on other sessions in it, nor on how many blocks are skipped. pallas_tpu_cache.py
computes the same chain by the same `step`.

Backward: one kernel for the queries' and bias rows' gradients, whose tiles run over keys, one for
the keys' and values', transposed, whose tiles run over queries; both recompute the scores. No law
holds for their bits beyond being the same from run to run.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Int

from tmi_kernels.attention.tiles import (
    HIDDEN,
    LANES,
    ROWS,
    VMEM_BYTES,
    BiasWindow,
    Softmax,
    dot,
    first_visible,
    nothing,
    reach,
    step,
    upside_down,
    when,
    whole,
)
from tmi_kernels.platforms import only_on

MOST_KEYS = 512  # of a tile


@dataclasses.dataclass(frozen=True)
class Plan:
    """Of a call. queries, keys: positions of a tile; block: keys of a step of the softmax; reach:
    positions before its own that a query sees at most."""

    queries: int
    keys: int
    block: int
    reach: int
    interpret: object

    def window(self, extent: int, keys: int) -> BiasWindow:
        grain = math.gcd(self.queries, keys)
        return BiasWindow(extent, self.queries, keys, grain, bool(self.interpret))

    def steps(self, length: int, moving: int, fixed: int) -> int:
        """Tiles of `moving` positions that a tile of `fixed` positions meets at most."""
        return min(length // moving, -(-(self.reach + fixed) // moving) + 1)


def plan(length: int, span, interpret) -> Plan:
    unit = math.lcm(LANES, span.kv_block)
    keys = unit
    while keys * 2 <= min(MOST_KEYS, whole(reach(span) + 1, unit), whole(length, unit)):
        keys *= 2
    return Plan(ROWS, keys, span.kv_block, reach(span), interpret)


@functools.partial(jax.jit, static_argnames=("span", "interpret"))
def attention(q, k, v, rel, position, segment, span, *, interpret=False):
    """See `tmi_kernels.attention`. interpret: what pl.pallas_call takes. Raises ValueError if the
    tiles do not fit a TPU's fast memory (VMEM)."""
    b, h, s, _ = q.shape
    kv = k.shape[1]
    p = plan(s, span, interpret)
    check_vmem(p, q, k, v, rel)
    more = -s % p.keys
    first = jnp.arange(s, dtype=jnp.int32) - position + first_visible(position, span)
    # Padding sees nothing: its first visible key lies behind the row.
    first = jnp.where(segment > 0, first, s + more)
    first = jnp.pad(first, ((0, 0), (0, more)), constant_values=s + more)
    if not interpret:
        first = only_on(first, "tpu", op="attention", implementation="pallas_tpu")

    def padded(x, groups):
        x = jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, 0)))
        return x.reshape(b, kv, groups, s + more, -1) if groups else x

    if rel is not None:
        far = -rel.shape[-1] % LANES  # distances beyond the extent, whose bias is 0
        rel = padded(jnp.pad(rel, ((0, 0), (0, 0), (0, 0), (far, 0))), h // kv)
    o: Any = _run(p, padded(q, h // kv), padded(k, 0), padded(v, 0), rel, first)
    return o.reshape(b, h, s + more, -1)[:, :, :s]


def check_vmem(p: Plan, q, k, v, rel) -> None:
    """Raises ValueError unless the largest of the three kernels fits."""
    groups, e, d, size = q.shape[1] // k.shape[1], whole(q.shape[3], 128), whole(v.shape[3], 128), 4
    rows = groups * p.queries
    extent = whole(rel.shape[3], LANES) if rel is not None else 0
    blocks = rows * (2 * e + 2 * d + 2 * extent) + p.keys * (2 * e + 2 * d)
    need = size * (2 * blocks + 4 * rows * p.keys + rows * (e + extent))
    if need > VMEM_BYTES:
        raise ValueError(
            f"attention: {groups} query heads of width {q.shape[3]} for each key head with a bias "
            f"of extent {extent} take {need / 2**20:.0f} MiB of VMEM; accepted: at most "
            f"{VMEM_BYTES // 2**20} MiB, so fewer heads a key head, or a smaller extent"
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(p: Plan, q, k, v, rel, first):
    return _forward(p, q, k, v, rel, first)[0]


def _run_fwd(p, q, k, v, rel, first):
    o, lse = _forward(p, q, k, v, rel, first)
    return o, (q, k, v, rel, first, o, lse)


def _run_bwd(p, saved, do):
    q, k, v, rel, first, o, lse = saved
    delta = jnp.sum(do.astype(jnp.float32) * o.astype(jnp.float32), axis=-1)[:, :, :, None]
    dq, drel = _backward_queries(p, q, k, v, rel, first, do, lse, delta)
    dk, dv = _backward_keys(p, q, k, v, rel, first, do, lse, delta)
    return dq, dk, dv, drel, None


_run.defvjp(_run_fwd, _run_bwd)


def _lowest(first: Int[Array, "B S"], tile: int) -> Int[Array, "B t"]:
    """The first key that any row of each tile of queries sees."""
    return jnp.min(first.reshape(first.shape[0], -1, tile), axis=2)


def _key_tiles(p: Plan):
    """Which tile of keys the j-th of a tile of queries is: from the first visible to its own."""

    def tile(b, i, j, lowest):
        last = jax.lax.div((i + 1) * p.queries - 1, p.keys)
        return jnp.minimum(jnp.minimum(jax.lax.div(lowest[b, i], p.keys), last) + j, last)

    def new(b, i, j, lowest):
        """Whether it is one that was not met yet."""
        last = jax.lax.div((i + 1) * p.queries - 1, p.keys)
        return jnp.minimum(jax.lax.div(lowest[b, i], p.keys), last) + j <= last

    return tile, new


def _column(x):
    """[1, n] -> [n, 1]."""
    return jnp.transpose(x)


def _seen(first, query: Array, key: Array, shape: tuple[int, int], axis: int):
    """Of a tile whose queries lie along `axis`, and whose first ones these are."""
    q = query + jax.lax.broadcasted_iota(jnp.int32, shape, axis)
    k = key + jax.lax.broadcasted_iota(jnp.int32, shape, 1 - axis)
    return (k >= first) & (k <= q)


def _scores(q, k, rel, seen, between, window: BiasWindow | None):
    """[g * queries, keys] of a tile: HIDDEN where not seen."""
    scores = dot(q, k, (1, 1)).reshape(-1, *seen.shape)
    if window is not None:
        read = pl.ds(window.start(between), window.width)
        rows = [window.bias(rel[0, 0, g, :, read], between) for g in range(scores.shape[0])]
        scores = scores + jnp.stack(rows)
    return jnp.where(seen, scores, HIDDEN).reshape(-1, seen.shape[1])


def _forward_kernel(p: Plan, extent: int, lowest, q, k, v, first, *refs):
    rel, (o, lse, top, total, sums) = (refs[0], refs[1:]) if extent else (None, refs)
    b, i, j = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    tile, new = _key_tiles(p)
    groups, n = q.shape[2:4]
    query, key = i * n, tile(b, i, j, lowest) * p.keys
    window = p.window(extent, p.block) if extent else None
    here = new(b, i, j, lowest)

    @pl.when(j == 0)
    def _():
        top[...], total[...], sums[...] = nothing(groups * n, v.shape[3])

    for at in range(0, p.keys, p.block):
        between = query - (key + at)
        block = pl.ds(at, p.block)
        # Blocks that no row sees would change nothing.
        some = here & (between + n > 0) & (key + at + p.block > lowest[b, i])

        def update(window, at=at, between=between, block=block):
            seen = _seen(first[0], query, key + at, (n, p.block), 0)
            for g in range(groups):
                rows = pl.ds(g * n, n)
                scores = dot(q[0, 0, g], k[0, 0, block], (1, 1))
                if window is not None and rel is not None:
                    read = pl.ds(window.start(between), window.width)
                    scores = scores + window.bias(rel[0, 0, g, :, read], between)
                state = Softmax(top[rows], total[rows], sums[rows])
                state = step(state, jnp.where(seen, scores, HIDDEN), v[0, 0, block])
                top[rows], total[rows], sums[rows] = state

        when(some, update, window, between, p.reach)

    @pl.when(j == pl.num_programs(3) - 1)
    def _():
        weight = jnp.maximum(total[...], 0.5)  # 1 at least, or 0
        o[0, 0] = (sums[...] / weight).reshape(groups, n, -1).astype(o.dtype)
        rows = (top[...] + jnp.log(weight)).reshape(groups, n, 1)
        for g in range(groups):
            lse[0, 0, g] = jnp.transpose(rows[g])


def _forward(p: Plan, q, k, v, rel, first):
    b, kv, groups, s, e = q.shape
    d = v.shape[3]
    n = p.queries
    extent = 0 if rel is None else rel.shape[4]
    tile, _ = _key_tiles(p)

    def of_queries(b, h, i, j, lowest):
        return b, h, 0, i, 0

    def of_keys(b, h, i, j, lowest):
        return b, h, tile(b, i, j, lowest), 0

    inputs = [
        (q, pl.BlockSpec((1, 1, groups, n, e), of_queries)),
        (k, pl.BlockSpec((1, 1, p.keys, e), of_keys)),
        (v, pl.BlockSpec((1, 1, p.keys, d), of_keys)),
        (first[:, :, None], pl.BlockSpec((1, n, 1), lambda b, h, i, j, lowest: (b, i, 0))),
    ]
    if rel is not None:
        inputs.append((rel, pl.BlockSpec((1, 1, groups, n, extent), of_queries)))
    return pl.pallas_call(
        functools.partial(_forward_kernel, p, extent),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(b, kv, s // n, p.steps(s, p.keys, n)),
            in_specs=[spec for _, spec in inputs],
            out_specs=[
                pl.BlockSpec((1, 1, groups, n, d), of_queries),
                pl.BlockSpec((1, 1, groups, 1, n), lambda b, h, i, j, lowest: (b, h, 0, 0, i)),
            ],
            scratch_shapes=[
                pltpu.VMEM((groups * n, 1), jnp.float32),
                pltpu.VMEM((groups * n, 1), jnp.float32),
                pltpu.VMEM((groups * n, d), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((b, kv, groups, s, d), v.dtype),
            jax.ShapeDtypeStruct((b, kv, groups, 1, s), jnp.float32),
        ],
        **_options(p, "attention_forward"),
    )(_lowest(first, n), *(x for x, _ in inputs))


def _options(p: Plan, name: str) -> dict:
    parallel = ("parallel", "parallel", "parallel", "arbitrary")
    params = pltpu.CompilerParams(dimension_semantics=parallel, vmem_limit_bytes=VMEM_BYTES)
    return dict(compiler_params=params, interpret=p.interpret, name=name)


def _queries_kernel(p: Plan, extent: int, lowest, q, k, v, first, do, lse, delta, *refs):
    if extent:
        rel, dq, drel, sums, rel_sums, columns = refs
    else:
        (dq, sums, columns), rel, drel, rel_sums = refs, None, None, None
    b, i, j = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    tile, new = _key_tiles(p)
    groups, n, e = q.shape[2:]
    query, key = i * n, tile(b, i, j, lowest) * p.keys
    between = query - key
    window = p.window(extent, p.keys) if extent else None
    some = new(b, i, j, lowest) & (key + p.keys > lowest[b, i])

    @pl.when(j == 0)
    def _():
        sums[...] = jnp.zeros_like(sums)
        if rel_sums is not None:
            rel_sums[...] = jnp.zeros_like(rel_sums)
        for at, x in enumerate((lse, delta)):
            for g in range(groups):
                columns[at, pl.ds(g * n, n)] = jnp.transpose(x[0, 0, g])

    def update(window):
        seen = _seen(first[0], query, key, (n, p.keys), 0)
        rows = q[0, 0].reshape(groups * n, e)
        scores = _scores(rows, k[0, 0], rel, seen, between, window)
        weights = jnp.exp(scores - columns[0])
        d_weights = dot(do[0, 0].reshape(groups * n, -1), v[0, 0], (1, 1))
        d_scores = weights * (d_weights - columns[1])
        sums[...] += dot(d_scores.astype(k.dtype), k[0, 0], (1, 0))
        if window is not None and drel is not None and rel_sums is not None:
            read = pl.ds(window.start(between), window.width)
            for g in range(groups):
                part = d_scores[g * n : (g + 1) * n]
                rel_sums[g, :, read] += window.back(part, between, drel.dtype)

    when(some, update, window, between, p.reach)

    @pl.when(j == pl.num_programs(3) - 1)
    def _():
        dq[0, 0] = sums[...].reshape(groups, n, e).astype(dq.dtype)
        if drel is not None and rel_sums is not None:
            for g in range(groups):
                # Each distance of a row was met once: these are no sums, and lose nothing here.
                rows = upside_down(rel_sums[g].astype(drel.dtype))
                drel[0, 0, g] = rows.astype(drel.dtype)


def _backward_queries(p: Plan, q, k, v, rel, first, do, lse, delta):
    b, kv, groups, s, e = q.shape
    d, n = v.shape[3], p.queries
    extent = 0 if rel is None else rel.shape[4]
    tile, _ = _key_tiles(p)

    def of_queries(b, h, i, j, lowest):
        return b, h, 0, i, 0

    def of_keys(b, h, i, j, lowest):
        return b, h, tile(b, i, j, lowest), 0

    def along(b, h, i, j, lowest):
        return b, h, 0, 0, i

    rows = pl.BlockSpec((1, 1, groups, n, e), of_queries)
    bias = pl.BlockSpec((1, 1, groups, n, extent), of_queries)
    inputs = [
        (q, rows),
        (k, pl.BlockSpec((1, 1, p.keys, e), of_keys)),
        (v, pl.BlockSpec((1, 1, p.keys, d), of_keys)),
        (first[:, :, None], pl.BlockSpec((1, n, 1), lambda b, h, i, j, lowest: (b, i, 0))),
        (do, pl.BlockSpec((1, 1, groups, n, d), of_queries)),
        (lse, pl.BlockSpec((1, 1, groups, 1, n), along)),
        (delta, pl.BlockSpec((1, 1, groups, 1, n), along)),
    ]
    outputs, scratch = [(q, rows)], [pltpu.VMEM((groups * n, e), jnp.float32)]
    if rel is not None:
        inputs.append((rel, bias))
        outputs.append((rel, bias))
        scratch.append(pltpu.VMEM((groups, n, extent), jnp.float32))
    scratch.append(pltpu.VMEM((2, groups * n, 1), jnp.float32))
    out = pl.pallas_call(
        functools.partial(_queries_kernel, p, extent),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(b, kv, s // n, p.steps(s, p.keys, n)),
            in_specs=[spec for _, spec in inputs],
            out_specs=[spec for _, spec in outputs],
            scratch_shapes=scratch,
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x, _ in outputs],
        **_options(p, "attention_backward_queries"),
    )(_lowest(first, n), *(x for x, _ in inputs))
    return out if rel is not None else (*out, None)


def _keys_kernel(p: Plan, extent: int, lowest, last, q, k, v, first, do, lse, delta, *refs):
    rel, (dk, dv, k_sums, v_sums) = (refs[0], refs[1:]) if extent else (None, refs)
    b, t, j = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    groups, n = q.shape[2:4]
    tile = jax.lax.div(t * p.keys, n) + j
    query, key = tile * n, t * p.keys
    between = query - key
    window = p.window(extent, p.keys) if extent else None
    some = (tile <= last[b, t]) & (key + p.keys > lowest[b, jnp.minimum(tile, last[b, t])])

    @pl.when(j == 0)
    def _():
        k_sums[...] = jnp.zeros_like(k_sums)
        v_sums[...] = jnp.zeros_like(v_sums)

    def update(window):
        seen = _seen(first[0], query, key, (p.keys, n), 1)
        for g in range(groups):
            rows, d_rows = q[0, 0, g], do[0, 0, g]
            scores = dot(k[0, 0], rows, (1, 1))
            if window is not None and rel is not None:
                read = pl.ds(window.start(between), window.width)
                scores = scores + jnp.transpose(window.bias(rel[0, 0, g, :, read], between))
            weights = jnp.exp(jnp.where(seen, scores, HIDDEN) - lse[0, 0, g])
            v_sums[...] += dot(weights.astype(do.dtype), d_rows, (1, 0))
            d_scores = weights * (dot(v[0, 0], d_rows, (1, 1)) - delta[0, 0, g])
            k_sums[...] += dot(d_scores.astype(q.dtype), rows, (1, 0))

    when(some, update, window, between, p.reach)

    @pl.when(j == pl.num_programs(3) - 1)
    def _():
        dk[0, 0] = k_sums[...].astype(dk.dtype)
        dv[0, 0] = v_sums[...].astype(dv.dtype)


def _backward_keys(p: Plan, q, k, v, rel, first, do, lse, delta):
    b, kv, groups, s, e = q.shape
    d, n = v.shape[3], p.queries
    extent = 0 if rel is None else rel.shape[4]
    lowest = _lowest(first, n)
    # The last tile of queries of which a row sees a key of this tile.
    reached = lowest[:, None] < (jnp.arange(s // p.keys)[:, None] + 1) * p.keys
    last = jnp.max(jnp.where(reached, jnp.arange(s // n, dtype=jnp.int32), 0), axis=2)
    steps = min(s // n, p.steps(s, n, p.keys))

    def tile(b, t, j, last):
        return jnp.minimum(jax.lax.div(t * p.keys, n) + j, last[b, t])

    def of_queries(b, h, t, j, lowest, last):
        return b, h, 0, tile(b, t, j, last), 0

    def of_keys(b, h, t, j, lowest, last):
        return b, h, t, 0

    def along(b, h, t, j, lowest, last):
        return b, h, 0, 0, tile(b, t, j, last)

    row = pl.BlockSpec((1, 1, n), lambda b, h, t, j, lowest, last: (b, 0, tile(b, t, j, last)))
    inputs = [
        (q, pl.BlockSpec((1, 1, groups, n, e), of_queries)),
        (k, pl.BlockSpec((1, 1, p.keys, e), of_keys)),
        (v, pl.BlockSpec((1, 1, p.keys, d), of_keys)),
        (first[:, None], row),
        (do, pl.BlockSpec((1, 1, groups, n, d), of_queries)),
        (lse, pl.BlockSpec((1, 1, groups, 1, n), along)),
        (delta, pl.BlockSpec((1, 1, groups, 1, n), along)),
    ]
    if rel is not None:
        inputs.append((rel, pl.BlockSpec((1, 1, groups, n, extent), of_queries)))
    return pl.pallas_call(
        functools.partial(_keys_kernel, p, extent),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(b, kv, s // p.keys, steps),
            in_specs=[spec for _, spec in inputs],
            out_specs=[pl.BlockSpec((1, 1, p.keys, x.shape[3]), of_keys) for x in (k, v)],
            scratch_shapes=[pltpu.VMEM((p.keys, x.shape[3]), jnp.float32) for x in (k, v)],
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k, v)],
        **_options(p, "attention_backward_keys"),
    )(lowest, last, *(x for x, _ in inputs))
