"""Encoder-free towers: dMel bag of embeddings, hMLP stem, text embedding, fed-back speech; all
trained from scratch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from tmi.config import Config
from tmi.media.patches import FOLDS
from tmi.models.layers import (
    Param,
    RMSNorm,
    dot,
    fourier_features,
    fourier_periods,
    rms_norm,
    weight,
)

CLOCK_FREQUENCIES = 16


class DMelEmbed(nnx.Module):
    """Sum of one look-up a mel channel, then RMSNorm (Inkling). Several frames a position are
    merged by an MLP."""

    def __init__(self, config: Config, key: Array):
        a, d = config.audio, config.model.width
        k = jax.random.split(key, 3)
        self.levels = a.num_levels
        self.table = weight(
            k[0], d, a.num_mels * a.num_levels, ("embed", None), scale=a.num_levels**0.5
        )
        self.norm = RMSNorm(d)
        self.frames = a.frames_per_position
        if self.frames > 1:
            self.merge = weight(k[1], 2 * d, self.frames * d, ("mlp", None))
            self.project = weight(k[2], d, 2 * d, ("embed", "mlp"))

    def __call__(self, bins: Int[Array, "B A F C"]) -> Float[Array, "B A D"]:
        b, n, f, c = bins.shape
        # One product with a one-hot row is the sum of the C look-ups; its gradient is no scatter.
        one_hot = jax.nn.one_hot(bins, self.levels, dtype=jnp.float32).reshape(
            b, n, f, c * self.levels
        )
        x = self.norm(dot(one_hot, self.table[...]))
        if self.frames == 1:
            return x[:, :, 0]
        return rms_norm(
            dot(jax.nn.gelu(dot(x.reshape(b, n, -1), self.merge[...])), self.project[...])
        )


class HMLPStem(nnx.Module):
    """40x40x3 patches of two frames -> D: linear layers folding 5, 2, 4 pixels, then time 2,
    RMSNorm + GELU between."""

    def __init__(self, config: Config, key: Array):
        d = config.model.width
        c1, c2, c3 = config.video.stem_channels
        k = jax.random.split(key, 4)
        f1, f2, f3 = FOLDS
        self.fold1 = weight(k[0], c1, f1 * f1 * 3, (None, None))
        self.fold2 = weight(k[1], c2, f2 * f2 * c1, (None, None))
        self.fold3 = weight(k[2], c3, f3 * f3 * c2, ("mlp", None))
        self.fold_time = weight(k[3], d, 2 * c3, ("embed", "mlp"))
        self.norms = nnx.List([RMSNorm(c) for c in (c1, c2, c3)])
        self.final_norm = RMSNorm(d)

    def __call__(self, pixels: Int[Array, "B V 2 P P 3"]) -> Float[Array, "B V D"]:
        b, v = pixels.shape[:2]
        f1, f2, f3 = FOLDS
        # Pixels in the order of the folds, once, while they are bytes: every fold below is a
        # reshape.
        x = pixels.reshape(b * v * 2, f3, f2, f1, f3, f2, f1, 3).transpose(0, 1, 4, 2, 5, 3, 6, 7)
        x = x.reshape(b * v * 2, f3 * f3 * f2 * f2, f1 * f1 * 3).astype(jnp.float32) / 127.5 - 1.0
        x = jax.nn.gelu(self.norms[0](dot(x, self.fold1[...])))
        x = x.reshape(x.shape[0], f3 * f3, -1)
        x = jax.nn.gelu(self.norms[1](dot(x, self.fold2[...])))
        x = x.reshape(x.shape[0], -1)
        x = jax.nn.gelu(self.norms[2](dot(x, self.fold3[...])))
        return self.final_norm(dot(x.reshape(b, v, -1), self.fold_time[...]))


class SpeechEmbed(nnx.Module):
    """The model's own patch of mel frames, fed back as an AUDIO_OUT position."""

    def __init__(self, config: Config, key: Array):
        s, d, f = config.speech, config.model.width, config.flow.feedback_width
        k = jax.random.split(key, 2)
        self.down = weight(k[0], f, s.frames_per_position * s.num_mels, ("mlp", None))
        self.up = weight(k[1], d, f, ("embed", "mlp"))

    def __call__(self, patch: Float[Array, "B P F C"]) -> Float[Array, "B P D"]:
        b, p = patch.shape[:2]
        return rms_norm(
            dot(jax.nn.gelu(dot(patch.reshape(b, p, -1), self.down[...])), self.up[...])
        )


class Clock(nnx.Module):
    """Tells a position the session's time: Fourier features of its micro-turn index."""

    def __init__(self, config: Config, key: Array):
        self.periods = fourier_periods(CLOCK_FREQUENCIES, config.model.time_max_microturns)
        self.weight = weight(
            key, config.model.width, 2 * CLOCK_FREQUENCIES, ("embed", None), scale=0.5
        )

    def __call__(self, microturn: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        return dot(
            jnp.concatenate(fourier_features(microturn, self.periods), axis=-1), self.weight[...]
        )


class TokenEmbed(nnx.Module):
    def __init__(self, config: Config, streams: int, key: Array):
        d = config.model.width
        k = jax.random.split(key, 2)
        self.table = Param(
            jax.random.normal(k[0], (config.text.vocab_size, d)), axes=("vocab", "embed")
        )
        self.stream = Param(jax.random.normal(k[1], (streams, d)) * 0.5, axes=(None, "embed"))

    def __call__(self, token: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        return self.table[...][token]
