"""loss = text cross-entropy + flow matching + what is heard and seen + the wait until it speaks,
weighted per position.

What the router needs is a rule, not a loss (step.py). The user's words are asked of a hidden layer,
one micro-turn after they ended, and what is in view with each frame: a transcript teaches hearing
from every word, where answers teach it from one word in ten. Likewise the time until the model next
speaks is asked for in each micro-turn, where its words tell one time in a hundred. Decoding has no
use for either.
"""

from __future__ import annotations

import typing

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tmi.config import Config
from tmi.microturn import EOM_ID, MAX_HEARD, SPEAK_ID, Stream
from tmi.models.heads import waiting_class
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
    waiting: Float[Array, "B S"] | None
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
    speech = jnp.zeros(source.shape[:2])
    if config.speech.enabled:
        speech = model.flow.loss(source, batch["speech"], keys[2])
    if heard is not None:
        heard = hearing_loss(model.unembed(model.hearing(heard)), batch["heard"])
    waiting = None
    if config.model.waiting_bins:
        classes = waiting_class(jnp.maximum(waits(batch), 0), config.model.waiting_bins)
        one_hot = jax.nn.one_hot(classes, config.model.waiting_bins, dtype=jnp.float32)
        scores = model.waiting(hidden)
        waiting = jax.nn.logsumexp(scores, axis=-1) - jnp.sum(one_hot * scores, axis=-1)
    return PositionLosses(text, speech, heard, waiting, hit, counts)


def waits(batch: dict[str, Array]) -> Int[Array, "B S"]:
    """Micro-turns until the next that has words, at the positions before a micro-turn's output; -1
    at others, and where the session has no further words."""
    target, segment = batch["text_target"], batch["segment"]
    before = (target >= 0) & (batch["stream"] != Stream.TEXT_OUT)
    begins = before & (target != EOM_ID) & (target != SPEAK_ID)
    # Sessions follow each other in a row, so the least code to come is the next in time.
    far = 1 << 20
    code = segment * far + batch["microturn"]
    none = jnp.iinfo(jnp.int32).max
    following = jax.lax.cummin(jnp.where(begins, code, none), axis=1, reverse=True)
    known = before & (following // far == segment)
    return jnp.where(known, following - code, -1)


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
    text, speech, heard, waiting, hit, counts = position_losses(model, config, batch, key, train)
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
    if waiting is not None:
        waiting = mean(waiting, (waits(batch) >= 0).astype(jnp.float32))
        total = total + config.train.waiting_weight * waiting
        metrics |= {"loss": total, "loss/waiting": waiting}
    return total, (metrics, counts)


def skill_losses(text: Float[Array, "B S"], batch: dict[str, Array], num_skills: int):
    """Sums of the words' loss and hits' weights by skill, each [num_skills]: add over batches, then
    divide."""
    words = ((batch["text_weight"] > 0) & (batch["text_target"] != EOM_ID)).astype(jnp.float32)
    by_skill = jax.nn.one_hot(batch["skill"], num_skills, dtype=jnp.float32)
    return jnp.einsum("bs,bsk->k", text * words, by_skill), jnp.einsum("bs,bsk->k", words, by_skill)
