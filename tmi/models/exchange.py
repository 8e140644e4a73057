"""Expert parallelism: rows travel over the mesh to the devices that hold their experts, and back.

Each device holds E / ep experts and a share of the rows. Nothing is ever dropped:

* 'padded': one equal all-to-all with room for the worst case. For CPU and small meshes.
* 'ragged': `ragged_all_to_all` moves what there is. The buffer it arrives in holds `SLACK` times
  the mean; should any device need more, all of them take the same exchange in so many parts that
  the worst case fits (one branch of a `cond`).
* 'ring': every row visits every device, which adds what its experts say. More bytes, no routing of
  rows: the choice for decoding, where rows are few and are gathered at once, and for few devices,
  where many rows travel while others are computed.

Rows come back to where they were and are summed there in the order of the choice, so 'padded' and
'ragged' give the bits of a single device. 'ring' does so where numerics are invariant, for as many
times the bytes as a row has experts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from tmi import numerics
from tmi.models.grouped import (
    by_kernel,
    combine,
    dispatch,
    group_sizes,
    kernel_swiglu,
    ragged,
    ragged_swiglu,
    sorted_rows,
    tiled,
    weighted,
)

AXIS = "expert"
ROWS = ("data", "fsdp", "expert", "sequence")  # mesh axes over which rows are divided
SLACK = 1.5
MANY_ROWS = 1024  # of a device, from which on they travel in turn
ROWS_OF_ALL = "rows_of_all"  # a name in compiled texts: these gathers are of no parameter
KINDS = ("padded", "ragged", "ring")
GROUPED = {"tiles": tiled, "ragged_dot": ragged, "pallas_tpu": by_kernel}

Local = Callable[..., Array]  # (x [T,D], index [T,N], weights [T,N], *banks) -> [T,D]
SwiGLU = Callable[..., Array]  # (rows sorted by expert [R,D], rows of each [E], *banks) -> [R,D]


def over_mesh(
    kind: str, grouped: str, mesh, bank_specs: tuple[PartitionSpec, ...],
    x: Float[Array, "T D"], index: Int[Array, "T N"], weights: Float[Array, "T N"], *banks: Array,
) -> Float[Array, "T D"]:  # fmt: skip
    """Sum of each row's experts by weight, with rows and experts divided over `mesh`.

    `bank_specs` say how gate, up [E,F,D] and down [E,D,F] lie: experts over AXIS, anything else
    over axes that are gathered here ('tensor' alone stays divided, along F).
    """
    rows = x.shape[0]
    shards = math.prod(mesh.shape[a] for a in ROWS)
    room = -(-rows // shards) * shards
    if room != rows:  # rows of nobody: their weights are zero
        x, index, weights = (
            jnp.pad(a, ((0, room - rows),) + ((0, 0),) * (a.ndim - 1)) for a in (x, index, weights)
        )
    by_row = PartitionSpec(ROWS)
    # Experts that their axis does not divide lie whole on every device.
    ep = mesh.shape[AXIS] if AXIS in _axes(bank_specs[0][0]) else 1
    local = functools.partial(_on_device, kind, grouped, ep, bank_specs)
    y = jax.shard_map(
        local, mesh=mesh, in_specs=(by_row,) * 3 + bank_specs, out_specs=by_row, check_vma=False
    )(x, index, weights, *banks)
    return y[:rows]


def _on_device(kind, grouped, ep, bank_specs, x, index, weights, *banks):
    split = any("tensor" in _axes(s) for spec in bank_specs for s in spec)
    banks = tuple(_gathered(b, spec, x.dtype) for b, spec in zip(banks, bank_specs, strict=True))
    compute = GROUPED[grouped]
    if ep == 1:
        y = compute(x, index, weights, *banks)
    elif kind == "padded":
        y = padded(ep, compute, x, index, weights, *banks)
    elif kind == "ragged":
        swiglu = kernel_swiglu if compute is by_kernel else ragged_swiglu
        y = ragged_or_in_parts(ep, swiglu, x, index, weights, *banks)
    else:
        y = ring(ep, compute, x, index, weights, *banks)
    return jax.lax.psum(y, "tensor") if split else y


def _axes(entry) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else tuple(entry or ())


def _gathered(bank: Array, spec: PartitionSpec, dtype) -> Array:
    """Its own experts whole but for 'tensor', cast before they travel."""
    bank = bank.astype(dtype)
    for dim, entry in enumerate(spec):
        for axis in reversed(_axes(entry)):
            if dim > 0 and axis != "tensor":
                bank = jax.lax.all_gather(bank, axis, axis=dim, tiled=True)
    return bank


def padded(ep: int, compute: Local, x, index, weights, gate, up, down):
    """One all-to-all of [ep, room, D] there and one back; `room` holds the worst case."""
    rows, n = index.shape
    own = gate.shape[0]
    room = rows * min(n, own)
    flat = index.reshape(-1)
    device = flat // own
    member = jax.nn.one_hot(device, ep, dtype=jnp.int32)
    rank = jnp.sum((jnp.cumsum(member, axis=0) - 1) * member, axis=1)
    dest = (device * room + rank).reshape(rows, n)
    source = (
        jnp.full((ep * room,), rows * n, jnp.int32)
        .at[dest.reshape(-1)]
        .set(jnp.arange(rows * n, dtype=jnp.int32))
    )
    # What fills the room is zeros, and stays zeros with any expert.
    choice = jnp.concatenate([flat % own, jnp.zeros((1,), flat.dtype)])[source]
    swap = functools.partial(jax.lax.all_to_all, axis_name=AXIS, split_axis=0, concat_axis=0)
    xs = swap(dispatch(x, source, dest).reshape(ep, room, -1)).reshape(ep * room, -1)
    choice = swap(choice.reshape(ep, room)).reshape(-1, 1)
    ys = compute(xs, choice, jnp.ones(choice.shape, jnp.float32), gate, up, down)
    ys = swap(ys.astype(x.dtype).reshape(ep, room, -1)).reshape(ep * room, -1)
    return combine(ys, weights, source, dest)


def ring(ep: int, compute: Local, x, index, weights, gate, up, down):
    """All rows of the axis come by; where numerics are invariant each expert's part of a row goes
    by itself, since it is then added to nothing but zeros on its way."""
    if apart := numerics.invariant():
        rows, n = index.shape
        own_index, own_weights = index, weights
        x, index = jnp.repeat(x, n, axis=0), index.reshape(-1, 1)
        weights = jnp.ones(index.shape, jnp.float32)
    own = gate.shape[0]
    first = jax.lax.axis_index(AXIS) * own
    many = x.shape[0] >= MANY_ROWS
    if ep * x.shape[0] >= MANY_ROWS and compute is ragged:  # most rows that come are others'
        mean = index.size / ep if many else index.size
        compute = functools.partial(ragged, most=math.ceil(SLACK * mean))

    @jax.checkpoint
    def one(args):
        x, index, weights = args
        mine = (index >= first) & (index < first + own)
        nobody = 0 if compute is tiled else own
        local = jnp.where(mine, index - first, nobody)
        y = compute(x, local, jnp.where(mine, weights, 0.0), gate, up, down)
        return y.astype(x.dtype)

    y = (in_turn if many else all_at_once)(ep, one, (x, index, weights))
    return weighted(y.reshape(rows, n, -1), own_index, own_weights) if apart else y


def all_at_once(ep: int, one: Callable, mine: tuple[Array, ...]) -> Array:
    """Few rows: gathered, computed together, so that weights are read once, and the sums
    scattered."""
    with jax.named_scope(ROWS_OF_ALL):
        everybodys = tuple(jax.lax.all_gather(a, AXIS, tiled=True) for a in mine)
    ys = one(everybodys)
    return jax.lax.psum_scatter(ys, AXIS, scatter_dimension=0, tiled=True)


def in_turn(ep: int, one: Callable, mine: tuple[Array, ...]) -> Array:
    """Many rows go from device to device, and their sums behind them, while those that came before
    are computed: a TPU then waits for neither."""
    to_next = [(i, (i + 1) % ep) for i in range(ep)]

    def onward(a: Array) -> Array:
        return jax.lax.ppermute(a, AXIS, to_next)

    coming = tuple(map(onward, mine))
    total = one(mine)
    for step in range(1, ep):
        here, coming = coming, tuple(map(onward, coming)) if step + 1 < ep else coming
        total = onward(total) + one(here)
    return onward(total)


def ragged_or_in_parts(ep: int, swiglu: SwiGLU, x, index, weights, gate, up, down):
    """`_ragged` with room for SLACK times the mean, or in parts where the worst case fits."""
    rows, n = index.shape
    own = gate.shape[0]
    room = min(math.ceil(SLACK * rows * n), ep * rows * min(n, own))
    parts = 1
    while (rows // parts) * ep * min(n, own) > room and rows % (2 * parts) == 0:
        parts *= 2
    run = functools.partial(_ragged, ep, swiglu, gate, up, down)
    arriving = jax.lax.psum(group_sizes(index.reshape(-1) // own, ep), AXIS)

    def whole(x, index, weights):
        return run(room, x, index, weights)

    def in_parts(*args):
        split = tuple(a.reshape((parts, rows // parts) + a.shape[1:]) for a in args)
        worst = (rows // parts) * ep * min(n, own)
        y = jax.lax.map(jax.checkpoint(lambda part: run(worst, *part)), split)
        return y.reshape(rows, -1)

    if rows * ep * min(n, own) <= room:
        return whole(x, index, weights)
    # The same on every device: `arriving` is of the whole axis.
    return jax.lax.cond(jnp.max(arriving) <= room, whole, in_parts, x, index, weights)


def _ragged(ep: int, swiglu: SwiGLU, gate, up, down, room: int, x, index, weights):
    """Rows sorted by expert go out as one slice an expert, and arrive sorted by expert."""
    source, dest, sizes = sorted_rows(index, ep * gate.shape[0])
    counts = jax.lax.all_gather(sizes, AXIS)
    there, back, groups = exchange_plan(counts, jax.lax.axis_index(AXIS))
    xs = _exchange(dispatch(x, source, dest), room, there)
    ys = swiglu(xs, groups, gate, up, down).astype(x.dtype)
    ys = _exchange(ys, source.shape[0], back)
    return combine(ys, weights, source, dest)


Plan = tuple[Array, Array, Array, Array]  # input_offsets, send_sizes, output_offsets, recv_sizes


def exchange_plan(
    counts: Int[Array, "P E"], me: Int[Array, ""]
) -> tuple[Plan, Plan, Int[Array, " O"]]:
    """How device `me` sends its rows and gets them back, where device s has counts[s, e] rows for
    expert e, sorted by expert; and the rows that each of its own O = E / P experts is given."""
    ep, experts = counts.shape
    own = experts // ep

    def before(x, axis):
        return jnp.cumsum(x, axis=axis) - x

    at_source = before(counts, 1)  # [s, e]: where s keeps its rows for e
    total = jnp.sum(counts, axis=0).reshape(ep, own)
    at_expert = before(total, 1).reshape(experts) + before(counts, 0)  # [s, e]: where they arrive
    mine = counts.reshape(ep, ep, own)[:, me].reshape(experts)  # by source, then my expert
    there = (at_source[me], counts[me], at_expert[me], mine)
    arrived = at_expert.reshape(ep, ep, own)[:, me].reshape(experts)
    home = at_source.reshape(ep, ep, own)[:, me].reshape(experts)
    back = (arrived, mine, home, counts[me])
    return there, back, total[me]


def _exchange(rows: Float[Array, "R D"], room: int, plan: Plan) -> Float[Array, "M D"]:
    out = jnp.zeros((room, rows.shape[1]), rows.dtype)
    return jax.lax.ragged_all_to_all(rows, out, *plan, axis_name=AXIS)
