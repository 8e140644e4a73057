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
import re
import shutil
import signal
import socket

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.train import host
from tests.train.trainings import replace, watch
from tmi import sharding
from tmi.config import ConfigError
from tmi.train import EXIT_AGAIN, checkpoint, hosts, loop

STEPS = 6  # of debug


@pytest.fixture(scope="module")
def config(config):
    """debug, whose rows two hosts can read apart, saved after every step."""
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

    def __init__(self, processes, config, workdir, slurm=False, **second):
        """second: what the second does apart from the first, of host.train."""
        self.workdir = pathlib.Path(workdir)
        files = [[f"{workdir}.{kind}{i}" for kind in ("notes", "errors")] for i in (0, 1)]
        self._notes, self._errors = ([pathlib.Path(f[k]) for f in files] for k in (0, 1))
        for file in (*self._notes, *self._errors):
            file.unlink(missing_ok=True)
        checkpoint.write_config(workdir, config)  # which stands for --config
        port, self._processes = free_port(), []
        lost_s = second.pop("lost_s", hosts.LOST_S)
        for i in (0, 1):
            flags, env = [f"--workdir={workdir}"], {}
            if slurm:
                env = {
                    "SLURM_JOB_ID": str(port - 61440), "SLURM_NTASKS": "2",
                    "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i),
                    "SLURM_STEP_NODELIST": "localhost",
                }  # fmt: skip
            else:
                flags.append(f"--coordinator=localhost:{port}")
                flags += ["--num_processes=2", f"--process_id={i}"]
            own = {"lost_s": lost_s} | (second if i else {})
            process = processes.Process(target=host.train, args=(flags, env, *files[i]), kwargs=own)
            process.start()
            self._processes.append(process)

    def wait(self, *expected: int | None) -> Pair:
        """Until both have ended with these exit codes (None: never does). Sets what they left:
        errors, what they said; halves, digests of the rows that each was given, by batch; losses,
        by step, to the last bit; delay_s, from the second's last note to the first's last word."""
        try:
            for process, code in zip(self._processes, expected, strict=True):
                if code is not None:
                    process.join(600)
            codes = [process.exitcode for process in self._processes]
        finally:
            for p in self._processes:
                p.kill()
        self.errors = [file.read_text() for file in self._errors]
        assert codes == list(expected), self.errors
        self.halves = [[rows for (rows,) in self._noted(i, "rows")] for i in (0, 1)]
        self.losses, second = (dict(self._noted(i, "loss")) for i in (0, 1))
        assert all(self.losses[step] == loss for step, loss in second.items())
        self.delay_s = self._errors[0].stat().st_mtime - self._notes[1].stat().st_mtime
        return self

    def _noted(self, i: int, kind: str) -> list:
        notes = (json.loads(x) for x in self._notes[i].read_text().splitlines())
        return [values for what, *values in notes if what == kind]

    def hand_over(self, compiled: pathlib.Path) -> None:
        """Puts what the first compiled where the second looks for it in pairs to come. On CPUs
        alone the keys of the two differ, and the second writes nothing itself."""
        first, second = (dict(self._noted(i, "compiled")) for i in (0, 1))
        for name in ("jit_init_state", "jit_train_step"):
            made = compiled / f"{first.get(name)}-cache"
            if made.exists() and name in second:
                shutil.copy(made, compiled / f"{second[name]}-cache")

    @property
    def rows(self) -> list[list[str]]:
        """Digests of the rows of each batch that both were given."""
        return [a + b for a, b in zip(*self.halves, strict=False)]


def steps(workdir) -> list[int]:
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def arrays(config, workdir, step) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, read by one device: parameters, averages, the optimizer's."""
    config = replace(config, train__mesh=(1, 1, 1, 1, 1))
    like = loop._abstract(config, loop.state_shardings(config, sharding.make_mesh(config)))
    out = {}
    for item in ("params", "ema", "opt"):
        with ocp.StandardCheckpointer() as reader:
            found = reader.restore(workdir / "checkpoints" / f"{step}" / item, getattr(like, item))
        for path, x in jax.tree_util.tree_leaves_with_path(found):
            out[item + jax.tree_util.keystr(path)] = np.asarray(x)
    return out


@pytest.fixture(scope="module")
def whole(processes, config, compiled, tmp_path_factory):
    pair = Pair(processes, config, tmp_path_factory.mktemp("hosts") / "whole").wait(0, 0)
    pair.hand_over(compiled)
    return pair


@pytest.fixture(scope="module")
def killed(processes, config, whole):
    """The second is killed when it is handed the rows of step 4."""
    workdir = whole.workdir.with_name("parts")
    pair = Pair(processes, config, workdir, number=signal.SIGKILL, at=4)
    return pair.wait(EXIT_AGAIN, -signal.SIGKILL)


@pytest.fixture(scope="module")
def stopped(processes, config, killed):
    """Goes on from there, until the second is told to stop in its second step. The two find each
    other as under SLURM."""
    left = steps(killed.workdir)
    pair = Pair(processes, config, killed.workdir, slurm=True, number=signal.SIGTERM, at=2)
    pair.wait(EXIT_AGAIN, EXIT_AGAIN)
    pair.start, pair.end = left[-1], steps(killed.workdir)[-1]
    return pair


@pytest.fixture(scope="module")
def silent(processes, config, stopped):
    """The second says nothing more from its first step on, as when its machine or the network is
    gone. Nobody waits: hosts notice while other tests run."""
    workdir = stopped.workdir.with_name("silent")
    return Pair(processes, config, workdir, number=signal.SIGSTOP, at=1, lost_s=10)


def test_without_interruption(whole):
    assert steps(whole.workdir) == sorted(whole.losses) == list(range(1, STEPS + 1))


def test_each_host_reads_its_own_shard(whole):
    first, second = whole.halves
    assert all(len(batch) == 2 for half in whole.halves for batch in half)
    assert not {r for batch in first for r in batch} & {r for batch in second for r in batch}


def test_a_lost_host_ends_the_others_with_an_error(killed):
    assert "another host was lost" in killed.errors[0] and "goes on from step" in killed.errors[0]
    assert "Traceback" not in killed.errors[0]
    assert killed.delay_s < 60


def test_a_signal_to_one_stops_and_saves_all_after_the_same_step(stopped):
    assert f"resumes from step {stopped.start}" in stopped.errors[0]
    assert f"another host was told to stop: saved step {stopped.end}" in stopped.errors[0]
    assert "SIGTERM: stops after this step" in stopped.errors[1]


def test_what_goes_on_is_the_same_to_the_bit(config, whole, killed, stopped):
    assert stopped.start in (2, 3)  # that of step 3 may have been half written
    assert stopped.end == stopped.start + 2
    assert killed.rows == whole.rows[: len(killed.rows)]
    assert stopped.rows == whole.rows[stopped.start : stopped.end]
    assert sorted(stopped.losses) == [stopped.start + 1, stopped.end]
    for step, loss in (*killed.losses.items(), *stopped.losses.items()):
        assert loss == whole.losses[step]
    a, b = (arrays(config, pair.workdir, stopped.end) for pair in (whole, stopped))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], name)


@pytest.mark.parametrize("mesh", [(1, 1, 1, 1, 1), (1, 2, 2, 1, 1)])
def test_one_process_and_another_mesh_go_on_the_same(
    config, whole, stopped, silent, monkeypatch, mesh
):
    rows, losses = [], {}
    watch(monkeypatch, lambda n, digests: rows.append(digests), losses.__setitem__)
    workdir = shutil.copytree(stopped.workdir, whole.workdir.with_name(f"mesh{mesh[1]}"))
    assert loop.train(replace(config, train__mesh=mesh), workdir)["step"] == STEPS
    assert rows == whole.rows[stopped.end :]
    later = {step: x for step, x in whole.losses.items() if step > stopped.end}
    assert losses == pytest.approx(later, rel=0, abs=1e-5)


def test_a_silent_host_ends_the_others_as_well(silent):
    silent.wait(-signal.SIGABRT, None)
    # Who it was stands on a line of its own: the number, or a name that ends with it.
    said = silent.errors[0]
    assert "heartbeat" in said and re.search(r"^(\S*task:)?1$", said, re.MULTILINE)
    assert silent.delay_s < 60


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


@pytest.mark.parametrize(
    ("inner", "lost"),
    [
        (jax.errors.JaxRuntimeError("UNKNOWN: Gloo context initialization failed"), True),
        (ValueError("UNAVAILABLE: Socket closed"), True),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"), False),
        (OSError("UNAVAILABLE"), False),
    ],
)
def test_a_loss_is_known_by_its_cause(inner, lost, monkeypatch):
    monkeypatch.setattr(hosts, "several", lambda: True)
    outer = checkpoint.CheckpointError("opening it failed")
    outer.__cause__ = inner
    assert hosts.is_loss(outer) == hosts.is_loss(inner) == lost


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
    placed = sharding.put_batch(batch, sharding.batch_shardings(config, mesh), rows, size)["x"]
    np.testing.assert_array_equal(np.asarray(placed), batch["x"])
    assert placed.sharding == sharding.batch_shardings(config, mesh)
