"""While it trains, what a live session computed is what the trainer computes, to the bit."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest

from tmi.config import ConfigError
from tmi.decode.stream import Decoder
from tmi.models import tree
from tmi.train import alignment, loop


@pytest.fixture(scope="module")
def invariant(config):
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, numerics="invariant"),
        train=dataclasses.replace(config.train, steps=4, replay_every=2, eval_every=0),
    )


@pytest.fixture
def quick_steps(monkeypatch):
    """Steps of training, whose bits are nobody's here, are compiled quickly."""
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    options["xla_cpu_use_fusion_emitters"] = False
    quick = types.SimpleNamespace(
        jit=lambda policy, f, **kwargs: jax.jit(f, compiler_options=options, **kwargs)
    )
    monkeypatch.setattr(loop, "numerics", quick)


def test_the_gap_is_zero_while_it_trains(invariant, quick_steps, tmp_path):
    loop.train(invariant, tmp_path)
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    replays = [x for x in lines if x["kind"] == "replay"]
    assert [x["step"] for x in replays] == [2, 4]
    for x in replays:
        assert x["logprob_gap"] == x["logprob_gap_mean"] == x["speech_gap"] == 0.0
        assert x["differing"] == 0 and x["tokens"] >= x["microturns"] > 5


@pytest.fixture(scope="module")
def replayed(invariant):
    params = tree.init(invariant, jax.random.key(1))
    return alignment.Alignment(invariant), params


def test_a_sampler_with_other_weights_shows(replayed, monkeypatch):
    """Of one gain of a norm, by one part in a thousand."""
    found, params = replayed
    use = Decoder.use
    name = max(n for n in params if n.startswith("transformer.") and n.endswith("gain"))

    def off(self, weights):
        first = np.array(weights[name])
        first.flat[0] *= 1.001
        use(self, {**weights, name: first})

    assert found.measure(2, params)["differing"] == 0
    monkeypatch.setattr(Decoder, "use", off)
    values = found.measure(2, params)
    assert 0 < values["logprob_gap"] < 1e-2 and values["differing"] > 0


def test_several_processes_are_refused(invariant, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ConfigError, match="replay_every=2.*accepted with several: 0"):
        alignment.Alignment(invariant)
