"""loss = text cross-entropy + flow matching, weighted per position. What the router needs is a
rule, not a loss (step.py)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tmi.config import Config
from tmi.microturn import EOM_ID
from tmi.models.interaction import InteractionModel

PARTS = ("text", "silence", "speech")  # words and <speak>; the END of silent micro-turns; patches


def position_losses(
    model: InteractionModel, config: Config, batch: dict[str, Array], key: Array, train: bool
):
    """text [B,S] and speech [B,P] losses, whether the token was the likeliest [B,S], routed-expert
    counts [L,E]."""
    keys = jax.random.split(key, 3)
    context = batch["speech"]
    if train:
        # The sampler feeds back its own imperfect patches: noise keeps the model from trusting them
        # to the last bit.
        level = jax.random.uniform(
            keys[0], context.shape[:2] + (1, 1), maxval=config.flow.context_noise
        )
        context = context + level * jax.random.normal(keys[1], context.shape)
    hidden, counts = model(batch, context)
    logits = model.unembed(hidden)
    target = jnp.maximum(batch["text_target"], 0)
    one_hot = jax.nn.one_hot(target, logits.shape[-1], dtype=jnp.float32)
    text = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(one_hot * logits, axis=-1)
    hit = (jnp.argmax(logits, axis=-1) == target).astype(jnp.float32)
    source = jnp.take_along_axis(hidden, batch["speech_source"][..., None], axis=1)
    speech = model.flow.loss(source, batch["speech"], keys[2])
    return text, speech, hit, counts


def loss_fn(
    model: InteractionModel, config: Config, batch: dict[str, Array], key: Array, train: bool = True
):
    """Scalar loss and (metrics, counts). Each part is a weighted mean over the global batch."""
    text, speech, hit, counts = position_losses(model, config, batch, key, train)
    tw, sw = batch["text_weight"], batch["speech_weight"]
    silent = batch["text_target"] == EOM_ID
    text_loss = jnp.sum(text * tw) / jnp.maximum(jnp.sum(tw), 1e-6)
    speech_loss = jnp.sum(speech * sw) / jnp.maximum(jnp.sum(sw), 1e-6)
    total = text_loss + config.train.speech_weight * speech_loss

    def mean(x, mask):
        return jnp.sum(x * mask) / jnp.maximum(jnp.sum(mask), 1.0)

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
    return total, (metrics, counts)


def skill_losses(text: Float[Array, "B S"], batch: dict[str, Array], num_skills: int):
    """Sums of the words' loss and hits' weights by skill, each [num_skills]: add over batches, then
    divide."""
    words = ((batch["text_weight"] > 0) & (batch["text_target"] != EOM_ID)).astype(jnp.float32)
    by_skill = jax.nn.one_hot(batch["skill"], num_skills, dtype=jnp.float32)
    return jnp.einsum("bs,bsk->k", text * words, by_skill), jnp.einsum("bs,bsk->k", words, by_skill)
