"""Two processes train as one: the same rows, losses and checkpoints, whatever happens to them.

Processes of one CPU device each, over gloo. One pair trains without interruption; of another one
process is killed, it goes on, is told to stop (one of the two is), and goes on as one process and
on another mesh.
"""

from __future__ import annotations

import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import replace, row_digests

from tmi import sharding
from tmi.config import ConfigError
from tmi.train import EXIT_AGAIN, checkpoint, hosts, loop

HERE = pathlib.Path(__file__).parent
STEPS = 6


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Compiles in half the time, for code that runs six steps. Here and in the pairs alike."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def config(config):
    """debug of one layer, whose rows two hosts can read apart, saved after every step."""
    config = replace(config, model__num_layers=1, model__num_dense_layers=0, model__num_experts=3)
    config = replace(config, train__mesh=(2, 1, 1, 1, 1), data__shards=2, train__eval_every=0)
    return replace(config, train__save_every=1, train__log_every=1, train__keep=STEPS)


def free_port() -> int:
    """One that jax also finds by itself from the number of a SLURM job."""
    while True:
        port = random.randrange(61441, 65535)
        with socket.socket() as s:
            if s.connect_ex(("localhost", port)):
                return port


class Pair:
    """Two processes of one training."""

    def __init__(self, config, workdir, slurm=False, number=0, at=0):
        """number, at: the signal that the second sends itself when it is handed batch `at`."""
        self.workdir = pathlib.Path(workdir)
        self.logs = [self.workdir.with_name(f"{self.workdir.name}.rows{i}") for i in (0, 1)]
        checkpoint.write_config(workdir, config)  # which stands for --config
        port = free_port()
        self._processes = []
        for i, log in enumerate(self.logs):
            log.unlink(missing_ok=True)
            env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
            env["PYTHONPATH"] = str(HERE.parents[1])
            env.pop("XLA_FLAGS", None)
            # Compiled once for all pairs.
            env["JAX_COMPILATION_CACHE_DIR"] = str(self.workdir.with_name("compiled"))
            env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
            meet = [f"--coordinator=localhost:{port}", "--num_processes=2", f"--process_id={i}"]
            if slurm:
                meet = []
                env |= {
                    "SLURM_JOB_ID": str(port - 61440), "SLURM_NTASKS": "2",
                    "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i),
                    "SLURM_STEP_NODELIST": "localhost",
                }  # fmt: skip
            own = (number, at) if i == 1 else (0, 0)
            command = [sys.executable, str(HERE / "host.py"), str(log), *map(str, own)]
            self._processes.append(
                subprocess.Popen(
                    [*command, f"--workdir={workdir}", *meet],
                    env=env,
                    stderr=subprocess.PIPE,
                    text=True,
                    cwd=HERE.parents[1],
                )
            )

    def wait(self) -> None:
        """Until both have ended, the second first; sets codes, errors and delay_s between them."""
        self.codes, self.errors = [0, 0], ["", ""]
        try:
            for i in (1, 0):
                start = time.monotonic()
                _, self.errors[i] = self._processes[i].communicate(timeout=150)
                self.codes[i] = self._processes[i].returncode
                self.delay_s = time.monotonic() - start
        finally:
            for p in self._processes:
                p.kill()

    def rows(self) -> list[list[str]]:
        """Digests of the rows of each batch that both were given."""
        halves = [[x.split() for x in log.read_text().splitlines()] for log in self.logs]
        return [a + b for a, b in zip(*halves, strict=False)]


def losses(workdir) -> dict[int, float]:
    lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {x["step"]: x["loss"] for x in lines if x["kind"] == "train"}


def steps(workdir) -> list[int]:
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def arrays(workdir, step) -> dict[str, np.ndarray]:
    """Every array of a checkpoint: parameters, averages, the optimizer's."""
    out = {}
    for item in ("params", "ema", "opt"):
        with ocp.StandardCheckpointer() as reader:
            tree = reader.restore(workdir / "checkpoints" / str(step) / item)
        for path, x in jax.tree_util.tree_leaves_with_path(tree):
            out[item + jax.tree_util.keystr(path)] = np.asarray(x)
    return out


def trained(config, workdir, **how) -> Pair:
    pair = Pair(config, workdir, **how)
    pair.wait()
    return pair


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    pair = trained(config, tmp_path_factory.mktemp("hosts") / "whole")
    assert pair.codes == [0, 0], pair.errors
    return pair


@pytest.fixture(scope="module")
def killed(config, whole):
    """The second is killed when it is handed the rows of step 4."""
    return trained(config, whole.workdir.with_name("parts"), number=signal.SIGKILL, at=4)


@pytest.fixture(scope="module")
def stopped(config, killed):
    """Goes on from there, until the second is told to stop in its first step. The two find each
    other as under SLURM."""
    left = steps(killed.workdir)
    pair = trained(config, killed.workdir, slurm=True, number=signal.SIGTERM, at=1)
    pair.start, pair.end = left[-1], steps(killed.workdir)[-1]
    return pair


def test_without_interruption(whole):
    assert steps(whole.workdir) == sorted(losses(whole.workdir)) == list(range(1, STEPS + 1))


def test_a_lost_host_ends_the_others_with_an_error(killed):
    assert killed.codes == [EXIT_AGAIN, -signal.SIGKILL], killed.errors
    assert "another host was lost" in killed.errors[0] and "goes on from step" in killed.errors[0]
    assert "Traceback" not in killed.errors[0]
    assert killed.delay_s < 60


def test_a_signal_to_one_stops_and_saves_all_after_the_same_step(stopped):
    assert stopped.codes == [EXIT_AGAIN, EXIT_AGAIN], stopped.errors
    assert f"resumes from step {stopped.start}" in stopped.errors[0]
    assert f"another host was told to stop: saved step {stopped.end}" in stopped.errors[0]
    assert "SIGTERM: stops after this step" in stopped.errors[1]


def test_what_goes_on_is_the_same_to_the_bit(whole, killed, stopped):
    assert stopped.start in (2, 3)  # that of step 3 may have been half written
    assert stopped.end == stopped.start + 1
    assert stopped.rows() == whole.rows()[stopped.start : stopped.end]
    expected = losses(whole.workdir)
    assert losses(stopped.workdir) == {k: expected[k] for k in range(1, stopped.end + 1)}
    a, b = (arrays(pair.workdir, stopped.end) for pair in (whole, stopped))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], name)


@pytest.mark.parametrize("mesh", [(1, 1, 1, 1, 1), (1, 2, 2, 1, 1)])
def test_on_another_mesh_it_goes_on_the_same(config, whole, stopped, meddle, mesh):
    seen = []
    meddle(lambda n, batch: seen.append(row_digests(batch)))
    workdir = shutil.copytree(stopped.workdir, whole.workdir.with_name(f"mesh{mesh[1]}"))
    result = loop.train(replace(config, train__mesh=mesh), workdir)
    assert result["step"] == STEPS
    assert seen == whole.rows()[stopped.end :]
    expected = losses(whole.workdir)
    assert losses(workdir) == pytest.approx(expected, abs=1e-5)


def test_each_host_reads_its_own_shard(whole):
    for i, log in enumerate(whole.logs):
        assert all(len(line.split()) == 2 for line in log.read_text().splitlines()), i


# -- parts of it, in this process ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("here:1", None, None), "--num_processes is missing"),
        ((None, None, 0), "--coordinator is missing"),
        (("here", 2, 0), "--coordinator=here: HOST:PORT"),
        (("here:1", 2, 2), "--process_id=2: 0 to 1 are accepted"),
    ],
)
def test_flags_that_cannot_be_are_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        hosts.start(*given)


@pytest.mark.parametrize(
    ("env", "where"),
    [
        ({}, ""),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "a"}, ""),
        ({"SLURM_NTASKS": "8"}, ""),  # an allocation without srun
        (
            {"SLURM_NTASKS": "8", "SLURM_PROCID": "3", "SLURM_STEP_NODELIST": "a[0-7]"},
            "under SLURM",
        ),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, ""),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "on GKE"),
    ],
)
def test_a_cluster_is_known_by_its_environment(env, where, monkeypatch):
    for name in [n for n in os.environ if n.startswith(("SLURM_", "TPU_"))]:
        monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert hosts.cluster() == where


def test_alone_there_is_nobody_to_ask(config):
    assert hosts.gather({"a": 1}) == [{"a": 1}] and not hosts.several()
    assert not hosts.is_loss(ValueError("Gloo all-reduce failed"))
    hosts.start()  # nothing to join


def test_one_vote_is_enough(config):
    votes = hosts.StopVote(sharding.make_mesh(config))
    assert [bool(votes.cast(x)) for x in (False, True)] == [False, True]


@pytest.mark.parametrize("sizes", [(2, 1, 1, 1, 1), (1, 2, 2, 1, 1), (1, 1, 2, 1, 2)])
def test_a_batch_is_placed_as_its_sharding_says(config, sizes, monkeypatch):
    config = replace(config, train__mesh=sizes)
    mesh = sharding.make_mesh(config)
    rows, size = sharding.host_rows(config, mesh), config.data.batch_size
    assert rows == list(range(size))
    batch = {"x": np.arange(size * 3).reshape(size, 3)}
    monkeypatch.setattr(jax, "process_count", lambda: 2)  # the way of several processes
    placed = sharding.put_batch(batch, sharding.batch_shardings(mesh), rows, size)["x"]
    np.testing.assert_array_equal(np.asarray(placed), batch["x"])
    assert placed.sharding == sharding.batch_shardings(mesh)
