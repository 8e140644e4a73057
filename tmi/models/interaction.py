"""The interaction model: every stream's embedding, the transformer, and both heads, over micro-turn
sequences."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from tmi import numerics, streams
from tmi.config import Config
from tmi.mesh import constrain
from tmi.microturn import NUM_STREAMS, Stream
from tmi.models import lora
from tmi.models.attention import time_of
from tmi.models.cache import KVCache, ring_positions, ring_size, ring_slots
from tmi.models.embed import Clock, DMelEmbed, HMLPStem, SpeechEmbed, TokenEmbed
from tmi.models.heads import FlowHead, HearingHead, SpellingHead, Unembed, WaitingHead
from tmi.models.transformer import Taps, Transformer, TransformerOutput, taps_of

# Modules that only a loss reads: decoding has no use for them, and a leg may add them anew.
TRAINING_ONLY = ("hearing", "spelling", "waiting")


class InteractionModel(nnx.Module):
    def __init__(self, config: Config, key: Array):
        k = jax.random.split(key, 9)
        self.tokens = TokenEmbed(config, NUM_STREAMS + len(config.streams), k[0])
        self.dmel = DMelEmbed(config, k[1])
        self.video = HMLPStem(config, k[2])
        if config.speech.enabled:
            self.speech = SpeechEmbed(config, k[3])
        if config.model.clock_features:
            self.clock = Clock(config, k[4])
        self.transformer = Transformer(config, k[5])
        self.unembed = Unembed(config, k[6])
        if config.speech.enabled:
            self.flow = FlowHead(config, k[7])
        if config.model.hearing_layer:
            self.hearing = HearingHead(config, k[8])
        if config.model.spelling:
            self.spelling = SpellingHead(config, jax.random.fold_in(key, 998))
        if config.model.waiting_bins:
            self.waiting = WaitingHead(config, jax.random.fold_in(key, 999))
        self.further = config.streams
        # Keys far from those of the split: all the rest begins as it does without further streams.
        self.streams = nnx.Dict({
            name: stream.Tower(config, jax.random.fold_in(key, 1000 + i))
            for i, (name, stream) in enumerate(streams.of(config).items())
        })  # fmt: skip

    # -- embeddings ------------------------------------------------------------------------------

    def embed(
        self, stream: Int[Array, "B S"], token: Int[Array, "B S"], slot: Int[Array, "B S"],
        microturn: Int[Array, "B S"], audio=None, video=None, speech=None, sensed=None,
    ) -> Float[Array, "B S D"]:  # fmt: skip
        """Positions from their streams' contents. audio [B,A,D], video [B,V,D], speech [B,P,D],
        `sensed` of `sense`: embedded, or absent."""
        kinds = {Stream.AUDIO_IN: audio, Stream.VIDEO_IN: video, Stream.AUDIO_OUT: speech}
        x = numerics.rounded(constrain(self.tokens(token), "batch", "seq", None))
        for kind, rows in {**kinds, **(sensed or {})}.items():
            if rows is not None and rows.shape[1]:
                index = jnp.where(stream == kind, slot, 0)
                rows = numerics.rounded(constrain(rows, "batch", None, None))
                own = jnp.take_along_axis(rows, index[..., None], axis=1)
                x = jnp.where((stream == kind)[..., None], own, x)
        if hasattr(self.tokens, "stream"):
            x = x + self.tokens.stream[...][stream]
        if hasattr(self, "clock"):
            x = x + self.clock(microturn)
        return jnp.where((stream == Stream.PAD)[..., None], 0.0, x)

    def sense(self, contents: Mapping[str, Array]) -> dict[int, Float[Array, "B N D"]]:
        """Further streams' contents [B, N, *SHAPE] by name, embedded, by the stream's number."""
        return {
            NUM_STREAMS + i: self.streams[name](contents[name])
            for i, name in enumerate(self.further)
        }

    # -- training: packed rows -------------------------------------------------------------------

    def __call__(self, batch: dict[str, Array], speech_context: Array) -> TransformerOutput:
        """Hidden states of a batch (tmi/data/batch.py).

        speech_context [B,P,F,C]: the patches as fed back (noised in training).
        """
        x = self.embed(
            batch["stream"], batch["token"], batch["slot"], batch["microturn"],
            self.dmel(batch["dmel"]), self.video(batch["video"]),
            self.speech(speech_context) if hasattr(self, "speech") else None,
            self.sense({name: batch[streams.batch_key(name)] for name in self.further}),
        )  # fmt: skip
        return self.transformer(x, batch["position"], batch["microturn"], batch["segment"])

    # -- decoding: appended positions ------------------------------------------------------------

    def append(
        self,
        x: Float[Array, "B N D"],
        microturn: Int[Array, "B N"],
        count: Int[Array, " B"],
        cache: KVCache,
    ) -> tuple[Float[Array, "B N D"], KVCache, Taps]:
        """Appends `count` [B] of the N embedded positions to each session; rows beyond are
        padding."""
        n = x.shape[1]
        x = x.astype(self.transformer.config.dtype)
        position = cache.length[:, None] + jnp.arange(n, dtype=jnp.int32)
        time = time_of(self.transformer.config, self.transformer.layout, microturn)
        layers, states, choices = [], [], []
        rings: dict[int, tuple[Array, Array]] = {}
        for block, layer in zip(self.transformer.layers, cache.layers, strict=True):
            size = ring_size(layer)
            if size not in rings:
                rings[size] = (
                    ring_slots(cache.length, n, size),
                    ring_positions(cache.length, count, n, size),
                )
            block = lora.merge(block, self.transformer.config)
            x, layer, chosen = block.append(x, position, time, count, *rings[size], layer)
            layers.append(layer)
            states.append(x)
            choices.append(chosen)
        cache = KVCache(cache.length + count, tuple(layers))
        return self.transformer.final_norm(x), cache, taps_of(states, choices)


def num_parameters(model) -> int:
    return sum(x.size for x in jax.tree.leaves(model))
