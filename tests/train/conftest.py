"""A corpus of hand-made sessions, the debug experiment on it, one training of it, and processes.

What is compiled here runs a few small steps: it is compiled once for all processes, and quickly
(tests/conftest.py).
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import pathlib
import types

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments import debug
from tests.data.sessions import SKILLS, make_record, write_corpus
from tests.train.trainings import Meddled
from tmi import config as config_lib
from tmi.config import Config
from tmi.train import loop

HERE = pathlib.Path(__file__).parent


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
    context.set_forkserver_preload(["tests.train.host"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE.parents[1]))
        patch.setenv("JAX_PLATFORMS", "cpu")
        patch.setenv("JAX_NUM_CPU_DEVICES", "1")
        patch.setenv("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")  # tests/conftest.py
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(compiled))
        multiprocessing.forkserver.ensure_running()
    return context


@pytest.fixture(scope="session", autouse=True)
def ceiling():
    """The matmul ceiling is measured by tests/test_machine.py: here it would only cost seconds."""
    with pytest.MonkeyPatch.context() as patch:
        # Only what the loop sees: other tests of this process measure the real one.
        patch.setattr(loop, "machine", types.SimpleNamespace(matmul_ceiling=lambda: 1e11))
        yield


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    sessions = [make_record(k, SKILLS[k % 3]) for k in range(24)]
    return write_corpus(tmp_path_factory.mktemp("train_corpus"), sessions)


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


@pytest.fixture
def meddle(monkeypatch):
    """meddle(f): trainings of this test get their batches through f."""
    make = loop.train_batches

    def install(f):
        monkeypatch.setattr(loop, "train_batches", lambda *a, **k: Meddled(make(*a, **k), f))

    yield install
