"""Analytic FLOPs against the products that tracing finds."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from experiments import demo, nano
from tmi import config as config_lib
from tmi.models import flops
from tmi.models.embed import Clock, DMelEmbed, HMLPStem, SpeechEmbed
from tmi.models.heads import FlowHead, HearingHead, Unembed, WaitingHead


def product_macs(f, *args) -> int:
    """Multiply-adds of all matrix products in f, by its jaxpr; in a scan as often as it runs."""

    def count(jaxpr) -> int:
        total = 0
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                (contracted, _), _ = eqn.params["dimension_numbers"]
                shared = math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
                total += shared * math.prod(eqn.outvars[0].aval.shape)
            for value in eqn.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    total += eqn.params.get("length", 1) * count(inner)
        return total

    return count(jax.make_jaxpr(f)(*args).jaxpr)


@pytest.fixture(params=[nano, demo], ids=["nano", "demo"], scope="module")
def config(request):
    return config_lib.from_config_dict(request.param.get_config())


def build(module, *args):
    return nnx.eval_shape(lambda: module(*args, jax.random.key(0)))


def run(module, *args):
    graph, state = nnx.split(module)
    return product_macs(lambda state, *a: nnx.merge(graph, state)(*a), state, *args)


def test_towers(config):
    a, s, v = config.audio, config.speech, config.video
    want = flops.tower_macs(config)
    bins = jnp.zeros((1, 1, a.frames_per_position, a.num_mels), jnp.int32)
    looked_up = a.frames_per_position * a.num_mels * a.num_levels * config.model.width
    assert run(build(DMelEmbed, config), bins) - looked_up == want["audio"]
    pixels = jnp.zeros((1, 1, 2, v.patch, v.patch, 3), jnp.uint8)
    assert run(build(HMLPStem, config), pixels) == want["video"]
    patch = jnp.zeros((1, 1, s.frames_per_position, s.num_mels))
    hidden = jnp.zeros((1, 1, config.model.width))
    graph, state = nnx.split(build(FlowHead, config))
    flow = product_macs(
        lambda state: nnx.merge(graph, state).loss(hidden, patch, jax.random.key(0)), state
    )
    assert run(build(SpeechEmbed, config), patch) + flow == want["speech"]


def test_what_is_read_off_a_position(config):
    hidden = jnp.zeros((1, 1, config.model.width))
    unembed = build(Unembed, config)
    heads = run(build(HearingHead, config), hidden) + 2 * run(unembed, hidden)
    if config.model.waiting_bins:
        heads += run(build(WaitingHead, config), hidden)
    clock = run(build(Clock, config), jnp.zeros((1, 1), jnp.int32))
    bare = dataclasses.replace(config.model, hearing_layer=0, waiting_bins=0, clock_features=False)
    without = dataclasses.replace(config, model=bare)
    own = flops.position_macs(config, 500) - flops.position_macs(without, 500)
    assert own == heads - run(unembed, hidden) + clock
