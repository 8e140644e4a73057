"""expert_gemv for TPUs (v5e and later): the time of a decode step is that of reading its experts.

The T * N choices are reduced to the distinct experts among them, which are prefetched as scalars;
the grid runs over (distinct expert, tile of F), and the blocks of the banks are fetched by expert
number while the tile before is multiplied. So an expert chosen by several rows, as the shared ones
are, is read once, and one that nobody chose never. All rows pass through each expert (a matrix unit
takes as long for one row as for 128) and count where they chose it.

The sum of a row runs over its experts in rising order whatever the other rows chose.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from tmi_kernels.platforms import only_on

LANES = 128
WEIGHT_BYTES = 12 * 2**20  # of the three banks' tiles, two of each: one is read, one multiplied
VMEM_BYTES = 32 * 2**20  # all that the kernel may take


def expert_gemv(
    x: Float[Array, "T D"],
    index: Int[Array, "T N"],
    weights: Float[Array, "T N"],
    gate: Float[Array, "E F D"],
    up: Float[Array, "E F D"],
    down: Float[Array, "E D F"],
    *,
    interpret: bool = False,
) -> Float[Array, "T D"]:
    """See `tmi_kernels.expert_gemv`. Raises ValueError if a tile does not fit a TPU's fast memory
    (VMEM), NotImplementedError if it is differentiated."""
    tile = tile_width(*x.shape, gate.shape[1], x.dtype.itemsize)
    return _run(tile, interpret, x, index, weights, gate, up, down)


def tile_width(rows: int, width: int, expert_width: int, itemsize: int) -> int:
    """How much of F is multiplied at a time: all of it, or a multiple of 128 that divides it."""
    wide = range(LANES, expert_width, LANES)
    accepted = [n for n in wide if expert_width % n == 0] + [expert_width]

    def buffers(tile: int) -> int:
        return 2 * 3 * tile * width * itemsize

    tile = max((n for n in accepted if buffers(n) <= WEIGHT_BYTES), default=accepted[0])
    # x and y twice, as all blocks are, the product before it is added, and the hidden layer.
    need = buffers(tile) + rows * (width * (2 * itemsize + 3 * 4) + 3 * tile * 4)
    if need > VMEM_BYTES:
        raise ValueError(
            f"expert_gemv: {rows} rows of width {width} with a tile of {tile} of expert width "
            f"{expert_width} take {need / 2**20:.0f} MiB of VMEM; accepted: at most "
            f"{VMEM_BYTES // 2**20} MiB, so fewer rows, or an expert width that a smaller multiple "
            f"of {LANES} divides"
        )
    return tile


def schedule(index: Int[Array, "T N"], experts: int) -> tuple[Array, Array]:
    """The distinct experts in rising order, the last one repeated up to the static number of slots
    min(T * N, E), and how many they are [1]; int32."""
    slots = min(index.size, experts)
    order = jnp.unique(index, size=slots, fill_value=jnp.max(index)).astype(jnp.int32)
    return order, 1 + jnp.sum(order[1:] != order[:-1], dtype=jnp.int32, keepdims=True)


def _dot(a, b):
    """a b^T, both contracted on their last axis, accumulated in f32."""
    exact = a.dtype == jnp.float32
    return jax.lax.dot_general(
        a,
        b,
        (((1,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if exact else None,
        preferred_element_type=jnp.float32,
    )


def _kernel(order, count, x, index, weights, gate, up, down, y):
    slot, tile = pl.program_id(0), pl.program_id(1)

    @pl.when((slot == 0) & (tile == 0))
    def _():
        y[...] = jnp.zeros_like(y)

    @pl.when(slot < count[0])
    def _():
        h = jax.nn.silu(_dot(x[...], gate[0])) * _dot(x[...], up[0])
        out = _dot(h.astype(down.dtype), down[0])
        chosen = jnp.where(index[...] == order[slot], weights[...], 0.0)
        share = jnp.sum(chosen, axis=1, keepdims=True)
        # Of an expert that it did not choose a row must not even get the infinities.
        y[...] += jnp.where(share != 0, share * out, 0.0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(tile: int, interpret: bool, x, index, weights, gate, up, down):
    (t, d), (e, f, _), n = x.shape, gate.shape, index.shape[1]
    order, count = schedule(index, e)
    if not interpret:
        order = only_on(order, "tpu", op="expert_gemv", implementation="pallas_tpu")
    tiles = f // tile

    def whole(slot, i, order, count):
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
            pl.BlockSpec((t, d), whole),
            pl.BlockSpec((t, n), whole),
            pl.BlockSpec((t, n), whole),
            pl.BlockSpec((1, tile, d), rows_of_bank),
            pl.BlockSpec((1, tile, d), rows_of_bank),
            pl.BlockSpec((1, d, tile), columns_of_bank),
        ],
        out_specs=pl.BlockSpec((t, d), whole),
    )
    return pl.pallas_call(
        _kernel,
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
