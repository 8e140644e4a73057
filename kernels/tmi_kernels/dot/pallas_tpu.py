"""dot for TPUs (v5e and later).

The grid runs over (block of rows, block of columns, block of the contraction). A block of rows is
one to `MOST_TILES` tiles of `tiles.ROWS`; each tile passes through the same product as any other,
in a loop. A few rows are one tile: every block of weights is fetched once, while the one before is
multiplied, and the matrix unit keeps up with the memory, so they take the time of reading w (in
bf16; f32 operands take six passes, so there the unit is the slower one).

Why a row's bits depend on that row and w alone: `tmi_kernels/tiles.py`. M decides how many tiles a
block has and how many blocks there are, which is how often the product is repeated and nothing
else; what is contracted is never divided among cores, and is added in rising order.

The gradient of x is the same kernel over w read along its other axis, so it has the same law. That
of w is a sum over rows, which XLA does.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from tmi_kernels.platforms import only_on
from tmi_kernels.tiles import ROWS, VMEM_BYTES, accumulate, chunk, parts, product

MOST_TILES = 8  # tiles of rows that share a block of weights
MOST_COLUMNS = 512
MOST_BYTES = 4096  # of a row of a block


def dot(
    x: Float[Array, "*M K"],
    w: Float[Array, "N K"],
    out_dtype,
    *,
    interpret: bool | pltpu.InterpretParams = False,
) -> Float[Array, "*M N"]:
    """See `tmi_kernels.dot`."""
    rows = x.reshape(-1, x.shape[-1])
    y: Any = _dot(jnp.dtype(out_dtype), interpret, rows, w)
    return y.reshape(*x.shape[:-1], w.shape[0])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _dot(out_dtype, interpret, x, w):
    return _run(out_dtype, interpret, False, x, w)


def _dot_fwd(out_dtype, interpret, x, w):
    return _dot(out_dtype, interpret, x, w), (x, w)


def _dot_bwd(out_dtype, interpret, saved, g):
    x, w = saved
    g = g.astype(x.dtype)
    return _run(x.dtype, interpret, True, g, w), product(g, x, (0, 0)).astype(w.dtype)


_dot.defvjp(_dot_fwd, _dot_bwd)


def _kernel(x, w, y, total, *, k: int, n: int, size: int, transposed: bool):
    block, blocks = pl.program_id(2), pl.num_programs(2)
    rest = size - (-(-size // x.shape[1]) - 1) * x.shape[1]  # of the contraction, in the last block

    def tiles(valid: int):
        def tile(i, _):
            rows = pl.ds(i * ROWS, ROWS)
            accumulate(total.at[rows], x.at[rows], w, k, n, valid=valid, transposed=transposed)
            return 0

        jax.lax.fori_loop(0, x.shape[0] // ROWS, tile, 0)

    @pl.when(block == 0)
    def _():
        total[...] = jnp.zeros_like(total)

    if rest == x.shape[1]:
        tiles(rest)
    else:
        pl.when(block < blocks - 1)(lambda: tiles(x.shape[1]))
        pl.when(block == blocks - 1)(lambda: tiles(rest))

    @pl.when(block == blocks - 1)
    def _():
        y[...] = total[...].astype(y.dtype)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(out_dtype, interpret, transposed: bool, x, w):
    """x [M, K] w^T, or with `transposed` x [M, N] w."""
    (rows, size), out = x.shape, w.shape[1 if transposed else 0]
    k, n = (chunk(n, x.dtype.itemsize) for n in (size, out))
    height = ROWS * parts(-(-rows // ROWS), MOST_TILES)
    columns = n * parts(-(-out // n), MOST_COLUMNS // n)
    depth = k * parts(-(-size // k), MOST_BYTES // x.dtype.itemsize // k)
    if not interpret:
        x = only_on(x, "tpu", op="dot", implementation="pallas_tpu")
    if transposed:
        weights = pl.BlockSpec((depth, columns), lambda i, j, c: (c, j))
    else:
        weights = pl.BlockSpec((columns, depth), lambda i, j, c: (j, c))
    return pl.pallas_call(
        functools.partial(_kernel, k=k, n=n, size=size, transposed=transposed),
        grid=(pl.cdiv(rows, height), pl.cdiv(out, columns), pl.cdiv(size, depth)),
        in_specs=[pl.BlockSpec((height, depth), lambda i, j, c: (i, c)), weights],
        out_specs=pl.BlockSpec((height, columns), lambda i, j, c: (i, j)),
        out_shape=jax.ShapeDtypeStruct((rows, out), out_dtype),
        scratch_shapes=[pltpu.VMEM((height, columns), jnp.float32)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"),
            vmem_limit_bytes=VMEM_BYTES,
        ),
        interpret=interpret,
        name="dot",
    )(x, w)
