"""loss = text cross-entropy + flow matching + what is heard and seen, weighted per position.

What the router needs is a rule, not a loss (step.py). The user's words are asked of a hidden layer,
one micro-turn after they ended, and what is in view with each frame: a transcript teaches hearing
from every word, where answers teach it from one word in ten. Decoding has no use for it.
"""

from __future__ import annotations

import typing

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tmi.config import Config
from tmi.microturn import EOM_ID, MAX_HEARD, Stream
from tmi.models.interaction import InteractionModel

QUIET_WEIGHT = 0.1  # of an audio position at which no word is to be known, beside 1 for words
SEEN_WEIGHT = 0.3  # of a frame with something in it: it stays for many
PARTS = ("text", "silence", "speech")  # words and <speak>; the END of silent micro-turns; patches


class PositionLosses(typing.NamedTuple):
    """Unweighted losses; `hit`: whether the target was the likeliest token; `counts`: of routed
    experts."""

    text: Float[Array, "B S"]
    speech: Float[Array, "B P"]
    heard: Float[Array, "B S"] | None
    hit: Float[Array, "B S"]
    counts: Float[Array, "L E"]


def position_losses(
    model: InteractionModel, config: Config, batch: dict[str, Array], key: Array, train: bool
) -> PositionLosses:
    keys = jax.random.split(key, 3)
    context = batch["speech"]
    if train:
        # The sampler feeds back its own imperfect patches: noise keeps the model from trusting them
        # to the last bit.
        level = jax.random.uniform(
            keys[0], context.shape[:2] + (1, 1), maxval=config.flow.context_noise
        )
        context = context + level * jax.random.normal(keys[1], context.shape)
    hidden, heard, counts = model(batch, context)
    logits = model.unembed(hidden)
    target = jnp.maximum(batch["text_target"], 0)
    one_hot = jax.nn.one_hot(target, logits.shape[-1], dtype=jnp.float32)
    text = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(one_hot * logits, axis=-1)
    hit = (jnp.argmax(logits, axis=-1) == target).astype(jnp.float32)
    source = jnp.take_along_axis(hidden, batch["speech_source"][..., None], axis=1)
    speech = model.flow.loss(source, batch["speech"], keys[2])
    if heard is not None:
        heard = hearing_loss(model.unembed(model.hearing(heard)), batch["heard"])
    return PositionLosses(text, speech, heard, hit, counts)


def hearing_loss(logits: Float[Array, "B S V"], heard: Int[Array, "B S K"]) -> Float[Array, "B S"]:
    """Cross-entropy to the tokens of `heard` in equal shares, to END where there are none."""
    heard = heard.at[..., 0].set(jnp.where(heard[..., 0] < 0, EOM_ID, heard[..., 0]))
    share = 1.0 / jnp.sum(heard >= 0, axis=-1)
    vocab = jnp.arange(logits.shape[-1])
    target = sum((heard[..., k, None] == vocab).astype(jnp.float32) for k in range(MAX_HEARD))
    mean = jnp.sum(target * logits, axis=-1) * share
    return jax.nn.logsumexp(logits, axis=-1) - mean


def loss_fn(
    model: InteractionModel, config: Config, batch: dict[str, Array], key: Array, train: bool = True
):
    """Scalar loss and (metrics, counts). Each part is a weighted mean over the global batch."""
    text, speech, heard, hit, counts = position_losses(model, config, batch, key, train)
    tw, sw = batch["text_weight"], batch["speech_weight"]
    silent = batch["text_target"] == EOM_ID
    text_loss = jnp.sum(text * tw) / jnp.maximum(jnp.sum(tw), 1e-6)
    speech_loss = jnp.sum(speech * sw) / jnp.maximum(jnp.sum(sw), 1e-6)
    total = text_loss + config.train.speech_weight * speech_loss

    def mean(x, weight):
        return jnp.sum(x * weight) / jnp.maximum(jnp.sum(weight), 1.0)

    words = ((tw > 0) & ~silent).astype(jnp.float32)
    quiet = ((tw > 0) & silent).astype(jnp.float32)
    metrics = {
        "loss": total,
        "loss/text": mean(text, words),
        "loss/silence": mean(text, quiet),
        "loss/speech": speech_loss,
        "accuracy/text": mean(hit, words),
        "accuracy/silence": mean(hit, quiet),
    }
    if heard is not None:
        wanted = batch["heard"][..., 0] >= 0
        audio = batch["stream"] == Stream.AUDIO_IN
        said, quiet, seen = (
            x.astype(jnp.float32) for x in (audio & wanted, audio & ~wanted, ~audio & wanted)
        )
        weight = said + QUIET_WEIGHT * quiet + SEEN_WEIGHT * seen
        total = total + config.train.hearing_weight * mean(heard, weight)
        metrics |= {
            "loss": total,
            "loss/hearing": mean(heard, said),
            "loss/seeing": mean(heard, seen),
        }
    return total, (metrics, counts)


def skill_losses(text: Float[Array, "B S"], batch: dict[str, Array], num_skills: int):
    """Sums of the words' loss and hits' weights by skill, each [num_skills]: add over batches, then
    divide."""
    words = ((batch["text_weight"] > 0) & (batch["text_target"] != EOM_ID)).astype(jnp.float32)
    by_skill = jax.nn.one_hot(batch["skill"], num_skills, dtype=jnp.float32)
    return jnp.einsum("bs,bsk->k", text * words, by_skill), jnp.einsum("bs,bsk->k", words, by_skill)
