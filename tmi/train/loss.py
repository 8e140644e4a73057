"""loss = text cross-entropy + flow matching + what is heard and seen + the wait until it speaks,
weighted per position.

What the router needs is a rule, not a loss (step.py). The user's words are asked of a hidden layer,
one micro-turn after they ended, and what is in view with each frame: a transcript teaches hearing
from every word, where answers teach it from one word in ten. Likewise the time until the model next
speaks is asked for in each micro-turn, where its words tell one time in a hundred. Decoding has no
use for either. And keys behind a request are asked when they will be looked at.
"""

from __future__ import annotations

import functools
import typing

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from tmi import mesh, numerics
from tmi.config import Config
from tmi.microturn import EOM_ID, MAX_HEARD, SPEAK_ID, Stream
from tmi.models.attention import MASKED, time_of
from tmi.models.heads import Unembed, waiting_class
from tmi.models.interaction import InteractionModel
from tmi.models.layers import contract, in_dtype
from tmi.models.transformer import Block, Taps

DUE_TURNS = 3  # micro-turns from that on in which an answer is due where keys may call for it
DUE_SHARE = 8  # one position of so many, at most, is asked for them
CALLED_SHARE = 8  # one position of so many, at most, is asked where its attention goes
SILENT_WEIGHT = 0.1  # there, of one at which nothing is due yet, beside 1 for an answer
CALLED_TURNS = 4  # micro-turns behind a due one in which its answer may still begin
NEAR_TURNS = 10  # micro-turns before and behind a named time that `timed_weight` is for
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
    due: Float[Array, "B S"] | None
    called: Float[Array, "B S"] | None
    hit: Float[Array, "B S"]
    counts: dict[str, Array]


@numerics.by_config
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
    model = in_dtype(model, config.model.dtype, but="transformer")  # layers see to themselves
    hidden, heard, counts, taps = model(batch, context)
    target = jnp.maximum(batch["text_target"], 0)
    text, hit = text_losses(model.unembed, hidden, target, config.train.loss_chunks)
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
    due = called = None
    if asks_due(config) and taps is not None:
        due, called = due_loss(model, taps, batch), called_loss(model, taps, batch)
    return PositionLosses(text, speech, heard, waiting, due, called, hit, counts)


def text_losses(
    unembed: Unembed, hidden: Float[Array, "B S D"], target: Int[Array, "B S"], chunks: int
) -> tuple[Float[Array, "B S"], Float[Array, "B S"]]:
    """Cross-entropy, and whether the target was the likeliest token. Logits are made for S / chunks
    positions of each row at a time, and anew for the gradient if that is not all."""

    def part(table, hidden, target):
        logits = unembed.logits(table, hidden).astype(jnp.float32)
        one_hot = jax.nn.one_hot(target, logits.shape[-1], dtype=jnp.float32)
        text = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(one_hot * logits, axis=-1)
        return text, (jnp.argmax(logits, axis=-1) == target).astype(jnp.float32)

    def in_parts(table, hidden, target):
        def split(x):
            b, s = x.shape[:2]
            return x.reshape(b, chunks, s // chunks, *x.shape[2:]).swapaxes(0, 1)

        one = functools.partial(jax.checkpoint(part), table)
        parts = jax.lax.map(lambda x: one(*x), (split(hidden), split(target)))
        text, hit = (x.swapaxes(0, 1).reshape(target.shape) for x in parts)
        return text, hit

    table = mesh.constrain(unembed.table[...], "vocab", None)
    if chunks == 1:
        return part(table, hidden, target)
    where = mesh.current()
    if where is None or where.shape["tensor"] > 1 or where.shape["sequence"] > 1:
        return in_parts(table, hidden, target)
    # On each device by itself: else the table's gradient would be summed over all of them with each
    # part, and not once.
    rows = mesh.current_rules().spec(("batch", None), target.shape, where)
    return jax.shard_map(
        in_parts, mesh=where, in_specs=(PartitionSpec(), rows, rows), out_specs=(rows, rows),
        check_vma=False,
    )(table, hidden, target)  # fmt: skip


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


def asks_due(config: Config) -> bool:
    return config.train.due_weight > 0 and config.model.position_bias != "token"


def asked_of(batch: dict[str, Array]) -> tuple[Array, Int[Array, "B K"]]:
    """Whether a position is asked when its key will be looked at, [B, S], and where those are:
    few, so they come first, in order."""
    asked = batch["due"] >= 0
    return asked, jax.lax.top_k(asked.astype(jnp.float32), asked.shape[1] // DUE_SHARE)[1]


def near_due(batch: dict[str, Array], before: int, behind: int) -> Array:
    """Whether so many micro-turns before or behind a time that the session's user named, [B, S]."""
    asked, at = asked_of(batch)
    known, due, segment = (
        jnp.take_along_axis(x, at, axis=1)[..., None]
        for x in (asked, batch["due"], batch["segment"])
    )
    since = batch["microturn"][:, None] - due
    own = known & (batch["segment"][:, None] == segment)
    return jnp.any(own & (since >= -before) & (since <= behind), axis=1)


def due_loss(model: InteractionModel, taps: Taps, batch: dict[str, Array]) -> Float[Array, "B S"]:
    """Where a time is `due`: how much of what the last global layer's keys add to the scores of
    later micro-turns misses it, in nats. So a key that names its time is learnt from the request
    itself; from answers alone no 'at second N' ever was."""
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
    return jax.vmap(lambda z, i, v: z.at[i].set(v))(jnp.zeros(asked.shape), at, lost)


def last_global(model: InteractionModel, taps: Taps) -> tuple[Block, Float[Array, "B S D"]]:
    """The last global layer, and the states that it reads."""
    kinds = model.transformer.kinds
    layer = max(i for i, (span, _) in enumerate(kinds) if span.blocks)
    return model.transformer.layers[layer], taps.states[:, :, layer - 1]


def called(batch: dict[str, Array]) -> tuple[Array, Array]:
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
    return jax.vmap(lambda z, i, v: z.at[i].set(v))(jnp.zeros(answers.shape), at, lost)


def hearing_loss(logits: Float[Array, "B S V"], heard: Int[Array, "B S K"]) -> Float[Array, "B S"]:
    """Cross-entropy to the tokens of `heard` in equal shares, to END where there are none."""
    heard = heard.at[..., 0].set(jnp.where(heard[..., 0] < 0, EOM_ID, heard[..., 0]))
    share = 1.0 / jnp.sum(heard >= 0, axis=-1)
    vocab = jnp.arange(logits.shape[-1])
    target = sum((heard[..., k, None] == vocab).astype(jnp.float32) for k in range(MAX_HEARD))
    mean = jnp.sum(target * logits, axis=-1) * share
    return jax.nn.logsumexp(logits, axis=-1) - mean


def loss_weights(config: Config, batch: dict[str, Array]) -> dict[str, Array]:
    """What each part of the loss and each metric is a mean over, by name: a weight a position or
    patch."""
    tw = batch["text_weight"]
    if asks_due(config) and config.train.timed_weight != 1:
        tw = tw * jnp.where(near_due(batch, NEAR_TURNS, NEAR_TURNS), config.train.timed_weight, 1.0)
    silent = batch["text_target"] == EOM_ID
    out = {
        "text": tw,
        "speech": batch["speech_weight"],
        "words": ((tw > 0) & ~silent).astype(jnp.float32),
        "silence": ((tw > 0) & silent).astype(jnp.float32),
    }
    if config.model.hearing_layer:
        wanted = batch["heard"][..., 0] >= 0
        audio = batch["stream"] == Stream.AUDIO_IN
        said, quiet, seen = (
            x.astype(jnp.float32) for x in (audio & wanted, audio & ~wanted, ~audio & wanted)
        )
        heard = said + QUIET_WEIGHT * quiet + SEEN_WEIGHT * seen
        out |= {"said": said, "seen": seen, "heard": heard}
    if config.model.waiting_bins:
        out["waiting"] = (waits(batch) >= 0).astype(jnp.float32)
    if asks_due(config):
        out["due"] = (batch["due"] >= 0).astype(jnp.float32)
        answers, silent = called(batch)
        out["called"] = answers + SILENT_WEIGHT * silent
    return out


def total_weights(config: Config, batch: dict[str, Array]) -> dict[str, Array]:
    """Sums of `loss_weights` over a batch, so that parts of it add up to the whole's means."""
    return {n: jnp.sum(w) for n, w in loss_weights(config, batch).items()}


def loss_fn(
    model: InteractionModel, config: Config, batch: dict[str, Array], key: Array,
    train: bool = True, totals: dict[str, Array] | None = None,
):  # fmt: skip
    """Scalar loss and (metrics, counts). Each part is a weighted mean over the global batch, whose
    weights are `totals` where `batch` is but a part of it."""
    losses = position_losses(model, config, batch, key, train)
    weights = loss_weights(config, batch)
    if totals is None:
        totals = {n: jnp.sum(w) for n, w in weights.items()}

    def mean(x, name):
        return jnp.sum(x * weights[name]) / jnp.maximum(totals[name], 1e-6)

    t = config.train
    speech_loss = mean(losses.speech, "speech")
    total = mean(losses.text, "text") + t.speech_weight * speech_loss
    metrics = {
        "loss/text": mean(losses.text, "words"),
        "loss/silence": mean(losses.text, "silence"),
        "loss/speech": speech_loss,
        "accuracy/text": mean(losses.hit, "words"),
        "accuracy/silence": mean(losses.hit, "silence"),
    }
    if losses.heard is not None:
        total = total + t.hearing_weight * mean(losses.heard, "heard")
        metrics["loss/hearing"] = mean(losses.heard, "said")
        metrics["loss/seeing"] = mean(losses.heard, "seen")
    if losses.waiting is not None:
        metrics["loss/waiting"] = mean(losses.waiting, "waiting")
        total = total + t.waiting_weight * metrics["loss/waiting"]
    if losses.due is not None:
        metrics["loss/due"] = mean(losses.due, "due")
        metrics["loss/called"] = mean(losses.called, "called")
        total = total + t.due_weight * (metrics["loss/due"] + metrics["loss/called"])
    return total, ({"loss": total, **metrics}, losses.counts)


def skill_losses(text: Float[Array, "B S"], batch: dict[str, Array], num_skills: int):
    """Sums of the words' loss and hits' weights by skill, each [num_skills]: add over batches, then
    divide."""
    words = ((batch["text_weight"] > 0) & (batch["text_target"] != EOM_ID)).astype(jnp.float32)
    by_skill = jax.nn.one_hot(batch["skill"], num_skills, dtype=jnp.float32)
    return jnp.einsum("bs,bsk->k", text * words, by_skill), jnp.einsum("bs,bsk->k", words, by_skill)
