"""A step is the same whether its batch is taken whole or in parts."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.test_sharding import batch_for, config_with
from tmi import numerics
from tmi.config import ConfigError
from tmi.microturn import Stream
from tmi.models import tree
from tmi.train.optimizer import make_optimizer, scale_by_adam
from tmi.train.step import gradients, init_state, split_trained


def training(config, **fields):
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **fields))


def optimizing(config, **fields):
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, **fields))


@pytest.fixture(scope="module")
def whole():
    """A config, its parameters, and a batch in which nothing is drawn at random: no speech."""
    config = config_with()
    batch = batch_for(config)
    batch["stream"][batch["stream"] == Stream.AUDIO_OUT] = Stream.AUDIO_IN
    batch["speech_weight"][:] = 0
    # Parts whose weights differ: a mean of means would be another loss.
    batch["text_weight"][0, 20:] = 0
    return config, tree.init(config, jax.random.key(0)), jax.tree.map(jnp.asarray, batch)


def run(config, params, batch):
    trained, balances = split_trained(config, params)
    f = numerics.jit("fast", lambda t, b: gradients(config, t, balances, b, jax.random.key(1)))
    return f(trained, batch)


@pytest.mark.parametrize("parts", [{"micro_batches": 2}, {"micro_batches": 4}, {"loss_chunks": 4}])
def test_parts_add_up_to_the_whole(whole, parts):
    config, params, batch = whole
    metrics, counts, grads = run(config, params, batch)
    other_metrics, other_counts, other = run(training(config, **parts), params, batch)
    for name, value in metrics.items():
        np.testing.assert_allclose(other_metrics[name], value, rtol=2e-5, atol=1e-6, err_msg=name)
    for name, value in counts.items():
        np.testing.assert_array_equal(other_counts[name], value)
    for name, value in grads.items():
        np.testing.assert_allclose(other[name], value, atol=2e-6, rtol=1e-4, err_msg=name)


def test_parts_that_do_not_divide_are_named(whole):
    with pytest.raises(ConfigError, match="config.train.micro_batches=3.*data.batch_size"):
        training(whole[0], micro_batches=3)
    with pytest.raises(ConfigError, match="config.train.loss_chunks=7"):
        training(whole[0], loss_chunks=7)


def test_moments_of_half_precision_move_weights_nearly_alike():
    config = config_with().optimizer
    rng = np.random.default_rng(0)
    params = {"w": jnp.zeros((64, 8))}
    moved = {}
    for dtype in ("float32", "bfloat16"):
        adam = scale_by_adam(dataclasses.replace(config, moment_dtype=dtype))
        state, w = adam.init(params), params
        rng = np.random.default_rng(0)
        for _ in range(60):
            grads = {"w": jnp.asarray(rng.standard_normal((64, 8)) + 0.5, jnp.float32)}
            updates, state = adam.update(grads, state)
            assert updates["w"].dtype == jnp.float32
            w = optax.apply_updates(w, updates)
        assert state.nu["w"].dtype == dtype
        moved[dtype] = w["w"]
    error = np.linalg.norm(moved["bfloat16"] - moved["float32"])
    assert 0 < error < 0.01 * np.linalg.norm(moved["float32"])


def test_half_precision_that_would_see_no_step_is_refused():
    with pytest.raises(ConfigError, match="config.optimizer.moment_dtype='bfloat16'.*b2 > 0.98"):
        optimizing(config_with(), moment_dtype="bfloat16", b2=0.999)


def test_without_muon_and_average_the_state_is_weights_and_two_moments():
    config = optimizing(config_with(), muon=False, ema=0.0, moment_dtype="bfloat16")
    state = jax.eval_shape(lambda: init_state(config, jax.random.key(0)))
    assert state.ema == {}
    count = sum(x.size for x in jax.tree.leaves(state.params))
    small = [x for x in jax.tree.leaves(state.opt) if x.dtype == jnp.bfloat16]
    trained = sum(state.params[n].size for n in tree.trained_names(config))
    assert sum(x.size for x in small) == 2 * trained <= 2 * count
    assert sum(x.size for x in jax.tree.leaves(state.opt) if x.dtype == jnp.float32) < 100
    assert make_optimizer(config) is not None
