"""Products of rows with their experts' weights: rows sorted by expert, so that each bank is read
once.

`tiled` pads each expert's rows to whole tiles (CPU: plain products, one weight gather a tile);
`ragged` multiplies groups of unequal size (`jax.lax.ragged_dot`, a Mosaic kernel on TPU, which
skips what lies beyond the last group); `by_kernel` does so by our own kernel, whose bits are those
of the decoding one. Sorting is a permutation, so its gradient is a gather too: XLA would emit a
scatter.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tmi import numerics
from tmi.models.layers import contract
from tmi_kernels import ragged_dot as ragged_kernels
from tmi_kernels.tiles import weigh

TILE = 128  # rows of one expert that are multiplied together


def tiled(
    x: Float[Array, "T D"], index: Int[Array, "T N"], weights: Float[Array, "T N"],
    gate: Float[Array, "E F D"], up: Float[Array, "E F D"], down: Float[Array, "E D F"],
) -> Float[Array, "T D"]:  # fmt: skip
    """Sum of each row's experts by weight; no row is ever dropped."""
    rows, n = index.shape
    experts = gate.shape[0]
    tiles = -(-rows * n // TILE) + experts
    flat = index.reshape(-1)
    member = jax.nn.one_hot(flat, experts, dtype=jnp.int32)
    rank = jnp.sum((jnp.cumsum(member, axis=0) - 1) * member, axis=1)
    need = -(-jnp.sum(member, axis=0) // TILE)  # tiles of each expert
    first = jnp.cumsum(need) - need
    dest = (
        jnp.sum(member * first, axis=1) * TILE + rank
    )  # row of the sorted array, for each (token, choice)
    source = (
        jnp.full((tiles * TILE,), rows * n, jnp.int32)
        .at[dest]
        .set(jnp.arange(rows * n, dtype=jnp.int32))
    )
    expert_of_tile = jnp.clip(
        jnp.searchsorted(jnp.cumsum(need), jnp.arange(tiles), side="right"), 0, experts - 1
    )
    pick = jax.nn.one_hot(expert_of_tile, experts, dtype=x.dtype)

    xs = dispatch(x, source, dest.reshape(rows, n)).reshape(tiles, TILE, -1)
    h = jax.nn.silu(contract(xs, tile_weights(gate, pick, expert_of_tile)))
    h = h * contract(xs, tile_weights(up, pick, expert_of_tile))
    ys = contract(h, tile_weights(down, pick, expert_of_tile)).reshape(tiles * TILE, -1)
    return combine(ys, weights, source, dest.reshape(rows, n))


def weighted(
    ys: Float[Array, "T N D"], index: Int[Array, "T N"], weights: Float[Array, "T N"]
) -> Float[Array, "T D"]:
    """The sum of a row's experts, added in their order."""
    y = numerics.zero(index[:, :1])
    for n in range(ys.shape[1]):
        y = y + weights[:, n, None] * ys[:, n]
    return y


def ragged(
    x: Float[Array, "T D"], index: Int[Array, "T N"], weights: Float[Array, "T N"],
    gate: Float[Array, "E F D"], up: Float[Array, "E F D"], down: Float[Array, "E D F"],
    most: int | None = None,
) -> Float[Array, "T D"]:  # fmt: skip
    """As `tiled`; an index of E is nobody's and costs nothing. f32 sums of whatever dtype.

    Arrays of rows have room for `most` of them, where that is given; should more be somebody's all
    is done at full size. The usual case is where the predicate is false (tmi/aot/text.py).
    """
    source, dest, sizes = sorted_rows(index, gate.shape[0])

    def within(room: int, x, weights, gate, up, down):
        xs = dispatch(x, source[:room], dest)
        return combine(ragged_swiglu(xs, sizes, gate, up, down), weights, source[:room], dest)

    args, every = (x, weights, gate, up, down), source.shape[0]
    if most is None or most >= every:
        return within(every, *args)
    # Computed again in backward passes: else either case would keep room for the other's rows.
    cases = (jax.checkpoint(functools.partial(within, room)) for room in (every, most))
    return jax.lax.cond(jnp.sum(sizes) > most, *cases, *args)


def ragged_swiglu(xs: Float[Array, "R D"], sizes: Int[Array, " E"], gate, up, down):
    """Rows sorted by expert through their gated MLPs; `sizes` of each group.

    Rows behind the groups are nobody's: zero, and so are their gradients. What a TPU's product
    leaves there is not said.
    """
    owned = (jnp.arange(xs.shape[0]) < jnp.sum(sizes))[:, None]

    def product(rows, bank):
        return jax.lax.ragged_dot(
            rows, bank.swapaxes(1, 2), sizes, preferred_element_type=rows.dtype
        )

    xs = jnp.where(owned, xs, 0)
    ys = product(jax.nn.silu(product(xs, gate)) * product(xs, up), down)
    return jnp.where(owned, ys, 0)


def by_kernel(
    x: Float[Array, "T D"], index: Int[Array, "T N"], weights: Float[Array, "T N"],
    gate: Float[Array, "E F D"], up: Float[Array, "E F D"], down: Float[Array, "E D F"],
    implementation: str = "pallas_tpu",
) -> Float[Array, "T D"]:  # fmt: skip
    """As `ragged`, f32. A row whose experts are named in rising order, none twice, gets the bits
    that `expert_gemv` of the same implementation gives it, however many rows there are."""
    source, dest, sizes = sorted_rows(index, gate.shape[0])
    xs = dispatch(x, source, dest)
    ys = collect(kernel_swiglu(xs, sizes, gate, up, down, implementation), source, dest)
    y = jnp.zeros(x.shape, jnp.float32)
    for n in range(index.shape[1]):
        y = y + weigh(weights[:, n, None], ys[:, n])
    return y


def kernel_swiglu(
    xs: Float[Array, "R D"], sizes: Int[Array, " E"], gate, up, down,
    implementation: str = "pallas_tpu",
) -> Float[Array, "R D"]:  # fmt: skip
    """As `ragged_swiglu`, f32; the hidden layer alone is rounded to the type of the banks."""

    h = ragged_kernels.ragged_swiglu(xs, gate, up, sizes, implementation=implementation)
    return ragged_kernels.ragged_dot(
        h, down, sizes, out_dtype=jnp.float32, implementation=implementation
    )


def sorted_rows(
    index: Int[Array, "T N"], experts: int
) -> tuple[Int[Array, " R"], Int[Array, "T N"], Int[Array, " E"]]:
    """(for each sorted row its (token, choice), where each (token, choice) went, rows of each
    expert); an index of `experts` goes last. Equal experts keep their order."""
    flat = index.reshape(-1)
    source = jnp.argsort(flat, stable=True).astype(jnp.int32)
    dest = jnp.argsort(source).astype(jnp.int32).reshape(index.shape)
    return source, dest, group_sizes(flat, experts)


def group_sizes(index: Int[Array, " N"], experts: int) -> Int[Array, " E"]:
    """How often each expert is named, without a scatter."""
    return jnp.sum(index[:, None] == jnp.arange(experts)[None], axis=0, dtype=jnp.int32)


@jax.custom_vjp
def dispatch(x, source, dest):
    """x [T, D] -> [rows sorted by expert, D]; padding rows (source T N) hold zeros."""
    n = dest.shape[1]
    padded = jnp.concatenate([x, jnp.zeros((1, x.shape[1]), x.dtype)])
    return padded[source // n]


def _dispatch_fwd(x, source, dest):
    return dispatch(x, source, dest), dest


def _dispatch_bwd(dest, g):
    rows = (row_of(g, dest, n) for n in range(dest.shape[1]))
    return functools.reduce(jnp.add, rows).astype(g.dtype), None, None


dispatch.defvjp(_dispatch_fwd, _dispatch_bwd)


@jax.custom_vjp
def combine(
    ys: Float[Array, "R D"], weights: Float[Array, "T N"], source: Int[Array, " R"],
    dest: Int[Array, "T N"],
) -> Float[Array, "T D"]:  # fmt: skip
    """Sorted rows -> the sum of each row's experts by weight, f32, added in their order. Expert by
    expert, both ways: N times the rows in f32 are the largest arrays of a step."""
    y = numerics.zero(dest[:, :1])
    for n in range(dest.shape[1]):
        y = y + weights[:, n, None] * row_of(ys, dest, n)
    return y


def row_of(rows: Float[Array, "R D"], dest: Int[Array, "T N"], n: int) -> Float[Array, "T D"]:
    """Each row's n-th, f32; zeros where there are fewer than there were rows to sort and it had no
    room."""
    if rows.shape[0] >= dest.size:
        return rows[dest[:, n]].astype(jnp.float32)
    return rows.at[dest[:, n]].get(mode="fill", fill_value=0).astype(jnp.float32)


def _combine_fwd(ys, weights, source, dest):
    return combine(ys, weights, source, dest), (ys, weights, source, dest)


def _combine_bwd(saved, g):
    ys, weights, source, dest = saved
    t, n = dest.shape
    # Rows that pad the tiles are nobody's: weight zero, of whichever row.
    share = jnp.concatenate([weights.reshape(-1), jnp.zeros((1,), weights.dtype)])[source]
    of_row = g.astype(ys.dtype)[jnp.minimum(source // n, t - 1)]
    d_ys = (share[:, None] * of_row.astype(jnp.float32)).astype(ys.dtype)
    parts = [jnp.sum(g * row_of(ys, dest, k), axis=1) for k in range(n)]
    return d_ys, jnp.stack(parts, axis=1).astype(weights.dtype), None, None


combine.defvjp(_combine_fwd, _combine_bwd)


@jax.custom_vjp
def collect(ys, source, dest):
    """Sorted rows -> [T, N, D]."""
    return ys[dest]


def _collect_fwd(ys, source, dest):
    return ys[dest], source


def _collect_bwd(source, g):
    flat = g.reshape(-1, g.shape[-1])
    return jnp.concatenate([flat, jnp.zeros((1, flat.shape[1]), flat.dtype)])[source], None, None


collect.defvjp(_collect_fwd, _collect_bwd)


@jax.custom_vjp
def tile_weights(bank, pick, expert_of_tile):
    """The weights of each tile's expert [tiles, out, in]."""
    return bank[expert_of_tile]


def _tile_weights_fwd(bank, pick, expert_of_tile):
    return bank[expert_of_tile], pick


def _tile_weights_bwd(pick, g):
    shape = (pick.shape[1],) + g.shape[1:]
    return jnp.dot(pick.T, g.reshape(g.shape[0], -1)).reshape(shape), None, None


tile_weights.defvjp(_tile_weights_fwd, _tile_weights_bwd)
