"""Encoder-free towers: dMel bag of embeddings, hMLP stem, text embedding, fed-back speech; all
trained from scratch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from tmi.config import Config
from tmi.mesh import constrain
from tmi.microturn import layout
from tmi.models.layers import (
    Param,
    RMSNorm,
    decimal,
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
        # The table comes to the rows, not they to its parts.
        x = constrain(dot(one_hot, self.table[...]), "batch", None, None, None)
        x = self.norm(x)
        if self.frames == 1:
            return x[:, :, 0]
        return rms_norm(
            dot(jax.nn.gelu(dot(x.reshape(b, n, -1), self.merge[...])), self.project[...])
        )


def stem_shapes(config: Config) -> list[tuple[str, int, int, int]]:
    """Of each linear layer of the hMLP stem: its name, how many vectors of a patch it reads, their
    width, and the width that it writes."""
    v = config.video
    widths = (*v.stem_channels, config.model.width)
    size, groups = 3, 2 * v.patch**2  # a pixel
    out = []
    for i, ((frames, side), width) in enumerate(zip(v.folds, widths, strict=True), start=1):
        folded = frames * side * side
        groups //= folded
        name = "fold_time" if i == len(widths) else f"fold{i}"
        out.append((name, groups, folded * size, width))
        size = width
    return out


# Mean and deviation of RGB in [0, 1]: Radford et al. 2021, arXiv:2103.00020.
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class HMLPStem(nnx.Module):
    """Patches of two frames -> D: bias-free linear layers with RMSNorm and GELU between, each of
    which folds frames and pixels into depth (published: 5, 2, 4 pixels, then 2 frames)."""

    def __init__(self, config: Config, key: Array):
        v = config.video
        shapes = stem_shapes(config)
        k = jax.random.split(key, len(shapes))
        for i, (name, _, rows, width) in enumerate(shapes):
            last = len(shapes) - 1 - i
            axes = {0: ("embed", "mlp"), 1: ("mlp", None)}.get(last, (None, None))
            setattr(self, name, weight(k[i], width, rows, axes))
        self.names = tuple(name for name, *_ in shapes)
        self.norms = nnx.List([RMSNorm(c) for c in v.stem_channels])
        self.final_norm = RMSNorm(config.model.width)
        self.folds = v.folds
        self.pixels = v.pixels
        self.tanh = v.gelu == "tanh"

    def __call__(self, pixels: Int[Array, "B V 2 P P 3"]) -> Float[Array, "B V D"]:
        b, v = pixels.shape[:2]
        x = self.ordered(pixels.reshape(b * v, *pixels.shape[2:])).astype(jnp.float32)
        if self.pixels == "unit":
            x = x / 127.5 - 1.0
        else:
            mean, deviation = (jnp.array(c, jnp.float32) for c in CLIP)
            x = (x / 255.0 - mean) / deviation
        return self.fold(x).reshape(b, v, -1)

    def ordered(self, pixels: Float[Array, "N T P P 3"]) -> Float[Array, "N T*P*P 3"]:
        """Pixels in the order of the folds, once: every fold is then a reshape."""
        times = [t for t, _ in reversed(self.folds)]
        sides = [n for _, n in reversed(self.folds)]
        count = len(sides)
        x = pixels.reshape(pixels.shape[0], *times, *sides, *sides, pixels.shape[-1])
        order = [1 + i + part * count for i in range(count) for part in range(3)]
        return x.transpose(0, *order, 1 + 3 * count).reshape(x.shape[0], -1, x.shape[-1])

    def fold(self, x: Float[Array, "N T*P*P 3"]) -> Float[Array, "N D"]:
        """Normalised pixels, ordered, to embeddings."""
        for i, name in enumerate(self.names):
            w = getattr(self, name)[...]
            x = dot(x.reshape(x.shape[0], -1, w.shape[1]), w)
            if i < len(self.norms):
                x = jax.nn.gelu(self.norms[i](x), approximate=self.tanh)
        return self.final_norm(x.reshape(x.shape[0], -1))


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
    """Tells a position the session's time: Fourier features of its micro-turn index and, as on a
    clock's face, decimal digits of the time at which its output will be heard.

    Times are asked for in decimal words ("at second twenty four"): with digits a word matches a row
    of a table, and few rows make all numbers. Digits begin at zero, as if there were none.
    """

    def __init__(self, config: Config, key: Array):
        self.periods = fourier_periods(CLOCK_FREQUENCIES, config.model.time_max_microturns)
        self.weight = weight(
            key, config.model.width, 2 * CLOCK_FREQUENCIES, ("embed", None), scale=0.5
        )
        self.layout = layout(config)
        self.places = config.model.clock_digits
        if self.places:
            zeros = jnp.zeros((config.model.width, 10 * self.places), jnp.float32)
            self.digits = Param(zeros, axes=("embed", None))

    def __call__(self, microturn: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        waves = jnp.concatenate(fourier_features(microturn, self.periods), axis=-1)
        x = dot(waves, self.weight[...])
        if not self.places:
            return x
        return x + dot(decimal(self.layout.output_tenths(microturn), self.places), self.digits[...])


class TokenEmbed(nnx.Module):
    def __init__(self, config: Config, streams: int, key: Array):
        d = config.model.width
        k = jax.random.split(key, 2)
        self.table = Param(
            jax.random.normal(k[0], (config.text.vocab_size, d)), axes=("vocab", "embed")
        )
        if config.model.stream_embeddings:
            self.stream = Param(jax.random.normal(k[1], (streams, d)) * 0.5, axes=(None, "embed"))
        if config.model.embedding_norm:
            self.norm = RMSNorm(d, eps=config.model.norm_eps)

    def __call__(self, token: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        # Looked up in whole rows: a table divided along D would be looked up by every device.
        x = constrain(self.table[...], "vocab", None)[token]
        return self.norm(x) if hasattr(self, "norm") else x
