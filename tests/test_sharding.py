"""Sharding says where things are, never what is computed: eight virtual devices equal one."""

from __future__ import annotations

import dataclasses
import functools
import math
import types

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from experiments import debug
from tmi import config as config_lib
from tmi import numerics, sharding
from tmi.config import MESH_AXES, ConfigError
from tmi.data.batch import empty_batch
from tmi.mesh import RULES, ShardingRules, on, one_cpu
from tmi.microturn import EOM_ID, Stream
from tmi.models import tree
from tmi.train.checkpoint import Checkpoints, make_info
from tmi.train.step import init_state, state_of, train_step


def config_with(mesh=(1, 1, 1, 1, 1)):
    view = debug.get_config()
    # One layer, a mixture: it compiles the fastest.
    view.model.num_layers, view.model.num_dense_layers, view.model.num_experts = 1, 0, 4
    view.optimizer.warmup_steps = 0  # else the first step would move nothing
    config = config_lib.from_config_dict(view)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, mesh=mesh))


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(config_with((2, 2, 2, 1, 1)))


def test_the_mesh_always_has_all_axes(mesh):
    assert mesh.axis_names == MESH_AXES
    assert tuple(mesh.shape.values()) == (2, 2, 2, 1, 1)
    assert sharding.make_mesh(config_with()).size == 1


def test_too_few_devices_are_named():
    config = dataclasses.replace(config_with(), data=dataclasses.replace(
        config_with().data, batch_size=64))  # fmt: skip
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, mesh=(64, 1, 1, 1, 1))
    )
    with pytest.raises(ConfigError, match=r"config.train.mesh=\(64, .* needs 64 devices"):
        sharding.make_mesh(config)


def test_specs(mesh):
    rules = ShardingRules()
    assert rules.spec(("heads", "embed"), (64, 32), mesh) == P(None, ("fsdp", "expert"))
    assert rules.spec(("batch", "seq"), (8, 128), mesh) == P(("data", "fsdp", "expert"), None)
    assert rules.spec(("batch", "seq"), (4, 128), mesh) == P(("data", "fsdp"), None)
    assert rules.spec(("experts", "mlp", "embed"), (8, 16, 32), mesh) == P("expert", None, "fsdp")
    assert rules.spec(("experts", "mlp", "embed"), (9, 16, 33), mesh) == P(None, None, None)
    assert rules.spec(("embed", "embed"), (32, 32), mesh) == P(("fsdp", "expert"), None)
    with pytest.raises(AttributeError):
        rules.spec(("no_such_axis",), (4,), mesh)


names = st.sampled_from([None, *(f.name for f in dataclasses.fields(ShardingRules))])


@given(st.lists(st.tuples(names, st.integers(1, 64)), max_size=4))
def test_a_spec_divides_evenly_and_uses_no_mesh_axis_twice(dims):
    mesh = sharding.make_mesh(config_with((2, 2, 2, 1, 1)))
    axes, shape = tuple(d[0] for d in dims), tuple(d[1] for d in dims)
    spec = ShardingRules().spec(axes, shape, mesh)
    used = [a for s in spec for a in ((s,) if isinstance(s, str) else s or ())]
    assert len(used) == len(set(used))
    for s, size in zip(spec, shape, strict=True):
        group = (s,) if isinstance(s, str) else s or ()
        assert size % math.prod(mesh.shape[a] for a in group) == 0


def test_the_optimizer_lies_where_its_parameters_lie(mesh):
    config = config_with((2, 2, 2, 1, 1))
    params = sharding.param_shardings(config, mesh)
    assert set(params) == set(tree.names(config))
    assert any(s.spec != P() and any(s.spec) for s in params.values())
    state = jax.eval_shape(functools.partial(init_state, config), jax.random.key(0))
    placed = sharding.state_shardings(config, state, mesh)
    assert jax.tree.structure(placed) == jax.tree.structure(state)
    assert placed.params == params and placed.ema == params
    found = 0
    for path, s in jax.tree_util.tree_leaves_with_path(placed.opt):
        for key in path:
            if getattr(key, "key", None) in params:
                assert s == params[key.key]
                found += 1
    assert found >= len(tree.trained_names(config))


def batch_for(config):
    """A session a row: audio, words, speech."""
    rng = np.random.default_rng(0)
    batch = empty_batch(config)
    b, s = batch["stream"].shape
    n = s - 16
    batch["stream"][:, :n] = np.resize(
        [Stream.AUDIO_IN, Stream.TEXT_OUT, Stream.AUDIO_OUT, Stream.AUDIO_IN], n
    )
    batch["segment"][:, :n] = 1
    batch["position"][:, :n] = np.arange(n)
    batch["microturn"][:, :n] = np.arange(n) // 4
    for kind, key in ((Stream.AUDIO_IN, "dmel"), (Stream.AUDIO_OUT, "speech")):
        for row in range(b):
            where = batch["stream"][row] == kind
            batch["slot"][row, where] = np.arange(where.sum()) % batch[key].shape[1]
    batch["token"][:, :n] = rng.integers(5, 400, (b, n))
    batch["text_target"][:, :n] = rng.choice([EOM_ID, 50, 60], (b, n))
    batch["text_weight"][:, :n] = 1
    batch["dmel"][:] = rng.integers(0, 16, batch["dmel"].shape)
    batch["speech"][:] = rng.standard_normal(batch["speech"].shape)
    batch["speech_source"][:] = rng.integers(0, n, batch["speech_source"].shape)
    batch["speech_weight"][:] = 1
    return batch


def one_step(config, folder):
    """State and metrics after a step from the checkpoint in `folder`, restored onto the config's
    mesh."""
    mesh = sharding.make_mesh(config)
    like = jax.eval_shape(functools.partial(init_state, config), jax.random.key(0))
    states = sharding.state_shardings(config, like, mesh)
    rows = sharding.batch_shardings(config, mesh)
    saved = Checkpoints(folder)
    state = saved.restore(jax.tree.map(with_sharding, like, states))
    saved.close()
    step = numerics.jit(
        "fast",
        on(mesh, functools.partial(train_step, config)),
        in_shardings=(states, rows),
        out_shardings=(states, sharding.replicated(mesh)),
        donate_argnums=0,
    )
    return step(state, jax.device_put(batch_for(config), rows))


def with_sharding(x, sharding):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A workdir with the first state; parameters, and the state and metrics after a step on one
    device."""
    config, folder = config_with(), tmp_path_factory.mktemp("checkpoint")
    params = tree.init(config, jax.random.key(0))
    saved = Checkpoints(folder)
    saved.save(state_of(config, params), make_info(config, 0, None, [], {}))
    saved.wait()
    saved.close()
    return folder, *jax.device_get((params, one_step(config, folder)))


@pytest.mark.parametrize(
    "sizes, model",
    [
        ((2, 2, 2, 1, 1), {}),
        ((1, 1, 4, 2, 1), {"expert_exchange": "ring", "grouped": "ragged_dot"}),
        ((1, 2, 1, 2, 2), {}),
    ],
)
def test_a_step_on_eight_devices_equals_a_step_on_one(checkpoint, sizes, model):
    folder, start, (one, metrics) = checkpoint
    config = config_with(sizes)
    chunks = dataclasses.replace(config.train, loss_chunks=4 if sizes[4] == 1 else 1)
    model = dataclasses.replace(config.model, **model)
    config = dataclasses.replace(config, model=model, train=chunks)
    state, sharded_metrics = one_step(config, folder)
    name = "transformer.layers.0.mlp.gate"
    gate = state.params[name].sharding.spec
    mesh = sharding.make_mesh(config)
    assert gate == RULES.spec(("experts", "mlp", "embed"), start[name].shape, mesh)
    assert gate[0] == ("expert" if sizes[2] > 1 else None)
    sharded, sharded_metrics = jax.device_get((state, sharded_metrics))
    for name, value in metrics.items():
        np.testing.assert_allclose(sharded_metrics[name], value, rtol=1e-4, atol=1e-4, err_msg=name)
    # After a first step the moments are the gradients (times 1 - b1, clipped), array by array.
    moments = jax.tree_util.tree_leaves_with_path(one.opt)
    compared = 0
    for (path, value), other in zip(moments, jax.tree.leaves(sharded.opt), strict=True):
        if np.ndim(value):
            scale = np.abs(value).max()
            np.testing.assert_allclose(
                other, value, rtol=0, atol=2e-4 * scale, err_msg=jax.tree_util.keystr(path)
            )
            compared += scale > 0
    assert compared > len(tree.trained_names(config))  # Adam has two of an array
    for name, value in one.params.items():
        moved, other = value - start[name], sharded.params[name] - start[name]
        assert np.linalg.norm(other - moved) <= 0.02 * np.linalg.norm(moved), name


@pytest.mark.parametrize(("platform", "alone"), [("cpu", True), ("tpu", False)])
def test_what_is_traced_is_for_the_devices_of_its_mesh(platform, alone):
    """On a CPU a program for one TPU is traced as for a TPU."""
    device = types.SimpleNamespace(platform=platform)
    mesh = types.SimpleNamespace(
        devices=np.array([device]), abstract_mesh=jax.sharding.AbstractMesh((1,), ("fsdp",))
    )
    seen = []
    jax.make_jaxpr(on(mesh, lambda x: seen.append(one_cpu()) or x))(1.0)
    assert seen == [alone] and one_cpu()
