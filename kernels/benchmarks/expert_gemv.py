"""Time of expert_gemv at a named shape, and the rate at which it reads the chosen experts.

    python kernels/benchmarks/expert_gemv.py --shape=nano --implementation=reference
    python kernels/benchmarks/expert_gemv.py --shape=tml_small --dtype=bfloat16 \\
        --implementation=pallas_tpu                 # on a TPU with 16 GB: --experts=128

Decoding reads each chosen expert once: bytes a second against the memory's bandwidth say how good
an implementation is. Prints one JSON object.
"""

from __future__ import annotations

import dataclasses
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from tmi_kernels.expert_gemv import IMPLEMENTATIONS, expert_gemv
from tmi_kernels.shapes import EXPERT_GEMV, ExpertShape

_SHAPE = flags.DEFINE_enum("shape", "nano", list(EXPERT_GEMV), "A name of tmi_kernels/shapes.py.")
_IMPLEMENTATION = flags.DEFINE_enum("implementation", "reference", IMPLEMENTATIONS, "Which one.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of x and the banks.")
_ROWS = flags.DEFINE_integer("rows", None, "Rows, if others than the shape's.", lower_bound=1)
_EXPERTS = flags.DEFINE_integer("experts", None, "Experts, if fewer fit here.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 20, "Timed calls.", lower_bound=1)


def arguments(s: ExpertShape, dtype: str) -> tuple[jax.Array, ...]:
    """x, index, weights, gate, up, down; made on the device, since banks may be gigabytes."""
    rng = np.random.default_rng(0)
    index = np.stack([rng.permutation(s.experts)[: s.choices] for _ in range(s.rows)])
    keys = jax.random.split(jax.random.key(0), 5)

    def normal(key, *shape):
        return jax.random.normal(key, shape, dtype) * shape[-1] ** -0.5

    e, f, d = s.experts, s.expert_width, s.width
    return (
        normal(keys[0], s.rows, d),
        jnp.asarray(index, jnp.int32),
        jax.nn.softmax(jax.random.normal(keys[1], index.shape, jnp.float32)),
        normal(keys[2], e, f, d),
        normal(keys[3], e, f, d),
        normal(keys[4], e, d, f),
    )


def measure(s: ExpertShape, dtype: str, implementation: str, repeats: int) -> dict:
    """Milliseconds a call (best and median of `repeats`) and gigabytes of chosen experts a second,
    each expert counted once."""
    args = arguments(s, dtype)
    run = jax.jit(lambda *a: expert_gemv(*a, implementation=implementation))
    jax.block_until_ready(run(*args))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run(*args))
        times.append(time.perf_counter() - start)
    distinct = len(np.unique(args[1]))
    read = 3 * distinct * s.expert_width * s.width * jnp.dtype(dtype).itemsize
    return {
        "implementation": implementation,
        "device": jax.devices()[0].device_kind,
        "dtype": dtype,
        **dataclasses.asdict(s),
        "distinct_experts": distinct,
        "best_ms": round(min(times) * 1e3, 4),
        "median_ms": round(float(np.median(times)) * 1e3, 4),
        "read_gb_per_s": round(read / min(times) / 1e9, 2),
    }


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"{argv[1]!r} is no flag; accepted are those of --help")
    s = EXPERT_GEMV[_SHAPE.value]
    s = dataclasses.replace(s, rows=_ROWS.value or s.rows, experts=_EXPERTS.value or s.experts)
    if s.experts < s.choices:
        raise app.UsageError(f"--experts={s.experts}: at least the {s.choices} choices of a row")
    print(json.dumps(measure(s, _DTYPE.value, _IMPLEMENTATION.value, _REPEATS.value)))


if __name__ == "__main__":
    app.run(main)
