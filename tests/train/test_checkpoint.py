"""Checkpoints: what is read is what was written; what cannot be is refused by name."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import demo, nano
from tests.train.trainings import replace
from tmi import config as config_lib
from tmi.sharding import param_shapes
from tmi.train import checkpoint
from tmi.train.checkpoint import CheckpointError, Checkpoints, restore_params
from tmi.train.step import init_state


@pytest.fixture(scope="module")
def state(config):
    return jax.jit(functools.partial(init_state, config))(jax.random.key(3))


def info_of(config, step, loss=1.0):
    leg = {"steps": step, "wall_s": 1.5, "corpus_hash": "c", "seed": 0, "commit": "x"}
    return checkpoint.make_info(config, step, {"n": step}, [leg], {"loss": loss})


@pytest.fixture
def workdir(config, state, tmp_path):
    """Steps 1 and 2; the best is step 1."""
    checkpoints = Checkpoints(tmp_path)
    for step, loss in ((1, 0.5), (2, 0.7)):
        moved = state._replace(ema=jax.tree.map(lambda x, s=step: x + s, state.ema))
        checkpoints.save(moved, info_of(config, step, loss))
        checkpoints.save_best(moved, info_of(config, step, loss))
    checkpoints.wait()
    checkpoints.close()
    return tmp_path


def test_restored_is_saved(config, state, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.info() is None
    checkpoints.save(state, info_of(config, 7))
    # Training goes on, and may write over its state, while the checkpoint is written.
    donated = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)
    expected = jax.tree.map(np.array, state)
    donated(jax.tree.map(jnp.copy, state))
    checkpoints.wait()
    assert checkpoints.info() == json.loads(json.dumps(info_of(config, 7)))
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    found = checkpoints.restore(like)
    checkpoints.close()
    assert int(found.step) == 7
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(expected[1:]), jax.tree.leaves(found[1:]), strict=True):
        np.testing.assert_array_equal(a, np.asarray(b))


def test_a_state_that_is_donated_at_once_is_saved_as_it_was(config, state, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    spare = jax.tree.map(jnp.copy, state)
    expected = np.array(spare.params["unembed.table"])
    checkpoints.save(spare, info_of(config, 1))
    wipe = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    jax.block_until_ready(wipe(spare))
    checkpoints.wait()
    checkpoints.close()
    _, params = restore_params(tmp_path, "latest", ema=False)
    np.testing.assert_array_equal(expected, params["unembed.table"])


def test_best_and_latest_averaged_or_not(config, state, workdir):
    name = "unembed.table"
    base = np.asarray(state.params[name])
    for which, ema, moved in (("best", True, 1), ("latest", True, 2), ("latest", False, 0)):
        found, params = restore_params(workdir, which, ema)
        assert found == config
        np.testing.assert_array_equal(params[name], base + np.float32(moved))


def test_a_best_may_be_measured_again_and_forgotten(config, state, tmp_path):
    """After a resume on another mesh a loss may round lower; a run that begins anew has no best."""
    for loss in (0.5, 0.4):
        checkpoints = Checkpoints(tmp_path)
        info = info_of(config, 0)
        checkpoints.save_best(state, {**info, "dev": {**info["dev"], "loss": loss}})
        checkpoints.wait()
        assert checkpoints.best_loss() == loss
        checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.forget_best()
    assert checkpoints.best_loss() == float("inf")
    checkpoints.close()


def test_a_checkpoint_that_was_not_finished_is_none(config, workdir, monkeypatch):
    """A bucket has it at its place from the first byte on, and marks it when it is whole."""
    (workdir / "checkpoints" / "999").mkdir()
    marked = checkpoint.ocp.path.step.is_path_finalized
    monkeypatch.setattr(
        checkpoint.ocp.path.step, "is_path_finalized",
        lambda p, **how: p.name != "999" and marked(p, **how),
    )  # fmt: skip
    assert restore_params(workdir, "latest")[0] == config
    checkpoints = Checkpoints(workdir)
    assert 999 not in checkpoints.steps()
    checkpoints.close()
    (workdir / "checkpoints" / "999").rmdir()


def test_the_latest_stands_in_where_no_dev_loss_was_measured(config, state, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, info_of(config, 1))
    checkpoints.wait()
    checkpoints.close()
    assert restore_params(tmp_path, "best")[0] == config


def test_export_is_the_rounded_average_with_its_origin(config, workdir, tmp_path):
    out = checkpoint.export(workdir, tmp_path / "out")
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "info.json", "params.npz"]
    _, params = restore_params(workdir)
    found, shipped = restore_params(out)
    assert found == config
    for name, x in params.items():
        np.testing.assert_array_equal(np.asarray(x).astype(np.float16), np.asarray(shipped[name]))
    origin = json.loads((out / "info.json").read_text())
    assert origin["steps"] == 1 and origin["wall_s"] == 1.5 and origin["corpus_hash"] == "c"
    assert {"seed", "commit", "command", "dev", "format_version"} <= set(origin)
    again = checkpoint.export(out, tmp_path / "again")  # rounding once is rounding for good
    assert (again / "params.npz").read_bytes() == (out / "params.npz").read_bytes()


def test_the_mean_of_two_legs_is_exported(config, workdir, tmp_path):
    one = checkpoint.export(workdir, tmp_path / "one")
    _, params = restore_params(one)
    shifted = {n: np.asarray(x, np.float16) + np.float16(0.5) for n, x in params.items()}
    shutil.copytree(one, tmp_path / "two")
    np.savez(tmp_path / "two" / "params.npz", **shifted)
    info = json.loads((one / "info.json").read_text())
    info["legs"][-1]["command"] = "the other leg"
    (tmp_path / "two" / "info.json").write_text(json.dumps(info))
    mean = checkpoint.export(one, tmp_path / "mean", mean_with=tmp_path / "two")
    for name, x in restore_params(mean)[1].items():
        wanted = (np.asarray(params[name]) + shifted[name].astype(np.float32)) / 2
        np.testing.assert_array_equal(np.asarray(x), wanted.astype(np.float16))
    origin = json.loads((mean / "info.json").read_text())
    assert origin["weights"].startswith("mean of exponential") and "dev" not in origin
    assert [part["share"] for part in origin["mean_of"]] == [0.5, 0.5]
    again = checkpoint.export(mean, tmp_path / "again")
    assert json.loads((again / "info.json").read_text())["mean_of"] == origin["mean_of"]
    third = checkpoint.export(mean, tmp_path / "third", mean_with=tmp_path / "two")
    shares = {
        p["command"]: p["share"] for p in json.loads((third / "info.json").read_text())["mean_of"]
    }
    assert shares == {info["legs"][-1]["command"]: 0.75, origin["command"]: 0.25}

    name = sorted(shifted)[0]
    np.savez(tmp_path / "two" / "params.npz", **{n: x for n, x in shifted.items() if n != name})
    with pytest.raises(checkpoint.CheckpointError, match="have other arrays|missing or unknown"):
        checkpoint.export(one, tmp_path / "mean", mean_with=tmp_path / "two")


@pytest.mark.parametrize("experiment", [nano, demo])
def test_what_is_shipped_stays_under_12_mb(experiment):
    config = config_lib.from_config_dict(experiment.get_config())
    count = sum(int(np.prod(shape)) for shape in param_shapes(config).values())
    assert count <= 5_500_000
    assert 2 * count + 300 * len(param_shapes(config)) <= 12_000_000


FULL_DISK = """
import resource, sys
import jax.numpy as jnp
from tmi.config import Config
from tmi.train import checkpoint
from tmi.train.step import TrainState

checkpoints = checkpoint.Checkpoints(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # to a writer the same as a full disk
arrays = {"w": jnp.arange(100_000.0)}
try:
    checkpoints.save(TrainState(3, arrays, arrays, arrays), checkpoint.make_info(Config(), 3, {}, [], {}))
    checkpoints.wait()
except checkpoint.CheckpointError as e:
    print(e)
"""  # noqa: E501


def test_disk_full_while_saving_names_the_error_and_keeps_the_last_good(config, state, workdir):
    # In a process of its own: the limit would hold for what pytest writes as well.
    command = [sys.executable, "-c", FULL_DISK, str(workdir)]
    said = subprocess.run(command, capture_output=True, text=True).stdout
    assert re.search(r"saving step 3 .*File too large.*last good .* step 2", said), said
    again = Checkpoints(workdir)
    assert again.steps() == [1, 2] and again.info()["step"] == 2
    again.save(state, info_of(config, 3))
    again.wait()
    assert again.steps() == [2, 3]
    again.close()


def test_another_format_version_is_refused_by_name(config, workdir, tmp_path, monkeypatch):
    out = checkpoint.export(workdir, tmp_path / "out")
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 99)
    with pytest.raises(CheckpointError, match="format version 1; this code reads version 99"):
        restore_params(workdir)
    with pytest.raises(CheckpointError, match="format version 1; this code reads version 99"):
        restore_params(out)
    with pytest.raises(CheckpointError, match="format version 1; this code reads version 99"):
        Checkpoints(workdir).info()


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no checkpoint.*tmi.train"):
        restore_params(tmp_path)
    with pytest.raises(ValueError, match="'best' or 'latest'"):
        restore_params(tmp_path, "first")


def test_a_damaged_checkpoint_is_named(workdir, tmp_path):
    out = checkpoint.export(workdir, tmp_path / "out")
    (out / "params.npz").write_bytes((out / "params.npz").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="out: its export is damaged"):
        restore_params(out)
    for file in (workdir / "checkpoints" / "2" / "ema").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="checkpoints/2 failed"):
        restore_params(workdir, "latest")


def test_parameters_that_do_not_fit_the_config_are_named(config, workdir, tmp_path):
    out = checkpoint.export(workdir, tmp_path / "out")
    checkpoint.write_config(out, replace(config, model__expert_width=32))
    with pytest.raises(CheckpointError, match=r"mlp\.\w+ has shape .* its config wants"):
        restore_params(out)


def test_an_export_is_no_place_to_train(workdir, tmp_path):
    out = checkpoint.export(workdir, tmp_path / "out")
    with pytest.raises(CheckpointError, match="--init_from"):
        Checkpoints(out)
    with pytest.raises(CheckpointError, match="is a training's workdir"):
        checkpoint.export(out, workdir)
