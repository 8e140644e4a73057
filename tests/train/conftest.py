"""A corpus of hand-made sessions, the debug experiment on it, one training of it, and processes.

What is compiled here runs a few small steps: it is compiled quickly, and once for all processes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import multiprocessing
import multiprocessing.forkserver
import os
import pathlib
import signal
import types

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments import debug
from tmi import config as config_lib
from tmi.config import Config
from tmi.train import loop

HERE = pathlib.Path(__file__).parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """The tests of this folder, and the fixtures they make, compile in half the time."""
    ours = HERE in item.path.parents
    try:
        jax.config.update("jax_disable_most_optimizations", ours)
        return (yield)
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory):
    """The folder of what was compiled, shared by pytest's workers and by the processes below."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(folder))
    compilation_cache.reset_cache()
    yield folder
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def processes(compiled):
    """A multiprocessing context whose processes have imported all that a training needs, but not
    started jax: importing takes longer than what they do."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["host"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (HERE, HERE.parents[1]))))
        patch.setenv("JAX_PLATFORMS", "cpu")
        patch.setenv("JAX_NUM_CPU_DEVICES", "1")
        patch.delenv("XLA_FLAGS", raising=False)
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(compiled))
        multiprocessing.forkserver.ensure_running()
    return context


def data_helpers():
    """tests/data/conftest.py: makes sessions and writes corpora."""
    path = pathlib.Path(__file__).parents[1] / "data" / "conftest.py"
    spec = importlib.util.spec_from_file_location("data_helpers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", autouse=True)
def ceiling():
    """The matmul ceiling is measured by tests/test_machine.py: here it would only cost seconds."""
    with pytest.MonkeyPatch.context() as patch:
        # Only what the loop sees: other tests of this process measure the real one.
        patch.setattr(loop, "machine", types.SimpleNamespace(matmul_ceiling=lambda: 1e11))
        yield


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    helpers = data_helpers()
    sessions = [helpers.make_record(k, helpers.SKILLS[k % 3]) for k in range(24)]
    return helpers.write_corpus(tmp_path_factory.mktemp("train_corpus"), sessions)


@pytest.fixture(scope="session")
def config(corpus) -> Config:
    view = debug.get_config()
    view.data.corpus = view.data.dev_corpus = str(corpus.path)
    return config_lib.from_config_dict(view)


@pytest.fixture(scope="session")
def trained(config, tmp_path_factory):
    """(workdir, result) of a training that nothing interrupts."""
    workdir = tmp_path_factory.mktemp("trained")
    return workdir, loop.train(config, workdir)


def replace(config: Config, **fields) -> Config:
    """A config with other values: replace(c, train__steps=3)."""
    for name, value in fields.items():
        section, field = name.split("__")
        part = dataclasses.replace(getattr(config, section), **{field: value})
        config = dataclasses.replace(config, **{section: part})
    return config


class Meddled:
    """Batches that call `meddle(number, batch)` on each as it is handed out, from 1."""

    def __init__(self, batches, meddle):
        self._batches, self._meddle = batches, meddle

    def __getattr__(self, name):
        return getattr(self._batches, name)

    def __next__(self):
        batch = next(self._batches)
        return self._meddle(self._batches.num_batches, batch) or batch


@pytest.fixture
def meddle(monkeypatch):
    """meddle(f): trainings of this test get their batches through f."""
    make = loop.train_batches

    def install(f):
        monkeypatch.setattr(loop, "train_batches", lambda *a, **k: Meddled(make(*a, **k), f))

    yield install


def watch(patch: pytest.MonkeyPatch, see_rows, see_loss) -> None:
    """Trainings call see_rows(number of a batch, digests of its rows) and see_loss(step, loss)."""
    make, add = loop.train_batches, loop.Window.add_result

    def add_result(self, step, values):
        see_loss(step, float(values["loss"]))
        return add(self, step, values)

    def meddle(n, batch):
        see_rows(n, row_digests(batch))

    patch.setattr(loop, "train_batches", lambda *a, **k: Meddled(make(*a, **k), meddle))
    patch.setattr(loop.Window, "add_result", add_result)


def terminate_at(number: int):
    def f(n, batch):
        if n == number:
            os.kill(os.getpid(), signal.SIGTERM)

    return f


def row_digests(batch) -> list[str]:
    """What identifies each row of a batch."""
    keys = sorted(batch)
    return [
        hashlib.sha1(b"".join(batch[k][row].tobytes() for k in keys)).hexdigest()
        for row in range(len(batch[keys[0]]))
    ]
