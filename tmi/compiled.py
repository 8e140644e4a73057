"""What XLA has compiled, kept for the next process: a decoder starts in a quarter of the time.

Commands call `keep()`; libraries and notebooks leave jax as it is.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import platform
import typing
from collections.abc import Callable

import jax
from absl import logging

MOST_BYTES = 2 << 30  # then what was not used for longest goes

# A fifth of the work for LLVM: random numbers of many shapes are much code.
QUICKLY = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}


def once(f: Callable, **kwargs):
    """`jax.jit` of what is run a single time: on CPUs it takes longer to compile than to run."""
    quickly = jax.default_backend() == "cpu"
    return jax.jit(f, compiler_options=QUICKLY if quickly else None, **kwargs)


def keep() -> None:
    """Has jax keep compiled programs in `folder()`, unless it was told where to
    (JAX_COMPILATION_CACHE_DIR) or not to (JAX_ENABLE_COMPILATION_CACHE=false). Where nothing can be
    written nothing is kept. To be called before the first compilation."""
    told: typing.Any = jax.config
    if told.jax_compilation_cache_dir or not told.jax_enable_compilation_cache:
        return
    try:
        where = folder()
        where.mkdir(parents=True, exist_ok=True)
        if not os.access(where, os.W_OK):
            raise PermissionError(f"{where} is not to be written")
    except (OSError, RuntimeError) as e:  # RuntimeError: nobody's home
        logging.info("compiled programs are not kept: %s", e)
        return
    jax.config.update("jax_compilation_cache_dir", str(where))
    jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)


def folder() -> pathlib.Path:
    """In the user's cache, one for each kind of processor: a program compiled for one may use
    instructions that another lacks, and homes are shared between machines."""
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    kind = hashlib.sha256(_processor().encode()).hexdigest()[:12]
    return pathlib.Path(cache) / "tmi" / "compiled" / f"jax-{jax.__version__}-{kind}"


def _processor() -> str:
    """Its name and what it can do."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "features")
    found = {line for line in lines if line.split(":")[0].strip().lower() in wanted}
    return "\n".join((platform.machine(), *sorted(found)))
