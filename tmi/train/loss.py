"""loss = text cross-entropy + flow matching + what is heard and seen + the wait until it speaks,
weighted per position.

What the router needs is a rule, not a loss (step.py). The user's words are asked of a hidden layer,
one micro-turn after they ended, and what is in view with each frame: a transcript teaches hearing
from every word, where answers teach it from one word in ten. Likewise the time until the model next
speaks is asked for in each micro-turn, where its words tell one time in a hundred. Decoding has no
use for either. And named times are asked of keys (named_times.py).
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
from tmi.models.heads import Unembed, waiting_class
from tmi.models.interaction import InteractionModel
from tmi.models.layers import in_dtype
from tmi.train import named_times

QUIET_WEIGHT = 0.1  # of an audio position at which no word is to be known, beside 1 for words
SEEN_WEIGHT = 0.3  # of a frame with something in it: it stays for many
# Which weights (loss_weights) a metric is a mean over; words include <speak>.
WEIGHTED_BY = {
    "loss/text": "words", "loss/silence": "silence", "loss/speech": "speech",
    "accuracy/text": "words", "accuracy/silence": "silence", "loss/hearing": "said",
    "loss/seeing": "seen", "loss/spelling": "sounding", "loss/waiting": "waiting",
    "loss/due": "due", "loss/called": "called", "loss": "text",
}  # fmt: skip
PARTS = ("text", "silence", "speech")  # words and <speak>; the END of silent micro-turns; patches


class PositionLosses(typing.NamedTuple):
    """Unweighted, in nats. heard: the transcript that layer model.hearing_layer is asked for;
    spelled: the letters that just sounded; waiting: the class of the time until the next words;
    due: that the key behind a request names its time, and called: that who answers at that time
    attends to it (named_times.py). hit: whether the target was the likeliest token; counts: of
    routed experts."""

    text: Float[Array, "B S"]
    speech: Float[Array, "B P"]
    heard: Float[Array, "B S"] | None
    spelled: Float[Array, "B S"] | None
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
    spelled = None
    if heard is not None and config.model.spelling:
        spelled = spelling_loss(model.spelling(heard), batch["spelled"])
    if heard is not None:
        heard = hearing_loss(model.unembed(model.hearing(heard)), batch["heard"])
    waiting = None
    if config.model.waiting_bins:
        classes = waiting_class(jnp.maximum(waits(batch), 0), config.model.waiting_bins)
        one_hot = jax.nn.one_hot(classes, config.model.waiting_bins, dtype=jnp.float32)
        scores = model.waiting(hidden)
        waiting = jax.nn.logsumexp(scores, axis=-1) - jnp.sum(one_hot * scores, axis=-1)
    due = called = None
    if named_times.are_asked(config) and taps is not None:
        due = named_times.due_loss(model, taps, batch)
        called = named_times.called_loss(model, taps, batch)
    return PositionLosses(text, speech, heard, spelled, waiting, due, called, hit, counts)


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


def hearing_loss(logits: Float[Array, "B S V"], heard: Int[Array, "B S K"]) -> Float[Array, "B S"]:
    """Cross-entropy to the tokens of `heard` in equal shares, to END where there are none."""
    heard = heard.at[..., 0].set(jnp.where(heard[..., 0] < 0, EOM_ID, heard[..., 0]))
    share = 1.0 / jnp.sum(heard >= 0, axis=-1)
    vocab = jnp.arange(logits.shape[-1])
    target = sum((heard[..., k, None] == vocab).astype(jnp.float32) for k in range(MAX_HEARD))
    mean = jnp.sum(target * logits, axis=-1) * share
    return jax.nn.logsumexp(logits, axis=-1) - mean


def spelling_loss(logits: Float[Array, "B S L"], letters: Int[Array, "B S"]) -> Float[Array, "B S"]:
    """Binary cross-entropies of the letters, summed."""
    sounds = (letters[..., None] >> jnp.arange(logits.shape[-1])) & 1
    return jnp.sum(jax.nn.softplus(logits) - sounds * logits, axis=-1)


def loss_weights(config: Config, batch: dict[str, Array]) -> dict[str, Array]:
    """What each part of the loss and each metric is a mean over, by name: a weight a position or
    patch."""
    tw = batch["text_weight"]
    if named_times.are_asked(config) and config.train.timed_weight != 1:
        tw = tw * named_times.text_factor(config, batch)
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
    if config.model.spelling:
        sounding = (batch["spelled"] > 0).astype(jnp.float32)
        silent = (batch["spelled"] == 0).astype(jnp.float32)
        out |= {"sounding": sounding, "spelled": sounding + QUIET_WEIGHT * silent}
    if config.model.waiting_bins:
        out["waiting"] = (waits(batch) >= 0).astype(jnp.float32)
    if named_times.are_asked(config):
        out |= named_times.weights(batch)
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

    def metric(name, x):
        metrics[name] = mean(x, WEIGHTED_BY[name])
        return metrics[name]

    metrics: dict[str, Array] = {}
    t = config.train
    total = mean(losses.text, "text")
    total = total + t.speech_weight * metric("loss/speech", losses.speech)
    metric("loss/text", losses.text)
    metric("loss/silence", losses.text)
    metric("accuracy/text", losses.hit)
    metric("accuracy/silence", losses.hit)
    if losses.heard is not None:
        total = total + t.hearing_weight * mean(losses.heard, "heard")
        metric("loss/hearing", losses.heard)
        metric("loss/seeing", losses.heard)
    if losses.spelled is not None:
        total = total + t.spelling_weight * mean(losses.spelled, "spelled")
        metric("loss/spelling", losses.spelled)
    if losses.waiting is not None:
        total = total + t.waiting_weight * metric("loss/waiting", losses.waiting)
    if losses.due is not None:
        named = metric("loss/due", losses.due) + metric("loss/called", losses.called)
        total = total + t.due_weight * named
    return total, ({"loss": total, **metrics}, losses.counts)


def skill_losses(text: Float[Array, "B S"], batch: dict[str, Array], num_skills: int):
    """Sums of the words' loss and hits' weights by skill, each [num_skills]: add over batches, then
    divide."""
    words = ((batch["text_weight"] > 0) & (batch["text_target"] != EOM_ID)).astype(jnp.float32)
    by_skill = jax.nn.one_hot(batch["skill"], num_skills, dtype=jnp.float32)
    return jnp.einsum("bs,bsk->k", text * words, by_skill), jnp.einsum("bs,bsk->k", words, by_skill)
