"""Time of attention at a named shape: a training row forward, with its gradients, or a chunk behind
a cache.

    python kernels/benchmarks/attention.py --shape=nano_sliding --mode=forward
    python kernels/benchmarks/attention.py --shape=tml_small_global --dtype=bfloat16 \\
        --implementation=pallas_tpu --mode=gradients                            # on a TPU
    python kernels/benchmarks/attention.py --shape=tml_small_global --dtype=bfloat16 \\
        --implementation=pallas_tpu --mode=cached --rows=4 --positions=32768

Training computes: FLOPs a second of what the mask leaves (a backward pass counts 2.5 times its
forward). Decoding reads: bytes a second of visible keys and values. Prints one JSON object.
"""

from __future__ import annotations

import dataclasses
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from tmi_kernels.attention import IMPLEMENTATIONS, attention, attention_cached
from tmi_kernels.shapes import ATTENTION, AttentionShape

MODES = ("forward", "gradients", "cached")
_SHAPE = flags.DEFINE_enum("shape", "nano_sliding", list(ATTENTION), "A name of shapes.py.")
_IMPLEMENTATION = flags.DEFINE_enum("implementation", "reference", IMPLEMENTATIONS, "Which one.")
_MODE = flags.DEFINE_enum("mode", "forward", MODES, "What is timed.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of all arrays.")
_ROWS = flags.DEFINE_integer("rows", 1, "Training rows, or slots.", lower_bound=1)
_POSITIONS = flags.DEFINE_integer(
    "positions", 2048, "Mode cached: what each slot has behind it.", lower_bound=0
)
_REPEATS = flags.DEFINE_integer("repeats", 20, "Timed calls.", lower_bound=1)


def seen_by(s: AttentionShape, position: np.ndarray) -> np.ndarray:
    """How many positions each sees."""
    if s.blocks:
        first = np.maximum(position // s.kv_block - s.blocks + 1, 0) * s.kv_block
    else:
        first = np.maximum(position - s.window + 1, 0)
    return position - first + 1


def arguments(s: AttentionShape, dtype: str, rows: int, length: int) -> list[jax.Array]:
    """q, k, v and the bias rows of `length` positions."""
    keys = jax.random.split(jax.random.key(0), 4)
    widths = (s.heads, s.key_dim), (s.kv_heads, s.key_dim), (s.kv_heads, s.dim), (s.heads, s.extent)
    q, *rest = [
        jax.random.normal(key, (rows, h, length, w), dtype)
        for key, (h, w) in zip(keys, widths, strict=True)
    ]
    return [q * s.key_dim**-0.5, *rest]


def training(s: AttentionShape, dtype: str, rows: int, implementation: str, gradients: bool):
    """What to time, and its FLOPs; a row is one session."""
    place = jnp.broadcast_to(jnp.arange(s.length, dtype=jnp.int32), (rows, s.length))
    segment = jnp.ones_like(place)

    def forward(q, k, v, rel):
        return attention(q, k, v, rel, place, segment, s, implementation=implementation)

    def loss(*args):
        return jnp.sum(forward(*args).astype(jnp.float32) ** 2)

    run = jax.jit(jax.grad(loss, (0, 1, 2, 3)) if gradients else forward)
    pairs = rows * s.heads * seen_by(s, np.arange(s.length)).sum()
    work = 2 * pairs * (s.key_dim + s.dim) * (3.5 if gradients else 1)
    return run, arguments(s, dtype, rows, s.length), float(work)


def decoding(s: AttentionShape, dtype: str, rows: int, implementation: str, positions: int):
    """What to time, and the bytes of the keys and values that a chunk sees."""
    reach = (s.blocks * s.kv_block if s.blocks else s.window) - 1
    size = -(-min(reach + s.chunk, positions + s.chunk) // s.kv_block) * s.kv_block
    # A shorter history needs a smaller ring than the span's: the blocks that there are.
    span = dataclasses.replace(s, blocks=min(s.blocks, size // s.kv_block))
    size += -(-s.chunk // s.kv_block) * s.kv_block
    caches = [jnp.zeros((rows, s.kv_heads, size, w), dtype) for w in (s.key_dim, s.dim)]
    length, count = jnp.full((rows,), positions, jnp.int32), jnp.full((rows,), s.chunk, jnp.int32)

    def run(q, k, v, rel, keys, values):
        history = (keys, values, length, count, span)
        return attention_cached(q, k, v, rel, *history, implementation=implementation)

    seen = seen_by(s, np.array([positions]))[0] + s.chunk - 1
    read = rows * s.kv_heads * seen * (s.key_dim + s.dim) * jnp.dtype(dtype).itemsize
    compiled = jax.jit(run, donate_argnums=(4, 5))

    def step(*new):
        # As a decoder: the caches are written where they lie, and go on to the next call.
        out, *caches[:] = compiled(*new, *caches)
        return out

    return step, arguments(s, dtype, rows, s.chunk), float(read)


def measure(run, args, repeats: int) -> list[float]:
    """Seconds of each call."""
    jax.block_until_ready(run(*args))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run(*args))
        times.append(time.perf_counter() - start)
    return times


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"{argv[1]!r} is no flag; accepted are those of --help")
    s, mode = ATTENTION[_SHAPE.value], _MODE.value
    common = s, _DTYPE.value, _ROWS.value, _IMPLEMENTATION.value
    if mode == "cached":
        run, args, work = decoding(*common, _POSITIONS.value)
    else:
        run, args, work = training(*common, mode == "gradients")
    times = measure(run, args, _REPEATS.value)
    rate = "read_gb_per_s" if mode == "cached" else "gflop_per_s"
    print(json.dumps({
        "implementation": _IMPLEMENTATION.value,
        "mode": mode,
        "device": jax.devices()[0].device_kind,
        "dtype": _DTYPE.value,
        "rows": _ROWS.value,
        **dataclasses.asdict(s),
        "best_ms": round(min(times) * 1e3, 4),
        "median_ms": round(float(np.median(times)) * 1e3, 4),
        rate: round(work / min(times) / 1e9, 2),
    }))  # fmt: skip


if __name__ == "__main__":
    app.run(main)
