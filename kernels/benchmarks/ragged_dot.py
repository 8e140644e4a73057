"""Time of ragged_dot at a named shape, and the rate at which it computes.

    python kernels/benchmarks/ragged_dot.py --shape=nano --implementation=reference
    python kernels/benchmarks/ragged_dot.py --shape=tml_small --dtype=bfloat16 \\
        --implementation=pallas_tpu --gradient

Groups have unequal sizes, drawn with a fixed seed: what a router does before it is balanced. Prints
one JSON object.
"""

from __future__ import annotations

import dataclasses
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from tmi_kernels.ragged_dot import IMPLEMENTATIONS, ragged_dot
from tmi_kernels.shapes import RAGGED_DOT, RaggedShape

_SHAPE = flags.DEFINE_enum("shape", "nano", list(RAGGED_DOT), "A name of tmi_kernels/shapes.py.")
_IMPLEMENTATION = flags.DEFINE_enum("implementation", "reference", IMPLEMENTATIONS, "Which one.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of x and w.")
_ROWS = flags.DEFINE_integer("rows", None, "Rows, if others than the shape's.", lower_bound=1)
_GRADIENT = flags.DEFINE_bool("gradient", False, "The gradients of x and w as well.")
_REPEATS = flags.DEFINE_integer("repeats", 20, "Timed calls.", lower_bound=1)


def sizes_of(s: RaggedShape) -> jax.Array:
    """int32 [groups], `rows` together; the largest groups have several times the mean."""
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.multinomial(s.rows, rng.dirichlet(np.ones(s.groups))), jnp.int32)


def measure(s: RaggedShape, dtype: str, implementation: str, gradient: bool, repeats: int) -> dict:
    """Milliseconds a call (best and median of `repeats`) and operations a second, those of rows
    with the weights of their own group."""
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (s.rows, s.width), dtype)
    w = jax.random.normal(keys[1], (s.groups, s.out, s.width), dtype) * s.width**-0.5
    sizes = sizes_of(s)

    def loss(x, w, sizes):
        y = ragged_dot(x, w, sizes, out_dtype=jnp.float32, implementation=implementation)
        return jnp.sum(jnp.square(y))

    def forward(x, w, sizes):
        return ragged_dot(x, w, sizes, implementation=implementation)

    run = jax.jit(jax.grad(loss, argnums=(0, 1)) if gradient else forward)
    jax.block_until_ready(run(x, w, sizes))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run(x, w, sizes))
        times.append(time.perf_counter() - start)
    best = min(times)
    products = 3 if gradient else 1
    return {
        "implementation": implementation,
        "device": jax.devices()[0].device_kind,
        "dtype": dtype,
        "gradient": gradient,
        **dataclasses.asdict(s),
        "largest_group": int(sizes.max()),
        "best_ms": round(best * 1e3, 4),
        "median_ms": round(float(np.median(times)) * 1e3, 4),
        "gflop_per_s": round(products * 2 * s.rows * s.width * s.out / best / 1e9, 2),
    }


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"{argv[1]!r} is no flag; accepted are those of --help")
    s = RAGGED_DOT[_SHAPE.value]
    s = dataclasses.replace(s, rows=_ROWS.value or s.rows)
    out = measure(s, _DTYPE.value, _IMPLEMENTATION.value, _GRADIENT.value, _REPEATS.value)
    print(json.dumps(out))


if __name__ == "__main__":
    app.run(main)
