"""Output heads: text unembedding, and the flow head that speaks.

Flow matching: x_t = (1 - t) noise + t x. The head predicts the clean patch from (x_t, t, hidden
state); the loss is on the velocity x - noise. AdaLN residual MLP after MAR (arXiv 2406.11838); the
t distribution decides whether it speaks or babbles (docs/LOG.md): a 200 ms patch is readable from
x_t at tiny t, so most draws lie near 0.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from tmi.config import Config
from tmi.mesh import constrain
from tmi.models.layers import Param, RMSNorm, dot, rms_norm, weight

TIME_FEATURES = 32
LETTERS = 26
LAST_T = 0.95  # 1 / (1 - t) is bounded: the velocity is not asked for beyond


class Unembed(nnx.Module):
    def __init__(self, config: Config, key: Array):
        self.divisor = config.model.logit_divisor
        self.tokens = config.text.unpadded_vocab_size or config.text.vocab_size
        self.table = weight(key, config.text.vocab_size, config.model.width, ("vocab", "embed"))

    def __call__(self, h: Float[Array, "*b D"]) -> Float[Array, "*b V"]:
        return self.logits(constrain(self.table[...], "vocab", None), h)

    def logits(self, table: Float[Array, "V D"], h: Float[Array, "*b D"]) -> Float[Array, "*b V"]:
        """With a table at hand: on one device of a mesh, say."""
        return dot(h, table)[..., : self.tokens] / self.divisor


class HearingHead(nnx.Module):
    """Reads what is said and seen off a hidden layer, into the space of the unembedding. A target
    of training: words of unheard voices are learnt from each word, not from each answer."""

    def __init__(self, config: Config, key: Array):
        d = config.model.width
        self.write = weight(key, d, d, ("embed", None))

    def __call__(self, h: Float[Array, "*b D"]) -> Float[Array, "*b D"]:
        return rms_norm(dot(rms_norm(h), self.write[...]))


class SpellingHead(nnx.Module):
    """Which letters have just sounded, a logit each, off the same layer. A target of training:
    sounds are shared by all words, so each micro-turn of speech teaches what a word alone teaches
    once."""

    def __init__(self, config: Config, key: Array):
        self.write = weight(key, LETTERS, config.model.width, (None, "embed"))
        self.bias = Param(jnp.zeros((LETTERS,), jnp.float32), axes=(None,))

    def __call__(self, h: Float[Array, "*b D"]) -> Float[Array, "*b L"]:
        return dot(rms_norm(h), self.write[...]) + self.bias[...]


class WaitingHead(nnx.Module):
    """How long until the model next speaks, in classes (`waiting_class`). A target of training: a
    named time is learnt from every micro-turn of the wait, not from its last alone."""

    def __init__(self, config: Config, key: Array):
        m = config.model
        self.write = weight(key, m.waiting_bins, m.width, (None, "embed"))

    def __call__(self, h: Float[Array, "*b D"]) -> Float[Array, "*b W"]:
        return dot(h, self.write[...])


def waiting_class(microturns: Int[Array, "*b"], bins: int) -> Int[Array, "*b"]:
    """Waits of 0, 1, ... micro-turns as classes: one each up to 8, then 10 % longer each; the last
    holds all that are longer."""
    long = 8 + jnp.floor(jnp.log(jnp.maximum(microturns, 8) / 8) / math.log(1.1)).astype(jnp.int32)
    return jnp.minimum(jnp.where(microturns < 8, microturns, long), bins - 1)


class FlowBlock(nnx.Module):
    def __init__(self, width: int, key: Array):
        k = jax.random.split(key, 2)
        self.adapt = Param(jnp.zeros((3 * width, width), jnp.float32), axes=("mlp", None))
        self.up = weight(k[0], width, width, ("mlp", None))
        self.down = weight(k[1], width, width, (None, "mlp"))

    def __call__(self, x, c):
        shift, scale, gate = jnp.split(dot(jax.nn.silu(c), self.adapt[...]), 3, axis=-1)
        h = rms_norm(x) * (1 + scale) + shift
        return x + (1 + gate) * dot(jax.nn.silu(dot(h, self.up[...])), self.down[...])


class FlowHead(nnx.Module):
    def __init__(self, config: Config, key: Array):
        f, s = config.flow, config.speech
        k = jax.random.split(key, 5 + f.depth)
        size = s.frames_per_position * s.num_mels
        self.config = f
        self.read = weight(k[0], f.width, size, ("mlp", None))
        self.condition = weight(k[1], f.width, config.model.width, ("mlp", "embed"))
        self.time = weight(k[2], f.width, TIME_FEATURES, ("mlp", None))
        self.blocks = nnx.List([FlowBlock(f.width, k[5 + i]) for i in range(f.depth)])
        self.norm = RMSNorm(f.width)
        self.write = weight(k[3], size, f.width, (None, "mlp"), scale=0.1)

    def clean(
        self, x: Float[Array, "*b N"], t: Float[Array, "*b"], h: Float[Array, "*b D"]
    ) -> Float[Array, "*b N"]:
        """The clean patch as seen from x_t."""
        freq = jnp.exp(jnp.linspace(0.0, math.log(1000.0), TIME_FEATURES // 2))
        phase = t[..., None] * freq
        c = dot(rms_norm(h), self.condition[...])
        c = c + dot(jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], -1), self.time[...])
        y = dot(x, self.read[...]) + c
        for block in self.blocks:
            y = block(y, c)
        return dot(self.norm(y), self.write[...])

    def loss(
        self, h: Float[Array, "B P D"], patch: Float[Array, "B P F C"], key: Array
    ) -> Float[Array, "B P"]:
        """Mean squared error of the velocity, a mean over the config's draws of (noise, t)."""
        f = self.config
        b, p = patch.shape[:2]
        x = jnp.broadcast_to(patch.reshape(1, b, p, -1), (f.draws, b, p, patch[0, 0].size))
        k = jax.random.split(key, 3)
        t = jax.nn.sigmoid(f.t_mean + f.t_std * jax.random.normal(k[0], x.shape[:3]))
        t = jnp.where(jax.random.uniform(k[1], t.shape) < f.t_zero, 0.0, jnp.minimum(t, LAST_T))
        noise = jax.random.normal(k[2], x.shape)
        h = jnp.broadcast_to(h, (f.draws,) + h.shape)
        # Each device its own rows: else the weights would stay where they lie, and the activations
        # of the whole batch be summed over all devices.
        x, noise, h = (constrain(a, None, "batch", None, None) for a in (x, noise, h))
        noisy = (1 - t)[..., None] * noise + t[..., None] * x
        clean = self.clean(noisy, t, h)
        error = (clean - x) / (1 - t)[..., None]  # = predicted velocity - (x - noise)
        return jnp.mean(error * error, axis=(0, 3))

    def sample(
        self, h: Float[Array, "B D"], noise: Float[Array, "B N"]
    ) -> Float[Array, "B steps+1 N"]:
        """Euler steps from noise at t = 0 to a patch at t = 1, and all between."""
        n = self.config.steps
        xs = [noise * self.config.temperature]
        for i in range(n):
            x = xs[-1]
            t = jnp.full(x.shape[:1], i / n)
            xs.append(x + (self.clean(x, t, h) - x) / (n - i))  # dt / (1 - t) = 1 / (n - i)
        return jnp.stack(xs, axis=1)
