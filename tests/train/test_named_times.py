"""What keys behind a named time are asked, against attention itself."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tests.models.conftest import small_config
from tmi.microturn import EOM_ID, MAX_HEARD, Stream, layout
from tmi.models import tree
from tmi.models.attention import attend_rows, hidden_of, time_of
from tmi.models.transformer import Taps
from tmi.train.loss import loss_weights
from tmi.train.named_times import (
    CALLED_SHARE,
    CALLED_TURNS,
    DUE_TURNS,
    NEAR_TURNS,
    called_loss,
    due_loss,
)


def test_due_is_the_share_of_a_keys_call_that_misses_the_time_asked_for():
    config = small_config(clock_digits=4)
    c = dataclasses.replace(config.model, num_kv_heads=2)
    config = dataclasses.replace(config, model=c)
    rng = np.random.default_rng(0)
    params = {
        n: rng.normal(size=v.shape).astype(np.float32)
        for n, v in tree.init(config, jax.random.key(0)).items()
    }
    model = tree.build(config, params)
    size, dim = 64, c.width
    due = np.full((2, size), -1)
    due[0, 7], due[1, 40], due[1, 41] = 9, 23, 20  # the last is over: there is nothing to call for
    microturn = np.arange(size) // 2 * np.ones((2, 1), int)
    microturn[1, 41] = 30
    states = rng.normal(size=(2, size, c.num_layers, dim)).astype(np.float32)
    batch = {"due": jnp.asarray(due), "microturn": jnp.asarray(microturn)}
    taps = Taps(jnp.asarray(states), jnp.zeros(()))
    got = jax.jit(lambda: due_loss(model, taps, batch))()
    assert {tuple(i) for i in np.argwhere(np.asarray(got)).tolist()} == {(0, 7), (1, 40)}
    # What attention itself makes of such keys, and of queries at later times.
    block = model.transformer.layers[-1]
    times = np.broadcast_to(np.arange(size // 2), (2, size // 2))
    later = time_of(c, layout(config), jnp.asarray(times))
    zeros = jnp.zeros((2, size // 2, dim))
    q, *_ = block.attention.project(zeros, jnp.asarray(times), later)
    x = block.attention_norm(jnp.asarray(states[:, :, -2]))
    here = time_of(c, layout(config), batch["microturn"])
    _, k, *_ = block.attention.project(x, jnp.asarray(np.arange(size) * np.ones((2, 1), int)), here)
    scores = np.asarray(jnp.einsum("bqd,bkd->bkq", q[:, 0], k[:, 0].at[..., : c.head_dim].set(0)))
    for b, s in ((0, 7), (1, 40)):
        now, then = microturn[b, s], due[b, s]
        weight = np.exp(scores[b, s].astype(np.float64))
        share = weight[then : then + DUE_TURNS].sum() / weight[now + 1 :].sum()
        np.testing.assert_allclose(got[b, s], -np.log(share), rtol=1e-4)


def test_a_time_that_was_named_teaches_the_keys_behind_the_request():
    config = small_config(clock_digits=4)
    model = tree.build(config, tree.init(config, jax.random.key(0)))
    batch = {"due": jnp.full((1, 64), -1).at[0, 8].set(20), "microturn": jnp.arange(64)[None] // 2}
    states = jax.random.normal(jax.random.key(1), (1, 64, config.model.num_layers, 32))

    def loss(states):
        return jnp.sum(due_loss(model, Taps(states, jnp.zeros(())), batch))

    taught = np.abs(np.asarray(jax.jit(jax.grad(loss))(states))).sum(axis=-1)[0]
    assert np.isfinite(taught).all()
    assert np.argwhere(taught).tolist() == [[8, config.model.num_layers - 2]]


def test_text_weighs_more_near_the_times_that_its_own_session_named():
    rng = np.random.default_rng(0)
    config = small_config(clock_digits=4)
    size = 128
    segment = np.repeat([[1, 2, 3, 0], [1, 1, 2, 2]], size // 4, axis=1)
    microturn = np.arange(size) % 64 // 2 * np.ones((2, 1), int)
    due = np.where(rng.random((2, size)) < 0.03, rng.integers(0, 40, (2, size)), -1)
    due[segment == 0] = -1
    batch = {
        "text_weight": rng.random((2, size)).astype(np.float32),
        "text_target": rng.integers(-1, 9, (2, size)),
        "speech_weight": np.ones((2, 4), np.float32),
        "stream": np.full((2, size), Stream.AUDIO_IN),
        "heard": np.full((2, size, MAX_HEARD), -1),
        "segment": segment, "microturn": microturn, "due": due,
    }  # fmt: skip
    near = np.zeros((2, size), bool)
    for b, s in np.argwhere(due >= 0):
        own = segment[b] == segment[b, s]
        near[b] |= own & (np.abs(microturn[b] - due[b, s]) <= NEAR_TURNS)
    assert near.any() and not near.all()

    def weights(**changes):
        train = dataclasses.replace(config.train, **changes)
        batch_ = {k: jnp.asarray(v) for k, v in batch.items()}
        return loss_weights(dataclasses.replace(config, train=train), batch_)

    plain = weights(due_weight=0.1)
    more = weights(due_weight=0.1, timed_weight=3.0)
    np.testing.assert_array_equal(plain["text"], batch["text_weight"])
    np.testing.assert_allclose(more["text"], batch["text_weight"] * np.where(near, 3, 1), rtol=1e-6)
    assert plain["called"].shape == near.shape
    for name in plain.keys() - {"text"}:  # what is reported is not weighed so
        np.testing.assert_array_equal(plain[name], more[name])


def test_called_is_the_share_of_the_attention_of_who_answers_that_misses_the_keys_asked_for_it():
    config = small_config(clock_digits=4)
    c, size = config.model, 256
    rng = np.random.default_rng(1)
    params = {
        n: rng.normal(size=v.shape, scale=0.3).astype(np.float32)
        for n, v in tree.init(config, jax.random.key(0)).items()
    }
    model = tree.build(config, params)
    segment = np.repeat([1, 2, 0], [160, 64, 32])[None]
    position = np.concatenate([np.arange(160), np.arange(64), np.arange(32)])[None]
    stream = np.where(position % 2, Stream.TEXT_OUT, Stream.AUDIO_IN)
    words = np.where(rng.random((1, size)) < 0.4, 9, EOM_ID)
    due = np.full((1, size), -1)
    due[0, [20, 21, 40, 170]] = 36, 36, 62, 16
    batch = {
        "text_target": np.where(stream == Stream.AUDIO_IN, words, -1), "stream": stream,
        "segment": segment, "position": position, "microturn": position // 2, "due": due,
    }  # fmt: skip
    batch = {k: jnp.asarray(v) for k, v in batch.items()}
    states = jnp.asarray(rng.normal(size=(1, size, c.num_layers, c.width)), jnp.float32)

    @jax.jit
    def run():
        # Attention itself, to values that tell which key they are of.
        block, x = model.transformer.layers[-1], states[:, :, -2]
        time = time_of(c, layout(config), batch["microturn"])
        q, k, _, rel, _ = block.attention.project(block.attention_norm(x), batch["position"], time)
        span = block.attention.span
        hidden = hidden_of(c, batch["position"], batch["segment"], span)
        names = jnp.eye(size)[None, None]
        weights = attend_rows(q, k, names, rel, hidden, span)[0, 0]
        return called_loss(model, Taps(states, jnp.zeros(())), batch), weights

    got, weights = map(np.asarray, run())
    kinds = {"answer": 0, "silent": 0}
    want = np.zeros(size)
    for s in range(size):
        if stream[0, s] != Stream.AUDIO_IN or not segment[0, s]:
            continue
        since = position[0, s] // 2 - due[0]
        own = (due[0] >= 0) & (segment[0] == segment[0, s])
        asked = own & (since >= 0) & (since <= CALLED_TURNS)
        if words[0, s] != EOM_ID and weights[s, asked].sum():  # else out of its sight
            want[s] = -np.log(weights[s, asked].sum())
            kinds["answer"] += 1
        if words[0, s] == EOM_ID and (own & (since < 0) & (since >= -NEAR_TURNS)).any():
            want[s] = -np.log1p(-weights[s, own & (since < 0)].sum(dtype=np.float64))
            kinds["silent"] += 1
    assert min(kinds.values()) > 3 and sum(kinds.values()) <= size // CALLED_SHARE
    np.testing.assert_allclose(got[0], want, rtol=1e-3, atol=1e-5)
