"""Time of dot at a named shape, and the rates at which it computes and reads.

    python kernels/benchmarks/dot.py --shape=nano --implementation=reference
    python kernels/benchmarks/dot.py --shape=tml_small --dtype=bfloat16 --implementation=pallas_tpu

Few rows are read-bound (bytes of w a second against the memory's bandwidth), many compute-bound
(operations a second against the peak). Prints one JSON object.
"""

from __future__ import annotations

import dataclasses
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from tmi_kernels.dot import IMPLEMENTATIONS, dot
from tmi_kernels.shapes import DOT, DotShape

_SHAPE = flags.DEFINE_enum("shape", "nano", list(DOT), "A name of tmi_kernels/shapes.py.")
_IMPLEMENTATION = flags.DEFINE_enum("implementation", "reference", IMPLEMENTATIONS, "Which one.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of x and w.")
_ROWS = flags.DEFINE_integer("rows", None, "Rows, if others than the shape's.", lower_bound=1)
_GRADIENT = flags.DEFINE_bool("gradient", False, "The gradients of x and w as well.")
_REPEATS = flags.DEFINE_integer("repeats", 20, "Timed calls.", lower_bound=1)


def measure(s: DotShape, dtype: str, implementation: str, gradient: bool, repeats: int) -> dict:
    """Milliseconds a call (best and median of `repeats`), operations and bytes of w a second."""
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (s.rows, s.width), dtype)
    w = jax.random.normal(keys[1], (s.out, s.width), dtype) * s.width**-0.5

    def loss(x, w):
        return jnp.sum(jnp.square(dot(x, w, out_dtype=jnp.float32, implementation=implementation)))

    def forward(x, w):
        return dot(x, w, implementation=implementation)

    run = jax.jit(jax.grad(loss, argnums=(0, 1)) if gradient else forward)
    jax.block_until_ready(run(x, w))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run(x, w))
        times.append(time.perf_counter() - start)
    best = min(times)
    products = 3 if gradient else 1
    return {
        "implementation": implementation,
        "device": jax.devices()[0].device_kind,
        "dtype": dtype,
        "gradient": gradient,
        **dataclasses.asdict(s),
        "best_ms": round(best * 1e3, 4),
        "median_ms": round(float(np.median(times)) * 1e3, 4),
        "gflop_per_s": round(products * 2 * s.rows * s.width * s.out / best / 1e9, 2),
        "read_gb_per_s": round(w.nbytes / best / 1e9, 2),
    }


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"{argv[1]!r} is no flag; accepted are those of --help")
    s = DOT[_SHAPE.value]
    s = dataclasses.replace(s, rows=_ROWS.value or s.rows)
    out = measure(s, _DTYPE.value, _IMPLEMENTATION.value, _GRADIENT.value, _REPEATS.value)
    print(json.dumps(out))


if __name__ == "__main__":
    app.run(main)
