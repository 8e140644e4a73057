"""Training: resumption to the bit, interruption, divergence, refusals, what is reported."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tests.train.trainings import replace, terminate_at
from tmi import sharding
from tmi.config import ConfigError
from tmi.train import checkpoint, initial, loop
from tmi.train.checkpoint import Checkpoints, restore_params
from tmi.train.metrics import TrainingDiverged


def lines(workdir, kind="train"):
    read = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [x for x in read if x["kind"] == kind]


def state_of(config, workdir):
    mesh = loop.sharding.make_mesh(config)
    with_shardings = loop._abstract(config, loop.state_shardings(config, mesh))
    checkpoints = Checkpoints(workdir)
    try:
        return checkpoints.restore(with_shardings), checkpoints.info()
    finally:
        checkpoints.close()


def assert_same_bits(a, b):
    import jax

    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), jax.tree_util.keystr(path))


def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(
    config, trained, tmp_path, meddle, capfd
):
    meddle(terminate_at(4))  # off the grid of save_every: what is saved is what SIGTERM saves
    first = loop.train(config, tmp_path)
    assert first["stopped"] and first["step"] == 4
    assert "SIGTERM: saved step 4" in capfd.readouterr().err
    meddle(lambda n, batch: None)
    second = loop.train(config, tmp_path)
    assert second["step"] == config.train.steps and not second["stopped"]
    whole, _ = state_of(config, trained[0])
    parts, info = state_of(config, tmp_path)
    assert_same_bits(whole, parts)
    assert second["dev"] == trained[1]["dev"]
    assert [leg["steps"] for leg in info["legs"]] == [4, 2]
    assert all(leg["wall_s"] > 0 for leg in info["legs"])
    assert [x["step"] for x in lines(tmp_path)] == [x["step"] for x in lines(trained[0])]


def test_reports(config, trained):
    workdir, result = trained
    assert result["step"] == config.train.steps and math.isfinite(result["best_loss"])
    train = lines(workdir)
    assert [x["step"] for x in train] == [2, 4, 6]
    wanted = {
        "loss", "loss/text", "loss/silence", "loss/speech", "grad_norm", "router/max_load",
        "learning_rate/muon", "learning_rate/adam", "input/fill_ratio", "input/wait_share",
        "speed/tokens_per_s", "speed/model_gflops", "speed/share_of_ceiling",
    }  # fmt: skip
    assert wanted <= set(train[0])
    assert all(0 <= x["input/wait_share"] <= 1 and 0 < x["input/fill_ratio"] <= 1 for x in train)
    dev = lines(workdir, "dev")
    assert [x["step"] for x in dev] == [3, 6]
    assert {"loss/text", "loss/silence", "loss/speech", "skill/count"} <= set(dev[0])
    assert list((workdir / "tensorboard").iterdir())
    assert (workdir / "config.json").exists()


def test_best_is_the_lowest_dev_loss(trained):
    workdir, result = trained
    _, _, info = checkpoint.read(workdir, "best")
    assert info["dev"]["loss"] == result["best_loss"]
    assert result["best_loss"] == pytest.approx(
        min(x["loss"] for x in lines(workdir, "dev")), rel=1e-5
    )


def test_nan_stops_with_the_step_named_and_the_checkpoint_before_it_stays(config, tmp_path, meddle):
    def poison(n, batch):
        return {**batch, "speech": batch["speech"] * np.nan} if n == 5 else None

    meddle(poison)
    with pytest.raises(TrainingDiverged, match=r"step 5: .* is nan.*last good .* step 3"):
        loop.train(config, tmp_path)
    _, params = restore_params(tmp_path, "latest")
    assert all(np.isfinite(x).all() for x in params.values())


def test_another_config_is_refused_by_field(config, trained):
    other = replace(config, model__qk_gain=3.0, data__seed=7)
    with pytest.raises(ConfigError, match=r"model.qk_gain: 2.0 -> 3.0; data.seed: 0 -> 7"):
        loop.train(other, trained[0])


def test_a_finished_training_does_nothing_more(config, trained):
    before = (trained[0] / "metrics.jsonl").read_text()
    result = loop.train(config, trained[0])
    assert result["step"] == config.train.steps and result["dev"] == trained[1]["dev"]
    assert (trained[0] / "metrics.jsonl").read_text() == before


def test_a_leg_begins_with_the_shipped_weights_and_keeps_them_unless_dev_improves(
    config, trained, tmp_path, meddle
):
    shipped = checkpoint.export(trained[0], tmp_path / "shipped")

    def spoil(n, batch):  # a leg that learns to say one token whatever it hears
        return {**batch, "text_target": np.where(batch["text_target"] < 0, -1, 5)}

    meddle(spoil)
    config = replace(config, optimizer__muon_learning_rate=0.1, optimizer__adam_learning_rate=0.1,
                     optimizer__ema=0.0, train__speech_weight=0.0, train__hearing_weight=0.0,
                     train__spelling_weight=0.0)  # fmt: skip
    result = loop.train(config, tmp_path / "leg", init_from=shipped)
    first, *rest = lines(tmp_path / "leg", "dev")
    assert first["step"] == 0
    words = trained[1]["dev"]["loss/text"]  # the last is its best
    assert first["loss/text"] == pytest.approx(words, rel=1e-2)  # float16
    _, params, info = checkpoint.read(tmp_path / "leg", "best")
    assert all(x["loss"] > first["loss"] for x in rest)
    assert info["step"] == 0 and result["best_loss"] == pytest.approx(first["loss"], rel=1e-4)
    for name, x in restore_params(shipped)[1].items():
        np.testing.assert_array_equal(x, params[name])
    latest = state_of(config, tmp_path / "leg")[1]
    assert [leg["steps"] for leg in latest["legs"]] == [6, 6]


def test_digits_of_the_clock_may_be_added_to_a_model_without(config, trained):
    other = replace(config, model__clock_digits=3)
    params, _ = initial.from_workdir(other, trained[0])
    before = restore_params(trained[0])[1]
    far = "transformer.layers.1.attention.clock_key"
    assert set(params) - set(before) == {"clock.digits", far}
    assert params[far].shape[0] % 20 == 0 and not np.asarray(params[far]).any()
    assert params["clock.digits"].shape == (config.model.width, 30)
    assert not np.asarray(params["clock.digits"]).any()


def test_a_leg_begins_on_a_mesh_from_a_workdir(config, trained):
    several = replace(config, train__mesh=(1, 2, 1, 1, 1))
    shardings = loop.state_shardings(several, sharding.make_mesh(several))
    state, _ = initial.begin(several, trained[0], shardings)
    for name, x in restore_params(trained[0])[1].items():
        np.testing.assert_array_equal(state.params[name], x)
        assert state.params[name].sharding == shardings.params[name]


def test_weights_of_another_shape_are_refused(config, trained, tmp_path):
    other = replace(config, model__expert_width=32)
    with pytest.raises(ConfigError, match=r"do not fit.*model.expert_width: 16 -> 32"):
        loop.train(other, tmp_path, init_from=trained[0])


def test_dev_losses_do_not_depend_on_when_they_are_measured(config, trained):
    _, params = restore_params(trained[0], "latest")
    evaluate = loop.make_evaluator(config, loop.sharding.make_mesh(config))
    assert evaluate(params) == trained[1]["dev"]
