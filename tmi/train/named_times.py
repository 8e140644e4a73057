"""Named times ("at second twenty four", "every three seconds") as a target: the keys of the last
global layer behind such a request are an alarm, which is learnt here from the request itself.

What they are asked: when they will be looked at (`due_loss`: the times of one key), and whether
whoever answers at that time looks at them and nobody before does (`called_loss`: the keys of one
time). From answers alone no "at second N" ever was learnt: one position in thousands says so. The
first head alone is asked; decoding has no use for any of it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from tmi.config import Config
from tmi.microturn import EOM_ID, Stream
from tmi.models.attention import MASKED, time_of
from tmi.models.interaction import InteractionModel
from tmi.models.layers import contract
from tmi.models.transformer import Block, Taps

DUE_TURNS = 3  # micro-turns from that on in which an answer is due where keys may call for it
DUE_SHARE = 8  # one position of so many, at most, is asked for them
CALLED_SHARE = 8  # one position of so many, at most, is asked where its attention goes
SILENT_WEIGHT = 0.1  # there, of one at which nothing is due yet, beside 1 for an answer
CALLED_TURNS = 4  # micro-turns behind a due one in which its answer may still begin
NEAR_TURNS = 10  # micro-turns before and behind a named time that `timed_weight` is for


def are_asked(config: Config) -> bool:
    return config.train.due_weight > 0 and config.model.position_bias != "token"


def asked_of(batch: dict[str, Array]) -> tuple[Bool[Array, "B S"], Int[Array, "B K"]]:
    """Whether a position is asked when its key will be looked at, [B, S], and where those are:
    few, so they come first, in order."""
    asked = batch["due"] >= 0
    return asked, jax.lax.top_k(asked.astype(jnp.float32), asked.shape[1] // DUE_SHARE)[1]


def near_due(batch: dict[str, Array], before: int, behind: int) -> Bool[Array, "B S"]:
    """Whether so many micro-turns before or behind a time that the session's user named, [B, S]."""
    asked, at = asked_of(batch)
    known, due, segment = (
        jnp.take_along_axis(x, at, axis=1)[..., None]
        for x in (asked, batch["due"], batch["segment"])
    )
    since = batch["microturn"][:, None] - due
    own = known & (batch["segment"][:, None] == segment)
    return jnp.any(own & (since >= -before) & (since <= behind), axis=1)


def text_factor(config: Config, batch: dict[str, Array]) -> Float[Array, "B S"]:
    """What the weights of text are multiplied by."""
    near = near_due(batch, NEAR_TURNS, NEAR_TURNS)
    return jnp.where(near, config.train.timed_weight, 1.0)


def weights(batch: dict[str, Array]) -> dict[str, Float[Array, "B S"]]:
    """Of the losses here, by name."""
    answers, silent = called(batch)
    return {
        "due": (batch["due"] >= 0).astype(jnp.float32),
        "called": answers + SILENT_WEIGHT * silent,
    }


def due_loss(model: InteractionModel, taps: Taps, batch: dict[str, Array]) -> Float[Array, "B S"]:
    """Where a time is `due`: how much of what the last global layer's keys add to the scores of
    later micro-turns misses it, in nats. So a key that names its time is learnt from the request
    itself."""
    transformer = model.transformer
    block, states = last_global(model, taps)
    asked, at = asked_of(batch)
    x = jnp.take_along_axis(states, at[..., None], axis=1)
    here, due = (jnp.take_along_axis(batch[n], at, axis=1) for n in ("microturn", "due"))
    # A micro-turn has at least two positions.
    later = jnp.arange(asked.shape[1] // 2, dtype=jnp.int32)[None]
    times = (time_of(transformer.config, transformer.layout, t) for t in (here, later))
    scores = block.attention.foreseen(block.attention_norm(x), *times)
    to_come = later[:, None] > here[..., None]
    scores = jnp.where(to_come, scores, MASKED)
    behind = later[:, None] - due[..., None]
    right = to_come & (behind >= 0) & (behind < DUE_TURNS)
    known = jnp.take_along_axis(asked, at, axis=1) & jnp.any(right, axis=-1)
    right = jax.nn.logsumexp(jnp.where(right, scores, MASKED), axis=-1)
    lost = jax.nn.logsumexp(scores, axis=-1) - right
    lost = jnp.where(known, lost, 0.0)
    return _put(asked.shape, at, lost)


def last_global(model: InteractionModel, taps: Taps) -> tuple[Block, Float[Array, "B S D"]]:
    """The last global layer, and the states that it reads."""
    kinds = model.transformer.kinds
    layer = max(i for i, (span, _) in enumerate(kinds) if span.blocks)
    return model.transformer.layers[layer], taps.states[:, :, layer - 1]


def called(batch: dict[str, Array]) -> tuple[Bool[Array, "B S"], Bool[Array, "B S"]]:
    """The last positions before a micro-turn's words, [B, S], where a time that the user named is
    near: those whose words are due, and those that are silent before it."""
    target = batch["text_target"]
    before = (target >= 0) & (batch["stream"] != Stream.TEXT_OUT)
    answers = before & (target != EOM_ID) & near_due(batch, 0, CALLED_TURNS)
    return answers, before & (target == EOM_ID) & near_due(batch, NEAR_TURNS, -1)


def called_loss(
    model: InteractionModel, taps: Taps, batch: dict[str, Array]
) -> Float[Array, "B S"]:
    """Where an answer that is due begins: how much of the attention of the last global layer's
    first head misses the keys that were asked for that time, in nats; and where it is not due yet,
    how much of it they have. `due_loss` weighs the times of one key, this the keys of one time:
    without it those keys called at the right time and others called louder, by scores so far apart
    that nothing was learnt from words."""
    transformer = model.transformer
    block, states = last_global(model, taps)
    position, segment, microturn = batch["position"], batch["segment"], batch["microturn"]
    answers, silent = called(batch)
    _, at = jax.lax.top_k(2.0 * answers + silent, answers.shape[1] // CALLED_SHARE)

    def here(x):
        return jnp.take_along_axis(x, at, axis=1)[..., None]

    time = time_of(transformer.config, transformer.layout, microturn)
    q, k, _, rel, _ = block.attention.project(block.attention_norm(states), position, time)
    scores = contract(jnp.take_along_axis(q[:, 0], at[..., None], axis=1), k[:, 0])
    if rel is not None:
        rows = jnp.take_along_axis(rel[:, 0], at[..., None], axis=1)
        behind = at[..., None] - jnp.arange(scores.shape[-1], dtype=jnp.int32)
        near = (behind >= 0) & (behind < rows.shape[-1])
        index = jnp.clip(rows.shape[-1] - 1 - behind, 0, rows.shape[-1] - 1)
        scores = scores + jnp.where(near, jnp.take_along_axis(rows, index, axis=-1), 0.0)
    own = here(segment) == segment[:, None]
    seen = own & block.attention.span.visible(here(position), position[:, None])
    since, asked = here(microturn) - batch["due"][:, None], (batch["due"] >= 0)[:, None]
    due = asked & (since >= 0) & (since <= CALLED_TURNS)
    wanted = seen & jnp.where(here(answers), due, ~(asked & (since < 0)))
    scores = jnp.where(seen, scores, MASKED)
    known = here(answers | silent)[..., 0] & jnp.any(wanted, axis=-1)
    right = jax.nn.logsumexp(jnp.where(wanted, scores, MASKED), axis=-1)
    lost = jnp.where(known, jax.nn.logsumexp(scores, axis=-1) - right, 0.0)
    return _put(answers.shape, at, lost)


def _put(shape, at: Int[Array, "B K"], values: Float[Array, "B K"]) -> Float[Array, "B S"]:
    return jax.vmap(lambda z, i, v: z.at[i].set(v))(jnp.zeros(shape), at, values)
