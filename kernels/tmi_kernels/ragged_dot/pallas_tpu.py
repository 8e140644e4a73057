"""ragged_dot for TPUs (v5e and later).

Rows lie in tiles of `tiles.ROWS`, wherever groups begin. A *visit* is a tile and a group that has
rows in it; the visits are listed in order and prefetched as scalars (as in megablox, of jax). All
rows of the tile pass through the weights of the visit's group, and those of the group keep what
comes out. Consecutive visits of a group find its weights in fast memory, of a tile its rows; the
block of the result stays there until its last visit. A further group, of the rows of nobody, is
visited without being multiplied and gets zeros.

Why a row's bits depend on that row and its group's weights alone: `tmi_kernels/tiles.py`. Each
visit is one product of a whole tile, whatever the groups are; which rows keep it is a choice
(`where`), not a product with zeros, so that what another group's row holds, NaN included, ends
there. How often a row is multiplied by weights that are not its own leaves no trace. The product is
that of `dot` and of `expert_gemv`, over the same chunks in the same order.

`ragged_swiglu` is the same kernel with two sets of weights and two sums, from which it makes the
hidden layer as `expert_gemv` does: XLA's exponentials would have other bits. Its gradient computes
the two halves once more.

The gradient of x is the same kernel over w read along its other axis. That of w adds the tiles of a
group in rising order, its rows masked before they are multiplied, and visits empty groups to write
their zeros.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from tmi_kernels.platforms import only_on
from tmi_kernels.tiles import ROWS, VMEM_BYTES, accumulate, chunk, hidden, masked, parts, product

WEIGHT_BYTES = 12 * 2**20  # of the blocks of w: one is read, one multiplied
MOST_COLUMNS = 1024
GRADIENT = (512, 1024)  # of N and of K in a block of the gradient of w

Interpret = bool | pltpu.InterpretParams


def ragged_dot(
    x: Float[Array, "M K"],
    w: Float[Array, "E N K"],
    group_sizes: Int[Array, " E"],
    out_dtype,
    *,
    interpret: Interpret = False,
) -> Float[Array, "M N"]:
    """See `tmi_kernels.ragged_dot`."""
    return _ragged_dot(jnp.dtype(out_dtype), interpret, x, w, group_sizes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _ragged_dot(out_dtype, interpret, x, w, group_sizes):
    return _run(out_dtype, interpret, False, group_sizes, x, w)


def _ragged_dot_fwd(out_dtype, interpret, x, w, group_sizes):
    return _ragged_dot(out_dtype, interpret, x, w, group_sizes), (x, w, group_sizes)


def _ragged_dot_bwd(out_dtype, interpret, saved, g):
    x, w, group_sizes = saved
    g = g.astype(x.dtype)
    dx = _run(x.dtype, interpret, True, group_sizes, g, w)
    return dx, _run_gradient(interpret, g, x, group_sizes), None


_ragged_dot.defvjp(_ragged_dot_fwd, _ragged_dot_bwd)


def ragged_swiglu(
    x: Float[Array, "M K"],
    gate: Float[Array, "E N K"],
    up: Float[Array, "E N K"],
    group_sizes: Int[Array, " E"],
    *,
    interpret: Interpret = False,
) -> Float[Array, "M N"]:
    """See `tmi_kernels.ragged_dot`."""
    return _ragged_swiglu(interpret, x, gate, up, group_sizes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ragged_swiglu(interpret, x, gate, up, group_sizes):
    return _run(x.dtype, interpret, False, group_sizes, x, gate, up)


def _ragged_swiglu_fwd(interpret, x, gate, up, group_sizes):
    return _ragged_swiglu(interpret, x, gate, up, group_sizes), (x, gate, up, group_sizes)


def _ragged_swiglu_bwd(interpret, saved, g):
    x, gate, up, group_sizes = saved
    f32 = jnp.dtype(jnp.float32)
    halves = [_run(f32, interpret, False, group_sizes, x, w) for w in (gate, up)]
    _, pull = jax.vjp(lambda a, b: jax.nn.silu(a) * b, *halves)
    gs = [d.astype(x.dtype) for d in pull(g.astype(f32))]
    dx = [
        _run(f32, interpret, True, group_sizes, *args) for args in zip(gs, (gate, up), strict=True)
    ]
    dws = [_run_gradient(interpret, d, x, group_sizes) for d in gs]
    return (dx[0] + dx[1]).astype(x.dtype), *dws, None


_ragged_swiglu.defvjp(_ragged_swiglu_fwd, _ragged_swiglu_bwd)


class Visits(NamedTuple):
    """Of tiles by groups, in order. The last one is repeated up to a static number."""

    group: Int[Array, " V"]
    tile: Int[Array, " V"]
    start: Int[Array, " G"]  # the first row of each group
    end: Int[Array, " G"]  # and the row after its last one
    count: Int[Array, " 1"]  # of the visits


def visits(group_sizes: Int[Array, " G"], rows: int, *, empty: bool) -> Visits:
    """The visits of `rows` rows, each group once for every tile that it has rows in. With `empty`
    groups without rows have one too."""
    tiles, groups = -(-rows // ROWS), group_sizes.shape[0]
    end = jnp.minimum(jnp.cumsum(group_sizes), rows)
    start = jnp.concatenate([jnp.zeros_like(end[:1]), end[:-1]])
    first = start // ROWS
    count = jnp.where(end > start, (end - 1) // ROWS - first + 1, int(empty))
    done = jnp.cumsum(count)
    # Groups that share a tile visit it once more each.
    slots = tiles + (groups if empty else min(groups, rows)) - 1
    v = jnp.minimum(jnp.arange(slots), done[-1] - 1)
    group = jnp.sum(done[None] <= v[:, None], axis=1)
    tile = jnp.minimum(first[group] + v - (done - count)[group], tiles - 1)
    return Visits(*(a.astype(jnp.int32) for a in (group, tile, start, end, done[-1:])))


def _mine(v: Visits, i):
    """[ROWS, 1]: the rows of the visit's tile that are of its group."""
    e = v.group[i]
    row = v.tile[i] * ROWS + jax.lax.broadcasted_iota(jnp.int32, (ROWS, 1), 0)
    return (row >= v.start[e]) & (row < v.end[e])


def _kernel(group, tile, start, end, count, x, *refs, k, n, size, transposed):
    """One set of weights and their product, or two and the hidden layer."""
    weights, y, totals = refs[: len(refs) // 2], refs[len(refs) // 2], refs[len(refs) // 2 + 1 :]
    v = Visits(group, tile, start, end, count)
    i, block, blocks = pl.program_id(1), pl.program_id(2), pl.num_programs(2)
    somebody = group[i] < start.shape[0] - 1
    multiply = (i < count[0]) & somebody
    rest = size - (-(-size // x.shape[1]) - 1) * x.shape[1]  # of the contraction, in the last block

    @pl.when(multiply & (block == 0))
    def _():
        for total in totals:
            total[...] = jnp.zeros_like(total)

    def add(valid: int):
        for total, w in zip(totals, weights, strict=True):
            accumulate(total, x, w, k, n, valid=valid, transposed=transposed)

    if rest == x.shape[1]:
        pl.when(multiply)(lambda: add(rest))
    else:
        pl.when(multiply & (block < blocks - 1))(lambda: add(x.shape[1]))
        pl.when(multiply & (block == blocks - 1))(lambda: add(rest))

    @pl.when((i < count[0]) & (block == blocks - 1))
    def _():
        out = [total[...] for total in totals]
        out = hidden(*out, y.dtype) if len(out) == 2 else out[0].astype(y.dtype)
        out = jnp.where(somebody, out.astype(jnp.float32), 0.0)
        y[...] = jnp.where(_mine(v, i), out, y[...].astype(jnp.float32)).astype(y.dtype)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(out_dtype, interpret: Interpret, transposed: bool, group_sizes, x, *ws):
    """x [M, K] w^T of each row's group, or with `transposed` x [M, N] w. Of two w the hidden
    layer."""
    (rows, size), groups = x.shape, ws[0].shape[0]
    out = ws[0].shape[2 if transposed else 1]
    k, n = (chunk(n, x.dtype.itemsize) for n in (size, out))
    # Of whole w, so that it stays where it is from visit to visit, if that fits.
    most = WEIGHT_BYTES // (2 * len(ws) * x.dtype.itemsize)
    depth = k * parts(-(-size // k), most // n // k)
    columns = n * parts(-(-out // n), min(MOST_COLUMNS, most // depth) // n)
    blocks = -(-size // depth)
    nobody = rows - jnp.minimum(jnp.sum(group_sizes), rows)
    v = visits(jnp.append(group_sizes, nobody), rows, empty=False)
    if not interpret:
        x = only_on(x, "tpu", op="ragged_dot", implementation="pallas_tpu")

    def part(i, c, v: Visits):
        # A visit that multiplies nothing names what is there already, which is then not fetched.
        return jnp.where((i < v.count[0]) & (v.group[i] < groups), c, blocks - 1)

    def rows_of_x(j, i, c, *scalars):
        v = Visits(*scalars)
        # (`//` asks for the sign, and to lower that for the chip at hand, which may be none.)
        last = jax.lax.div(jnp.maximum(v.start[groups] - 1, 0), ROWS)
        return jnp.minimum(v.tile[i], last), part(i, c, v)

    def weights(j, i, c, *scalars):
        v = Visits(*scalars)
        e, c = jnp.minimum(v.group[i], groups - 1), part(i, c, v)
        return (e, c, j) if transposed else (e, j, c)

    shape = (None, depth, columns) if transposed else (None, columns, depth)
    return pl.pallas_call(
        functools.partial(_kernel, k=k, n=n, size=size, transposed=transposed),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(v),
            grid=(pl.cdiv(out, columns), v.group.size, blocks),
            in_specs=[
                pl.BlockSpec((ROWS, depth), rows_of_x),
                *(pl.BlockSpec(shape, weights) for _ in ws),
            ],
            out_specs=pl.BlockSpec(
                (ROWS, columns), lambda j, i, c, *scalars: (Visits(*scalars).tile[i], j)
            ),
            scratch_shapes=[pltpu.VMEM((ROWS, columns), jnp.float32) for _ in ws],
        ),
        out_shape=jax.ShapeDtypeStruct((rows, out), out_dtype),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"),
            vmem_limit_bytes=VMEM_BYTES,
        ),
        interpret=interpret,
        name="ragged_dot" if len(ws) == 1 else "ragged_swiglu",
    )(*v, x, *ws)


def _gradient_kernel(group, tile, start, end, count, g, x, dw, total, *, n: int, k: int):
    v = Visits(group, tile, start, end, count)
    i = pl.program_id(2)
    real = i < count[0]
    before, after = jnp.maximum(i - 1, 0), jnp.minimum(i + 1, count[0] - 1)

    @pl.when(real & ((i == 0) | (group[before] != group[i])))
    def _():
        total[...] = jnp.zeros_like(total)

    @pl.when(real)
    def _():
        # Both sides: what is not mine may be NaN, and NaN times zero is NaN.
        mine = _mine(v, i)
        for column in range(0, g.shape[1], n):
            columns = slice(column, column + n)
            a = masked(g[:, columns], mine)
            for first in range(0, x.shape[1], k):
                part = slice(first, first + k)
                total[columns, part] += product(a, masked(x[:, part], mine), (0, 0))

    @pl.when(real & ((i == count[0] - 1) | (group[after] != group[i])))
    def _():
        dw[...] = total[...].astype(dw.dtype)


@functools.partial(jax.jit, static_argnums=(0,))
def _run_gradient(interpret: Interpret, g, x, group_sizes):
    """The sum over each group's rows of g x^T [E, N, K]."""
    rows, (out, size), groups = g.shape[0], (g.shape[1], x.shape[1]), group_sizes.shape[0]
    n, k = (chunk(n, x.dtype.itemsize) for n in (out, size))
    height = n * parts(-(-out // n), GRADIENT[0] // n)
    width = k * parts(-(-size // k), GRADIENT[1] // k)
    v = visits(group_sizes, rows, empty=True)
    if not interpret:
        x = only_on(x, "tpu", op="ragged_dot", implementation="pallas_tpu")
    return pl.pallas_call(
        functools.partial(_gradient_kernel, n=n, k=k),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(v),
            grid=(pl.cdiv(out, height), pl.cdiv(size, width), v.group.size),
            in_specs=[
                pl.BlockSpec((ROWS, height), lambda a, b, i, *s: (Visits(*s).tile[i], a)),
                pl.BlockSpec((ROWS, width), lambda a, b, i, *s: (Visits(*s).tile[i], b)),
            ],
            out_specs=pl.BlockSpec(
                (None, height, width), lambda a, b, i, *s: (Visits(*s).group[i], a, b)
            ),
            scratch_shapes=[pltpu.VMEM((height, width), jnp.float32)],
        ),
        out_shape=jax.ShapeDtypeStruct((groups, out, size), x.dtype),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"),
            vmem_limit_bytes=VMEM_BYTES,
        ),
        interpret=interpret,
        name="ragged_dot_gradient",
    )(*v, g, x)
