"""expert_gemv for TPUs (v5e and later): the time of a decode step is that of reading its experts.

The T * N choices are reduced to the distinct experts among them, which are prefetched as scalars;
the grid runs over (distinct expert, tile of F), and the blocks of the banks are fetched by expert
number while the tile before is multiplied. So an expert chosen by several rows, as the shared ones
are, is read once, and one that nobody chose never. All rows pass through each expert (a matrix unit
takes as long for one row as for 128) and count where they chose it.

Why a row's bits depend on that row and its experts alone: `tmi_kernels/tiles.py`. An expert's
products are those of `ragged_dot`, over the same chunks in the same order; its output is summed
over F before it is weighted, and the sum of a row runs over its experts in rising order whatever
the other rows chose. So a row gets here the bits that it gets among the many rows of training
(`by_kernel` in tmi/models/grouped.py).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from tmi_kernels.platforms import only_on
from tmi_kernels.tiles import ROWS, VMEM_BYTES, accumulate, chunk, hidden, weigh

WEIGHT_BYTES = 12 * 2**20  # of the three banks' tiles, two of each: one is read, one multiplied


def expert_gemv(
    x: Float[Array, "T D"],
    index: Int[Array, "T N"],
    weights: Float[Array, "T N"],
    gate: Float[Array, "E F D"],
    up: Float[Array, "E F D"],
    down: Float[Array, "E D F"],
    *,
    interpret: bool | pltpu.InterpretParams = False,
) -> Float[Array, "T D"]:
    """See `tmi_kernels.expert_gemv`. Raises ValueError if a tile does not fit a TPU's fast memory
    (VMEM), NotImplementedError if it is differentiated."""
    rows, width = x.shape
    tile = tile_width(rows, width, gate.shape[1], x.dtype.itemsize)
    return _run(tile, interpret, x, index, weights, gate, up, down)


def tile_width(rows: int, width: int, expert_width: int, itemsize: int) -> int:
    """How much of F is multiplied at a time: a divisor that is whole chunks, or all of it."""
    d, f = (whole(size, itemsize) for size in (width, expert_width))
    part = chunk(expert_width, itemsize)
    accepted = [n for n in range(part, f, part) if expert_width % n == 0] + [f]

    def buffers(tile: int) -> int:
        return 2 * 3 * tile * d * itemsize

    tile = max((n for n in accepted if buffers(n) <= WEIGHT_BYTES), default=accepted[0])
    # x and y twice, as all blocks are, the sum over F, and the hidden layer with its two halves.
    t = -(-rows // ROWS) * ROWS
    need = buffers(tile) + t * d * (2 * itemsize + 3 * 4) + ROWS * tile * (2 * 4 + itemsize)
    if need > VMEM_BYTES:
        raise ValueError(
            f"expert_gemv: {rows} rows of width {width} with a tile of {tile} of expert width "
            f"{expert_width} take {need / 2**20:.0f} MiB of VMEM; accepted: at most "
            f"{VMEM_BYTES // 2**20} MiB, so fewer rows, or an expert width that a smaller multiple "
            f"of {part} divides"
        )
    return tile


def whole(size: int, itemsize: int) -> int:
    """`size` in whole chunks."""
    part = chunk(size, itemsize)
    return -(-size // part) * part


def schedule(index: Int[Array, "T N"], experts: int) -> tuple[Array, Array]:
    """The distinct experts in rising order, the last one repeated up to the static number of slots
    min(T * N, E), and how many they are [1]; int32."""
    slots = min(index.size, experts)
    order = jnp.unique(index, size=slots, fill_value=jnp.max(index)).astype(jnp.int32)
    return order, 1 + jnp.sum(order[1:] != order[:-1], dtype=jnp.int32, keepdims=True)


def _kernel(
    order, count, x, index, weights, gate, up, down, y, a, b, h, total, *, width, expert_width
):
    slot, tile, tiles = pl.program_id(0), pl.program_id(1), pl.num_programs(1)
    d, f = (chunk(size, x.dtype.itemsize) for size in (width, expert_width))
    valid = min(expert_width, h.shape[1])

    @pl.when((slot == 0) & (tile == 0))
    def _():
        y[...] = jnp.zeros_like(y)

    @pl.when((slot < count[0]) & (tile == 0))
    def _():
        total[...] = jnp.zeros_like(total)

    def tile_of_rows(i, _):
        rows = pl.ds(i * ROWS, ROWS)
        for half, bank in ((a, gate), (b, up)):
            half[...] = jnp.zeros_like(half)
            accumulate(half, x.at[rows], bank, d, f, valid=width)
        h[...] = hidden(a[...], b[...], h.dtype)
        accumulate(total.at[rows], h, down, f, d, valid=valid)
        return 0

    @pl.when(slot < count[0])
    def _():
        jax.lax.fori_loop(0, x.shape[0] // ROWS, tile_of_rows, 0)

    @pl.when((slot < count[0]) & (tile == tiles - 1))
    def _():
        chosen = jnp.where(index[...] == order[slot], weights[...], 0.0)
        share = jnp.sum(chosen, axis=1, keepdims=True)
        y[...] += weigh(share, total[...])


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(tile: int, interpret: bool | pltpu.InterpretParams, x, index, weights, gate, up, down):
    (t, d), (e, f, _), n = x.shape, gate.shape, index.shape[1]
    order, count = schedule(index, e)
    if not interpret:
        order = only_on(order, "tpu", op="expert_gemv", implementation="pallas_tpu")
    tiles = pl.cdiv(f, tile)
    t_whole, d_whole = pl.cdiv(t, ROWS) * ROWS, whole(d, x.dtype.itemsize)

    def everything(slot, i, order, count):
        return 0, 0

    def part(slot, i, count):
        # Slots beyond the last expert name its last tile again, which is then not fetched.
        return jnp.where(slot < count[0], i, tiles - 1)

    def rows_of_bank(slot, i, order, count):
        return order[slot], part(slot, i, count), 0

    def columns_of_bank(slot, i, order, count):
        return order[slot], 0, part(slot, i, count)

    grid_spec = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=2,
        grid=(order.size, tiles),
        in_specs=[
            pl.BlockSpec((t_whole, d_whole), everything),
            pl.BlockSpec((t_whole, n), everything),
            pl.BlockSpec((t_whole, n), everything),
            pl.BlockSpec((None, tile, d_whole), rows_of_bank),
            pl.BlockSpec((None, tile, d_whole), rows_of_bank),
            pl.BlockSpec((None, d_whole, tile), columns_of_bank),
        ],
        out_specs=pl.BlockSpec((t_whole, d_whole), everything),
        scratch_shapes=[
            pltpu.VMEM((ROWS, tile), jnp.float32),
            pltpu.VMEM((ROWS, tile), jnp.float32),
            pltpu.VMEM((ROWS, tile), x.dtype),
            pltpu.VMEM((t_whole, d_whole), jnp.float32),
        ],
    )
    return pl.pallas_call(
        functools.partial(_kernel, width=d, expert_width=f),
        grid_spec=grid_spec,
        out_shape=jax.ShapeDtypeStruct((t, d), jnp.float32),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary", "arbitrary"), vmem_limit_bytes=VMEM_BYTES
        ),
        interpret=interpret,
        name="expert_gemv",
    )(order, count, x, index, weights, gate, up, down)


@_run.defjvp
def _no_gradient(tile, interpret, primals, tangents):
    raise NotImplementedError(
        "expert_gemv: the Pallas kernel is for decoding and has no gradient; accepted in training: "
        "implementation='reference'"
    )
