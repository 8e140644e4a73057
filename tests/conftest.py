"""Settings of every test: eight virtual CPU devices, reproducible hypothesis examples, one folder
of compiled programs for all processes of a run, and what is compiled quickly and runs first."""

import atexit
import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator

# Before anything imports jax: meshes are tested on virtual devices, accelerators are left alone.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "")
        + " --xla_force_host_platform_device_count=8 --xla_cpu_use_fusion_emitters=false"
    ).strip()

# Named before any worker starts, which then has it from its environment.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    folder = tempfile.mkdtemp(prefix="tmi-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

import jax  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from tmi import numerics  # noqa: E402

HERE = pathlib.Path(__file__).parent
# Their programs run a few small steps and are compiled in half the time. Laws of bits are compiled
# as users compile: without optimizations XLA leaves its library's products, which they rest on.
QUICKLY_COMPILED = (
    "decode/test_serving.py", "decode/test_stream.py", "interop", "models/test_exchange.py",
    "models/test_model.py", "models/test_stack.py", "test_sharding.py", "test_streams.py", "train",
)  # fmt: skip
AS_USERS_COMPILE = ("train/test_alignment.py",)
JIT = numerics.jit
# A worker runs whole files: the longest first, so that none is left alone with one at the end.
LONGEST = (
    "train/test_hosts.py", "models/test_bits.py", "decode/test_replay.py", "test_sharding.py",
    "train/test_alignment.py", "train/test_finetune.py", "data/test_pipeline.py",
    "kernels/test_attention.py", "models/test_device_bits.py", "interop/test_goldens.py",
    "test_notebooks.py", "models/test_model.py", "models/test_exchange.py", "train/test_loop.py",
    "decode/test_serving.py", "models/test_stack.py", "train/test_step.py", "decode/test_stream.py",
    "evals/test_runner.py",
)  # fmt: skip


def _file(item: pytest.Item) -> str:
    return item.path.relative_to(HERE).as_posix()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(_file(item), len(LONGEST)))


def _jit_as_users(policy: str, f: Callable, **kwargs):
    """By the loops that XLA makes if it is asked for nothing else: the flag above has its old ones,
    which compile in two thirds of the time."""
    options = {"xla_cpu_use_fusion_emitters": True}
    if policy == "invariant":
        options |= numerics.PRODUCTS_ALONE
    return jax.jit(f, compiler_options=options, **kwargs)


@contextlib.contextmanager
def compiled_quickly(quickly: bool = True) -> Iterator[None]:
    before = jax.config.values["jax_disable_most_optimizations"], numerics.jit
    try:
        jax.config.update("jax_disable_most_optimizations", quickly)
        numerics.jit = JIT if quickly else _jit_as_users
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before[0])
        numerics.jit = before[1]


@pytest.fixture
def quickly() -> Iterator[None]:
    """For a test of bits that has none itself."""
    with compiled_quickly():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    name = _file(item)
    with compiled_quickly(name.startswith(QUICKLY_COMPILED) and name not in AS_USERS_COMPILE):
        return (yield)


# The same examples each time: a failure on one machine is one everywhere. No deadline, since a
# first call may compile. HYPOTHESIS_PROFILE=search looks for more, with new examples each time.
settings.register_profile("tests", deadline=None, derandomize=True, max_examples=50, database=None)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tests"))
