"""Decoding over a mesh: weights stay put, and sessions are those of one device."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests.models.conftest import random_microturns, small_config
from tmi import numerics, sharding
from tmi.decode.step import init_state, input_chunk, microturn_step
from tmi.mesh import SERVING, on
from tmi.microturn import SPEAK_ID
from tmi.models import tree

SLOTS, TURNS = 4, 3


@pytest.fixture(scope="module")
def model():
    c = small_config(expert_exchange="ring")
    config = dataclasses.replace(
        c,
        microturn=dataclasses.replace(c.microturn, max_text_out=3),
        model=dataclasses.replace(c.model, num_kv_heads=2),
    )
    params = tree.init(config, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = {k: v + 0.1 * rng.normal(size=v.shape) for k, v in params.items()}
    # Random weights that write, speak and keep quiet in turn.
    params["unembed.table"] = params["unembed.table"].at[SPEAK_ID].multiply(4)
    return config, params


@pytest.fixture(scope="module")
def here(model):
    return lived(*model)[0]


def lived(config, params, mesh=None):
    """What the sampler computed in a few micro-turns of SLOTS sessions, the last of which sleeps
    through the second one."""
    rng = np.random.default_rng(1)
    heard = [random_microturns(config, rng, TURNS) for _ in range(SLOTS)]
    step = functools.partial(microturn_step, config, record=True)
    state, awake = init_state(config, SLOTS), np.ones(SLOTS, bool)
    if mesh is not None:
        step = on(mesh, step, SERVING)
        params = jax.device_put(params, sharding.param_shardings(config, mesh, SERVING))
        state = jax.device_put(state, sharding.session_shardings(state, SLOTS, mesh))
    step, out = numerics.jit("fast", step), []
    for m in range(TURNS):
        mask = awake & (np.arange(SLOTS) < (3 if m == 1 else SLOTS))
        chunk = input_chunk(
            config, [t[m] if on_ else None for t, on_ in zip(heard, mask, strict=True)]
        )
        seed = np.arange(SLOTS, dtype=np.uint32)
        state, found = step(params, state, chunk, mask, np.full(SLOTS, m == 0), seed)
        out.append(jax.device_get(found))
    return out, state


@pytest.fixture(scope="module")
def mesh(model):
    config, _ = model
    train = dataclasses.replace(config.train, mesh=(1, 1, 4, 1, 2))
    return sharding.make_mesh(dataclasses.replace(config, train=train))


def test_a_mesh_decodes_what_one_device_decodes(model, here, mesh):
    there, state = lived(*model, mesh)
    for a, b in zip(there, here, strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)
        np.testing.assert_array_equal(a.spoke, b.spoke)
        np.testing.assert_allclose(a.record.logits, b.record.logits, atol=2e-4)
        # Not the waves: phases found by iteration begin anywhere.
        np.testing.assert_allclose(a.record.flow, b.record.flow, atol=1e-3)
    assert any(x.spoke.any() for x in here) and len({x.num_tokens.sum() for x in here}) > 1
    # Sessions and key heads are where they were put: a step moves no cache.
    spec = state.cache.layers[-1].k.sharding.spec
    assert spec[0] is not None and spec[1] == "tensor"


def test_no_weight_is_divided_along_what_every_row_needs(model, mesh):
    placed = sharding.param_shardings(model[0], mesh, SERVING)
    for name, where in placed.items():
        used = [
            a for part in where.spec if part for a in (part if type(part) is tuple else (part,))
        ]
        expert = (
            "mlp" in name and name.split(".")[-1] in ("gate", "up", "down") and "expert" in used
        )
        assert set(used) <= ({"expert", "tensor"} if expert else {"tensor"}), name
