"""expert_gemv: the experts of a few rows (decoding), each row with experts of its own.

    y[t] = sum_n weights[t, n] * down[e] (silu(gate[e] x[t]) * up[e] x[t]),   e = index[t, n]

Letters: T rows, N experts of a row, E experts, F expert width, D width.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tmi_kernels.expert_gemv import reference

IMPLEMENTATIONS = ("reference", "pallas_tpu", "pallas_tpu_interpret")


def expert_gemv(
    x: Float[Array, "T D"],
    index: Int[Array, "T N"],
    weights: Float[Array, "T N"],
    gate: Float[Array, "E F D"],
    up: Float[Array, "E F D"],
    down: Float[Array, "E D F"],
    *,
    implementation: str = "reference",
) -> Float[Array, "T D"]:
    """The weighted sum of each row's experts, f32.

    x and the banks are all float32 or all bfloat16; products accumulate in f32 and the hidden layer
    is rounded to the banks' type. index is int32 within 0..E-1 (values are not checked: they are
    known on the device only), weights are float32.

    implementation: "reference" (jnp, every platform, differentiable), "pallas_tpu" (TPUs; reads
    each chosen expert once and no other), "pallas_tpu_interpret" (the same kernel step by step on
    any platform, for tests). Raises ValueError if an argument cannot work, and
    NotImplementedError, when the program is compiled, if the implementation does not run there.
    """
    _check(x, index, weights, gate, up, down)
    if implementation == "reference":
        return reference.expert_gemv(x, index, weights, gate, up, down)
    if implementation in ("pallas_tpu", "pallas_tpu_interpret"):
        # Imported by those who want it: Pallas takes longer to import than nano to answer.
        from tmi_kernels.expert_gemv import pallas_tpu

        interpret = implementation == "pallas_tpu_interpret"
        return pallas_tpu.expert_gemv(x, index, weights, gate, up, down, interpret=interpret)
    accepted = ", ".join(map(repr, IMPLEMENTATIONS))
    raise ValueError(f"expert_gemv: implementation={implementation!r}; accepted: {accepted}")


def _check(x, index, weights, gate, up, down) -> None:
    def require(ok: bool, name: str, array, accepted: str) -> None:
        if not ok:
            raise ValueError(
                f"expert_gemv: {name} is {array.dtype}{list(array.shape)}; accepted: {accepted}"
            )

    kinds = (jnp.float32, jnp.bfloat16)
    require(x.ndim == 2 and x.dtype in kinds, "x", x, "float32 or bfloat16 [T, D]")
    require(0 not in x.shape, "x", x, "one row at least")
    t, d = x.shape
    rows = f"[T={t}, N], N at least 1"
    ok = index.ndim == 2 and index.shape[0] == t and index.shape[1] > 0
    require(ok and index.dtype == jnp.int32, "index", index, f"int32 {rows}")
    ok = weights.shape == index.shape and weights.dtype == jnp.float32
    require(ok, "weights", weights, f"float32 {list(index.shape)}, as index")
    ok = gate.ndim == 3 and gate.shape[2] == d and 0 not in gate.shape
    require(ok and gate.dtype == x.dtype, "gate", gate, f"{x.dtype} [E, F, D={d}], as x")
    e, f, _ = gate.shape
    for name, bank, shape in (("up", up, (e, f, d)), ("down", down, (e, d, f))):
        ok = bank.shape == shape and bank.dtype == x.dtype
        require(ok, name, bank, f"{x.dtype} {list(shape)}, from gate {list(gate.shape)}")
