"""dot: a dense product whose rows do not know of each other.

    y[m] = w x[m]

Weights are stored [out, in]. Letters: M rows, K what is contracted, N what comes out.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from tmi_kernels.dot import reference

IMPLEMENTATIONS = ("reference", "pallas_tpu", "pallas_tpu_interpret")


def dot(
    x: Float[Array, "*M K"],
    w: Float[Array, "N K"],
    *,
    out_dtype=None,
    implementation: str = "reference",
) -> Float[Array, "*M N"]:
    """x w^T, accumulated in f32 and rounded once, to `out_dtype` (that of x if None).

    x and w are both float32 or both bfloat16. Differentiable.

    implementation: "reference" (jnp, every platform), "pallas_tpu" (TPUs; a row's bits depend on
    that row and w alone, so one row has the bits that it has among thousands, and so has its
    gradient), "pallas_tpu_interpret" (the same kernel step by step on any platform, for tests).
    Raises ValueError if an argument cannot work, and NotImplementedError, when the program is
    compiled, if the implementation does not run there.
    """
    out_dtype = _check(x, w, out_dtype)
    if implementation == "reference":
        return reference.dot(x, w, out_dtype)
    if implementation in ("pallas_tpu", "pallas_tpu_interpret"):
        # Imported by those who want it: Pallas takes longer to import than nano to answer.
        from tmi_kernels.dot import pallas_tpu

        interpret = implementation == "pallas_tpu_interpret"
        return pallas_tpu.dot(x, w, out_dtype, interpret=interpret)
    accepted = ", ".join(map(repr, IMPLEMENTATIONS))
    raise ValueError(f"dot: implementation={implementation!r}; accepted: {accepted}")


def _check(x, w, out_dtype):
    def require(ok: bool, name: str, array, accepted: str) -> None:
        if not ok:
            raise ValueError(
                f"dot: {name} is {array.dtype}{list(array.shape)}; accepted: {accepted}"
            )

    kinds = (jnp.float32, jnp.bfloat16)
    require(x.ndim >= 1 and x.dtype in kinds, "x", x, "float32 or bfloat16 [..., K]")
    require(0 not in x.shape, "x", x, "one row at least, of one number at least")
    k = x.shape[-1]
    ok = w.ndim == 2 and w.shape[1] == k and w.shape[0] > 0 and w.dtype == x.dtype
    require(ok, "w", w, f"{x.dtype} [N, K={k}], as x")
    out_dtype = jnp.dtype(out_dtype or x.dtype)
    if out_dtype not in kinds:
        raise ValueError(f"dot: out_dtype={out_dtype}; accepted: float32 or bfloat16")
    return out_dtype
