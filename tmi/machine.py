"""What this machine can do, measured on the spot, so that speeds can be given as shares of it."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp


@functools.cache
def matmul_ceiling(dtype: str = "float32", n: int = 2048, repeats: int = 20) -> float:
    """FLOP/s of the best of `repeats` products of two `[n, n]` matrices on the first device.

    A product counts 2 n^3 FLOPs. Measured once per process (2 s on two cores). Both operands are
    contracted on their last axis, as the model's products are.

    Raises ValueError if n or repeats is below 1.
    """
    if n < 1 or repeats < 1:
        raise ValueError(f"n={n}, repeats={repeats}: accepted are 1 or more each")
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (n, n), dtype) for key in keys)
    product = jax.jit(lambda a, b: jax.lax.dot_general(a, b, (((1,), (1,)), ((), ()))))
    return 2 * n**3 / _best_seconds(lambda: product(a, b), repeats)


@functools.cache
def memory_bandwidth(megabytes: int = 256, repeats: int = 10) -> float:
    """Bytes/s of the best of `repeats` scalings of an array far larger than the caches.

    Counts the bytes read and the bytes written. Measured once per process (1 s).
    Source: the "scale" kernel of STREAM (McCalpin 1995).

    Raises ValueError if megabytes or repeats is below 1.
    """
    if megabytes < 1 or repeats < 1:
        raise ValueError(f"megabytes={megabytes}, repeats={repeats}: accepted are 1 or more each")
    x = jnp.ones((megabytes * 250_000,), jnp.float32)
    # Donated, so that no fresh pages are handed out within the time that is taken.
    scale = jax.jit(lambda x: x * jnp.float32(1.000001), donate_argnums=0)
    holder = [x]

    def once() -> jax.Array:
        holder[0] = scale(holder[0])
        return holder[0]

    return 2 * x.nbytes / _best_seconds(once, repeats)


def describe() -> dict[str, str | int]:
    """Cores this process may use, versions and devices, to be written beside each measurement."""
    device = jax.devices()[0]
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return {
        "cores": len(affinity(0)) if affinity else os.cpu_count() or 1,
        "jax": jax.__version__,
        "platform": device.platform,
        "device_kind": device.device_kind,
        "num_devices": jax.device_count(),
    }


def _best_seconds(call: Callable[[], jax.Array], repeats: int) -> float:
    """Seconds of the fastest of `repeats` calls, after one that compiles."""
    jax.block_until_ready(call())
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        best = min(best, time.perf_counter() - start)
    return best
