"""The smallest parts. Weights are `[out, in]`; every product contracts both operands on their last
axis.

That form keeps a row's bits independent of the number of rows on CPU in f32 (docs/LOG.md), so
training and decoding share it. Shape letters: B batch, S positions, D embed, H heads, K kv heads, F
mlp, E experts, V vocabulary, C mel bins, L layers.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import typing
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from tmi import mesh, numerics


class Param(nnx.Param):
    """A trained parameter; `axes` are the logical axes that tmi/sharding.py maps to the mesh."""


class Balance(nnx.Variable):
    """A router's loss-free balancing bias: moved by the trainer's rule, never by a gradient."""


F32 = ("gain", "taps", "router", "scale", "balance")  # never of a lesser dtype


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Turned:
    """A weight [*n, o, i] that lies in memory as [*n, i, o], which CPUs read in half the time where
    rows are few. The bits of its products are not those of training: for numerics 'fast'."""

    columns: Float[Array, "*n i o"]

    @classmethod
    def of(cls, w: Float[Array, "*n o i"]) -> Turned:
        return cls(w.swapaxes(-1, -2))

    @property
    def rows(self) -> Float[Array, "*n o i"]:
        return self.columns.swapaxes(-1, -2)

    @property
    def shape(self) -> tuple[int, ...]:
        *n, i, o = self.columns.shape
        return (*n, o, i)

    @property
    def dtype(self):
        return self.columns.dtype

    def __getitem__(self, index) -> Turned:
        """Of its first axes."""
        return self if index is ... else Turned(self.columns[index])


def in_dtype(module, dtype: str, but: str = ""):
    """The module with its weights in `dtype`, but for those of `F32` and of the submodule `but`."""
    if dtype == "float32":
        return module

    def cast(path, v):
        names = [str(getattr(key, "name", key)) for key in path]
        kept = names[0] == but or names[-1] in F32
        return v if kept else v.replace(v[...].astype(dtype))

    return jax.tree_util.tree_map_with_path(
        cast, module, is_leaf=lambda v: isinstance(v, nnx.Variable)
    )


# Where bits matter a product has that many rows and columns: one is another kernel's. The order in
# which a number is added up depends on how many columns there are beside whole tiles.
LEAST, TILE = 2, 64


def dot(x: Float[Array, "*b i"], w: Float[Array, "o i"] | Turned) -> Float[Array, "*b o"]:
    """x w^T, both contracted on their last axis, in the dtype of the weights."""
    x = x.astype(w.dtype)
    if isinstance(w, Turned):
        return x @ w.columns
    if not numerics.invariant():
        return _dot(x, w)
    flat = x.reshape(-1, x.shape[-1])
    y = _dot(at_least(flat), at_least(w))
    return y[: flat.shape[0], : w.shape[0]].reshape(*x.shape[:-1], w.shape[0])


def at_least(x: Float[Array, "*b r i"]) -> Float[Array, "*b t i"]:
    """Rows, and as many of zeros as make LEAST."""
    return _with_zeros(x, max(0, LEAST - x.shape[-2]))


def whole_tiles(x: Float[Array, "*b r i"]) -> Float[Array, "*b t i"]:
    """Rows of which there are more in one program than in another, and zeros to whole tiles."""
    return _with_zeros(x, -x.shape[-2] % TILE)


def _with_zeros(x, more: int):
    if not more:
        return x
    # Held in memory: XLA would multiply what is not zero by itself.
    return jax.lax.optimization_barrier(jnp.pad(x, (*((0, 0),) * (x.ndim - 2), (0, more), (0, 0))))


@jax.custom_vjp
def _dot(x, w):
    return jax.lax.dot_general(x, w, (((x.ndim - 1,), (1,)), ((), ())))


def _dot_fwd(x, w):
    return _dot(x, w), (x, w)


def _dot_bwd(saved, g):
    x, w = saved
    dx = jax.lax.dot_general(g, w, (((g.ndim - 1,), (0,)), ((), ())))
    return dx, transposed_product(x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1]))


_dot.defvjp(_dot_fwd, _dot_bwd)


def transposed_product(x: Float[Array, "*n r i"], g: Float[Array, "*n r o"]):
    """g^T x [*n, o, i]. On CPU XLA makes a transposed copy of such a product's first operand, in
    the midst of whatever computes it: slow, so that is the smaller one, and it is computed before.
    The barriers keep XLA from turning the product round again."""
    n = x.ndim - 2
    batch = tuple(range(n))
    dims = (((n,), (n,)), (batch, batch))
    if g.shape[-1] < x.shape[-1]:
        g = jax.lax.optimization_barrier(g)
        return jax.lax.optimization_barrier(jax.lax.dot_general(g, x, dims))
    y = jax.lax.dot_general(x, g, dims)
    return jax.lax.optimization_barrier(y).swapaxes(n, n + 1)


def contract(
    x: Float[Array, "*n r i"], y: Float[Array, "*n t i"] | Turned
) -> Float[Array, "*n r t"]:
    """x y^T of each pair of matrices, both contracted on their last axis; f32 whatever they are."""
    if isinstance(y, Turned):
        return jnp.matmul(x, y.columns, preferred_element_type=jnp.float32)
    if not numerics.invariant():
        return _contract(x, y)
    return _contract(at_least(x), at_least(y))[..., : x.shape[-2], : y.shape[-2]]


@jax.custom_vjp
def _contract(x, y):
    n = x.ndim - 2
    batch = tuple(range(n))
    dims = (((n + 1,), (n + 1,)), (batch, batch))
    return jax.lax.dot_general(x, y, dims, preferred_element_type=jnp.float32)


def _contract_fwd(x, y):
    return _contract(x, y), (x, y)


def _contract_bwd(saved, g):
    x, y = saved
    g = g.astype(x.dtype)
    n = x.ndim - 2
    batch = tuple(range(n))
    dx = jax.lax.dot_general(g, y, (((n + 1,), (n,)), (batch, batch)))
    return dx, transposed_product(x, g)


_contract.defvjp(_contract_fwd, _contract_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def contract_in_blocks(
    x: Float[Array, "*n r T"], y: Float[Array, "*n t T"], block: int
) -> Float[Array, "*n r t"]:
    """As `contract`, T in blocks whose products are added in order: a block of zeros changes no
    bit, wherever it stands."""

    def blocks(z):  # [*n, r, T] -> [*n, T / block, r, block]
        return z.reshape(*z.shape[:-1], -1, block).swapaxes(-2, -3)

    parts = contract(blocks(x), blocks(y))
    total = jnp.zeros_like(parts[..., 0, :, :])
    for i in range(parts.shape[-3]):
        total = total + parts[..., i, :, :]
    return total


def _in_blocks_fwd(x, y, block):
    return contract_in_blocks(x, y, block), (x, y)


def _in_blocks_bwd(block, saved, g):
    return _contract_bwd(saved, g)


contract_in_blocks.defvjp(_in_blocks_fwd, _in_blocks_bwd)


def dots(x: Float[Array, "*b i"], *ws: Float[Array, "_ i"]) -> tuple[Array, ...]:
    """`dot(x, w)` for each w, as one product: x is read once, and so is its gradient. Not where a
    mesh divides weights by their rows: in one matrix of all, rows would have to travel."""
    if mesh.divides("tensor"):
        return tuple(dot(x, w) for w in ws)
    return split(dot(x, jnp.concatenate(ws)), tuple(w.shape[0] for w in ws))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def split(y: Float[Array, "*b o"], sizes: tuple[int, ...]) -> tuple[Array, ...]:
    """Parts of the last axis. (The gradient is one concatenation; XLA's own pads and adds.)"""
    return tuple(jnp.split(y, list(itertools.accumulate(sizes))[:-1], axis=-1))


def _split_fwd(y, sizes):
    return split(y, sizes), None


def _split_bwd(sizes, _, gs):
    return (jnp.concatenate(gs, axis=-1),)


split.defvjp(_split_fwd, _split_bwd)


def weight(key: Array, out_size: int, in_size: int, axes: tuple, scale: float = 1.0) -> Param:
    value = jax.random.normal(key, (out_size, in_size), jnp.float32) * (scale / math.sqrt(in_size))
    return Param(value, axes=axes)


def rms_norm(
    x: Float[Array, "*b d"], gain: Float[Array, " d"] | None = None, eps: float = 1e-6
) -> Float[Array, "*b d"]:
    x = x.astype(jnp.float32)
    if numerics.invariant():
        mean: typing.Any = _mean_square(x, eps)
    else:
        mean = jnp.mean(x * x, axis=-1, keepdims=True) + eps
    y = x * jax.lax.rsqrt(mean)
    return y if gain is None else y * gain


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _mean_square(x: Float[Array, "*b d"], eps: float) -> Float[Array, "*b 1"]:
    """The mean of squares, plus eps, in an order that is written out. It begins with eps: of two
    products that are added, a compiler may round either one first."""
    return _in_lanes(lambda total, x: total + x * x, x, eps * x.shape[-1]) / x.shape[-1]


_mean_square.defvjp(
    lambda x, eps: (_mean_square(x, eps), x), lambda eps, x, g: (x * (2 / x.shape[-1]) * g,)
)


def row_sum(x: Float[Array, "*b d"]) -> Float[Array, "*b 1"]:
    """The sum over the last axis. XLA's own has an order that depends on the number of rows: where
    numerics are invariant it is written out."""
    return _row_sum(x) if numerics.invariant() else jnp.sum(x, axis=-1, keepdims=True)


@jax.custom_vjp
def _row_sum(x):
    return _in_lanes(lambda total, x: total + x, x, 0.0)


_row_sum.defvjp(
    lambda x: (_row_sum(x), jnp.zeros((x.shape[-1], 0), x.dtype)),
    lambda saved, g: (jnp.broadcast_to(g, (*g.shape[:-1], saved.shape[0])),),
)


def _in_lanes(add, x: Float[Array, "*b d"], begin: float) -> Float[Array, "*b 1"]:
    """Folds the last axis with `add`, some lanes at a time, and sums these in halves. The lanes
    together begin with `begin`."""
    d = x.shape[-1]
    lanes = 1
    while d % (2 * lanes) == 0 and lanes < max(16, d // 16):
        lanes *= 2
    total = jnp.float32(begin / lanes)
    for start in range(0, d, lanes):
        total = add(total, x[..., start : start + lanes])
    while lanes > 1:
        lanes //= 2
        total = total[..., :lanes] + total[..., lanes:]
    return total


class RMSNorm(nnx.Module):
    def __init__(self, size: int, init: float = 1.0, eps: float = 1e-6):
        self.gain = Param(jnp.full((size,), init, jnp.float32), axes=(None,))
        self.eps = eps

    def __call__(self, x):
        return rms_norm(x, self.gain[...], self.eps)


class ShortConv(nnx.Module):
    """Depthwise causal convolution with residual, in f32 (Inkling): y[s] = x[s] + sum_k w[k] x[s -
    k].

    Taps do not reach before the session: `position` is the index inside it. `state` holds the
    inputs before x ([B, width-1, D], zeros at the start of a session); None in training, where x
    begins its rows.
    """

    def __init__(self, size: int, width: int):
        self.taps = Param(jnp.zeros((width, size), jnp.float32), axes=(None, None))

    def __call__(
        self,
        x: Float[Array, "B S D"],
        position: Int[Array, "B S"],
        state: Float[Array, "B W D"] | None = None,
    ) -> tuple[Float[Array, "B S D"], Float[Array, "B T D"]]:
        """Returns the output and the inputs with their history, from which the next state is
        cut."""
        taps = self.taps[...]
        more = taps.shape[0] - 1
        x = x.astype(jnp.float32)
        if state is None and x.shape[1] >= more:
            return _convolved(x, taps, position), x
        if state is None:
            state = jnp.zeros((x.shape[0], more, x.shape[2]), x.dtype)
        history = jnp.concatenate([state, x], axis=1)
        return _with_past(x, history, taps, position), history


def _with_past(x, history, taps, position):
    y = x + taps[0] * x
    for k, past in _shifted(history, taps.shape[0] - 1, x.shape[1]):
        y = y + taps[k] * jnp.where((position >= k)[..., None], past, 0.0)
    return y


def _shifted(history: Float[Array, "B T D"], more: int, size: int):
    """(k, the inputs k positions before) for each k from 1."""
    for k in range(1, more + 1):
        yield k, jax.lax.slice_in_dim(history, more - k, more - k + size, axis=1)


@jax.custom_vjp
def _convolved(x: Float[Array, "B S D"], taps: Float[Array, "W D"], position: Int[Array, "B S"]):
    """A row's beginning stands for what is before it, which no tap sees. (Beside zeros XLA for CPUs
    looks at each number whether it is one of them, both ways.)"""
    more = taps.shape[0] - 1
    return _with_past(x, jnp.concatenate([x[:, :more], x], axis=1), taps, position)


def _convolved_bwd(saved, g):
    x, taps, position = saved
    more, size = taps.shape[0] - 1, x.shape[1]
    history = jnp.concatenate([x[:, :more], x], axis=1)
    to_come = jnp.concatenate([g, g[:, :more]], axis=1)
    of_those = jnp.pad(position, ((0, 0), (0, more)))  # behind the row nobody looks back
    dx, d_taps = g + taps[0] * g, [jnp.sum(g * x, axis=(0, 1))]
    for k, past in _shifted(history, more, size):
        later = jax.lax.slice_in_dim(to_come, k, k + size, axis=1)
        sees = jax.lax.slice_in_dim(of_those, k, k + size, axis=1) >= k
        dx = dx + taps[k] * jnp.where(sees[..., None], later, 0.0)
        seen = jnp.where((position >= k)[..., None], past, 0.0)
        d_taps.append(jnp.sum(g * seen, axis=(0, 1)))
    return dx, jnp.stack(d_taps), None


_convolved.defvjp(
    lambda x, taps, position: (_convolved(x, taps, position), (x, taps, position)), _convolved_bwd
)


def next_conv_state(
    history: Float[Array, "B T D"], count: Int[Array, " B"], width: int
) -> Float[Array, "B W D"]:
    """The last width-1 inputs after `count` valid ones were appended to a state."""
    return jax.vmap(lambda h, n: jax.lax.dynamic_slice_in_dim(h, n, width - 1, axis=0))(
        history, count
    )


def swiglu(x: Float[Array, "*b d"], gate: Array, up: Array, down: Array) -> Float[Array, "*b d"]:
    """Gated MLP; gate, up `[F, D]`, down `[D, F]`."""
    a, b = dots(x, gate, up)
    return dot(jax.nn.silu(a) * b, down)


def gated(x: Float[Array, "*b d"], both: Array, down: Array) -> Float[Array, "*b d"]:
    """As `swiglu`, gate and up as one `[2 F, D]`."""
    half = down.shape[1]
    parts: typing.Any = split(dot(x, both), (half, half))
    a, b = parts
    return dot(jax.nn.silu(a) * b, down)


class MLP(nnx.Module):
    """A dense layer's; with `scaled`, times a learned scale (Inkling)."""

    def __init__(self, width: int, mlp_width: int, key: Array, scaled: bool = False):
        k = jax.random.split(key, 3)
        self.gate = weight(k[0], mlp_width, width, ("mlp", "embed"))
        self.up = weight(k[1], mlp_width, width, ("mlp", "embed"))
        self.down = weight(k[2], width, mlp_width, ("embed", "mlp"))
        if scaled:
            self.scale = Param(jnp.ones((), jnp.float32), axes=())

    def join(self) -> None:
        """For decoding: one matrix for good, which training makes anew each step."""
        self.joint = Param(jnp.concatenate([self.gate[...], self.up[...]]), axes=("mlp", "embed"))
        del self.gate, self.up

    def __call__(self, x):
        if hasattr(self, "joint"):
            y = gated(x, self.joint[...], self.down[...])
        else:
            y = swiglu(x, self.gate[...], self.up[...], self.down[...])
        return y * self.scale[...] if hasattr(self, "scale") else y


def in_memory(make: Callable[[Array], typing.Any], like: Int[Array, "*b"]) -> typing.Any:
    """`make(like)` of integers that are never negative, held in memory. XLA for CPUs
    drops barriers before it fuses, and would compute it anew wherever it is read: there a loop
    holds it."""
    if not mesh.one_cpu():
        return jax.lax.optimization_barrier(make(like))
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(make, like))
    # XLA does not know that the loop is run once, nor that the index adds nothing.
    once = jnp.where(like.reshape(-1)[0] >= 0, 1, 0)
    return jax.lax.fori_loop(0, once, lambda i, _: make(like + jnp.minimum(i, 0)), empty)


def fourier_periods(count: int, longest: int) -> tuple[int, ...]:
    """`count` distinct whole periods (in micro-turns), geometric from 2 to `longest`."""
    if count == 1:
        return (longest,)
    ratio = (longest / 2) ** (1 / (count - 1))
    periods: list[int] = []
    for i in range(count):
        periods.append(max(round(2 * ratio**i), periods[-1] + 1 if periods else 2))
    return tuple(periods)


def fourier_features(microturn: Int[Array, "*b"], periods: tuple[int, ...]) -> tuple[Array, Array]:
    """cos, sin [*b, F] of 2 pi m / period. The phase is reduced in integers: exact for any session
    length."""
    p = jnp.array(periods, jnp.int32)
    phase = (microturn[..., None] % p).astype(jnp.float32) * (2 * math.pi / p.astype(jnp.float32))
    return jnp.cos(phase), jnp.sin(phase)


def decimal(number: Int[Array, "*b"], places: int) -> Float[Array, "*b 10*places"]:
    """Its last `places` digits, the last first, each one-hot."""
    digit = number[..., None] // 10 ** jnp.arange(places) % 10
    return jax.nn.one_hot(digit, 10, dtype=jnp.float32).reshape(*number.shape, 10 * places)
