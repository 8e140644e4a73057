"""Layers in a loop over stacked weights are the layers one after the other."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import debug
from tests.test_sharding import batch_for
from tmi import config as config_lib
from tmi import numerics
from tmi.config import ConfigError
from tmi.models import stack, tree
from tmi.models.transformer import kinds
from tmi.train.loss import loss_fn

MOST_KINDS = st.lists(st.sampled_from("SGD"), min_size=1, max_size=14)


def expand(segments):
    return [k for s in segments for _ in range(s.groups) for n, k in s.runs for _ in range(n)]


@given(MOST_KINDS, st.integers(1, 4))
def test_a_plan_has_every_layer_in_order(layers, times):
    for sequence in (layers, layers * times):
        segments = stack.plan(sequence)
        assert expand(segments) == sequence
        assert sum(len(s.runs) for s in segments) <= len(stack.runs_of(sequence))
        places = stack.places(segments)
        assert len(set(places)) == len(sequence)
        assert [segments[s].runs[r][1] for s, r, _, _ in places] == sequence


def test_the_published_shape_has_five_bodies():
    layers = ["D"] * 2 + ["S"] * 3 + ["G"] + (["S"] * 5 + ["G"]) * 6
    head, body = stack.plan(layers)
    assert head == (1, ((2, "D"), (3, "S"), (1, "G")))
    assert body == (6, ((5, "S"), (1, "G")))


def config_with(**model):
    view = debug.get_config()
    view.model.num_layers, view.model.num_dense_layers, view.model.global_every = 4, 0, 2
    view.model.spelling = model.get("hearing_layer") != 0
    for name, value in model.items():
        view.model[name] = value
    return config_lib.from_config_dict(view)


@pytest.mark.parametrize("remat", [True])
def test_stacked_layers_give_the_loss_and_gradients_of_a_list(remat):
    stacked, plain = config_with(scan_layers=True, hearing_layer=0), config_with(hearing_layer=0)
    stacked = dataclasses.replace(stacked, train=dataclasses.replace(stacked.train, remat=remat))
    segments = stack.plan(kinds(stacked))
    params = tree.init(stacked, jax.random.key(0))
    batch = jax.tree.map(jnp.asarray, batch_for(plain))
    key = jax.random.key(1)

    def run(config, params):
        trained = set(tree.trained_names(config))

        def f(moved):
            whole = {**params, **moved}
            return loss_fn(tree.build(config, whole), config, batch, key)

        moved = {n: x for n, x in params.items() if n in trained}
        (loss, (_, counts)), grads = numerics.jit("fast", jax.value_and_grad(f, has_aux=True))(
            moved
        )
        return loss, {**grads, **counts}

    loss, grads = run(stacked, params)
    apart, layers = tree.layer_by_layer(stacked, params)
    assert apart.model == plain.model
    want_loss, want = run(plain, layers)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-6)
    grads = stack.unstacked(segments, grads)
    assert set(grads) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(grads[name], value, atol=2e-5, err_msg=name)


def test_half_precision_stays_near():
    full = config_with(hearing_layer=0)
    half = config_with(hearing_layer=0, dtype="bfloat16")
    params = tree.init(full, jax.random.key(0))
    batch = jax.tree.map(jnp.asarray, batch_for(full))
    losses = [
        float(
            numerics.jit(
                "fast", lambda p, c=c: loss_fn(tree.build(c, p), c, batch, jax.random.key(1))[0]
            )(params)
        )
        for c in (full, half)
    ]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)


def test_what_cannot_be_stacked_is_named():
    with pytest.raises(ConfigError, match="config.model.scan_layers=True"):
        config_with(scan_layers=True, hearing_layer=2)
