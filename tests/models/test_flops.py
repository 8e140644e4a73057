"""Analytic FLOPs against the products that tracing finds."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from experiments import demo, nano
from tests.models.conftest import small_config
from tmi import config as config_lib
from tmi.microturn import layout
from tmi.models import flops
from tmi.models.attention import (
    attend_rows,
    attention_macs,
    features,
    heads_of,
    hidden_of,
    key_dim,
    time_of,
)
from tmi.models.embed import Clock, DMelEmbed, HMLPStem, SpeechEmbed
from tmi.models.heads import FlowHead, HearingHead, SpellingHead, Unembed, WaitingHead
from tmi.models.transformer import Block, dense_layers, spans


def product_macs(f, *args) -> int:
    """Multiply-adds of all matrix products in f, by its jaxpr; in a scan as often as it runs."""

    def count(jaxpr) -> int:
        total = 0
        for eqn in jaxpr.eqns:
            if eqn.primitive.name in ("dot_general", "ragged_dot_general"):
                numbers = eqn.params.get("dimension_numbers")
                if numbers is None:  # of ragged ones: each row with its own group's matrix
                    numbers = eqn.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
                (contracted, _), _ = numbers
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
    if config.model.spelling:
        heads += run(build(SpellingHead, config), hidden)
    if config.model.waiting_bins:
        heads += run(build(WaitingHead, config), hidden)
    clock = run(build(Clock, config), jnp.zeros((1, 1), jnp.int32))
    bare = dataclasses.replace(
        config.model, hearing_layer=0, spelling=False, waiting_bins=0, clock_features=False
    )
    without = dataclasses.replace(config, model=bare)
    own = flops.position_macs(config, 500) - flops.position_macs(without, 500)
    assert own == heads - run(unembed, hidden) + clock


VARIANTS = {
    "as it is": {},
    "published": {"position_bias": "token", "num_shared_experts": 2, "mlp_scale": True},
    "clock": {"position_bias": "microturn", "clock_digits": 3},
    "heads": {"sliding_num_heads": 4, "sliding_num_kv_heads": 2, "sliding_head_dim": 8},
    "all experts": {"num_dense_layers": 0, "num_experts_per_token": 3},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_layers_of_an_unrolled_model(variant):
    """Every product of a forward pass over a row, layer by layer, remat off. Left out: scores and
    values (below), and what an implementation adds: the bank of a narrow bias, which is applied to
    the weights, and tiles of experts that are filled up."""
    rows = 256
    config = small_config(grouped="ragged_dot")
    m = dataclasses.replace(config.model, bias_extent=5 * config.model.bias_rank, **variant)
    config = dataclasses.replace(config, model=m)
    numbers = jnp.arange(rows)[None]
    time = time_of(m, layout(config), numbers // 8)
    counted, left_out = 0, 0.0
    for i, span in enumerate(spans(config)):
        h, hidden = heads_of(m, span), hidden_of(m, numbers, jnp.ones_like(numbers), span)
        block = build(Block, m, span, i in dense_layers(m))
        x, valid = jnp.zeros((1, rows, m.width)), jnp.ones((1, rows))
        whole = run(block, x, numbers, time, hidden, valid)
        q, k = (jnp.zeros((1, n, rows, key_dim(m, span))) for n in (h.query, h.kv))
        rel = None
        if m.position_bias != "microturn":
            rel = jnp.zeros((1, h.query, rows, m.bias_extent))
        attended = product_macs(
            lambda q, k, v, rel, hidden, span=span: attend_rows(q, k, v, rel, hidden, span),
            q, k, jnp.zeros((1, h.kv, rows, h.dim)), rel, hidden,
        )  # fmt: skip
        assert 0 < attended < whole
        counted += whole - attended
        left_out += attention_macs(m, span, rows)
    bare = dataclasses.replace(
        m, hearing_layer=0, spelling=False, waiting_bins=0, clock_features=False
    )
    analytic = flops.position_macs(dataclasses.replace(config, model=bare), rows)
    assert counted == pytest.approx(
        rows * (analytic - left_out - m.width * config.text.vocab_size), rel=1e-12
    )


@pytest.mark.parametrize("length", [1, 20, 96, 500])
def test_scores_and_values_are_those_of_what_is_seen(length):
    """Exactly; but beyond its reach a global layer forgets whole blocks, and sees half a block less
    than is counted."""
    config = small_config()
    m = config.model
    at = jnp.arange(length)
    for span in spans(config):
        seen = float(jnp.sum(span.visible(at[:, None], at[None]))) / length
        h = heads_of(m, span)
        counted = attention_macs(m, span, length) / (h.query * (features(m, span) + h.dim))
        more = span.kv_block / 2 if span.blocks and length > span.reach + 1 else 0
        assert seen == pytest.approx(counted, abs=more + 1e-6)
