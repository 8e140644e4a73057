"""The smallest parts. Weights are `[out, in]`; every product contracts both operands on their last
axis.

That form keeps a row's bits independent of the number of rows on CPU in f32 (docs/LOG.md), so
training and decoding share it. Shape letters: B batch, S positions, D embed, H heads, K kv heads, F
mlp, E experts, V vocabulary, C mel bins, L layers.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int


class Param(nnx.Param):
    """A trained parameter; `axes` are the logical axes that tmi/sharding.py maps to the mesh."""


class Balance(nnx.Variable):
    """A router's loss-free balancing bias: moved by the trainer's rule, never by a gradient."""


def dot(x: Float[Array, "*b i"], w: Float[Array, "o i"]) -> Float[Array, "*b o"]:
    """x w^T, both contracted on their last axis."""
    return jax.lax.dot_general(
        x, w, (((x.ndim - 1,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )


def weight(key: Array, out_size: int, in_size: int, axes: tuple, scale: float = 1.0) -> Param:
    value = jax.random.normal(key, (out_size, in_size), jnp.float32) * (scale / math.sqrt(in_size))
    return Param(value, axes=axes)


def rms_norm(
    x: Float[Array, "*b d"], gain: Float[Array, " d"] | None = None, eps: float = 1e-6
) -> Float[Array, "*b d"]:
    x = x.astype(jnp.float32)
    y = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)
    return y if gain is None else y * gain


class RMSNorm(nnx.Module):
    def __init__(self, size: int, init: float = 1.0):
        self.gain = Param(jnp.full((size,), init, jnp.float32), axes=(None,))

    def __call__(self, x):
        return rms_norm(x, self.gain[...])


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
        width = taps.shape[0]
        x = x.astype(jnp.float32)
        if state is None:
            state = jnp.zeros((x.shape[0], width - 1, x.shape[2]), x.dtype)
        history = jnp.concatenate([state, x], axis=1)
        size = x.shape[1]
        y = x + taps[0] * x
        for k in range(1, width):
            past = jax.lax.slice_in_dim(history, width - 1 - k, width - 1 - k + size, axis=1)
            y = y + taps[k] * jnp.where((position >= k)[..., None], past, 0.0)
        return y, history


def next_conv_state(
    history: Float[Array, "B T D"], count: Int[Array, " B"], width: int
) -> Float[Array, "B W D"]:
    """The last width-1 inputs after `count` valid ones were appended to a state."""
    return jax.vmap(lambda h, n: jax.lax.dynamic_slice_in_dim(h, n, width - 1, axis=0))(
        history, count
    )


def swiglu(x: Float[Array, "*b d"], gate: Array, up: Array, down: Array) -> Float[Array, "*b d"]:
    """Gated MLP; gate, up `[F, D]`, down `[D, F]`."""
    return dot(jax.nn.silu(dot(x, gate)) * dot(x, up), down)


class MLP(nnx.Module):
    def __init__(self, width: int, mlp_width: int, key: Array):
        k = jax.random.split(key, 3)
        self.gate = weight(k[0], mlp_width, width, ("mlp", "embed"))
        self.up = weight(k[1], mlp_width, width, ("mlp", "embed"))
        self.down = weight(k[2], width, mlp_width, ("embed", "mlp"))

    def __call__(self, x):
        return swiglu(x, self.gate[...], self.up[...], self.down[...])


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
