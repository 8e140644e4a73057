"""ragged_dot: rows sorted by group, each times the weights of its group.

    ragged_dot      y[m] = w[e] x[m],   e the group of row m
    ragged_swiglu   h[m] = silu(gate[e] x[m]) * up[e] x[m]

Letters: M rows, E groups (experts), K what is contracted, N what comes out.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tmi_kernels.ragged_dot import reference

IMPLEMENTATIONS = ("reference", "pallas_tpu", "pallas_tpu_interpret")


def ragged_dot(
    x: Float[Array, "M K"],
    w: Float[Array, "E N K"],
    group_sizes: Int[Array, " E"],
    *,
    out_dtype=None,
    implementation: str = "reference",
) -> Float[Array, "M N"]:
    """Each row of x times w^T of its group, accumulated in f32 and rounded once, to `out_dtype`
    (that of x if None).

    The first group_sizes[0] rows are of group 0, the next group_sizes[1] of group 1, and so on;
    rows beyond the last group give zeros and groups may be empty. group_sizes is int32, none
    negative, M together at most (values are not checked: they are known on the device only). x and
    w are both float32 or both bfloat16. Differentiable in x and w.

    implementation: "reference" (jnp, every platform), "pallas_tpu" (TPUs; a row's bits depend on
    that row and the weights of its group alone: not on how many rows there are, on where it stands
    nor on what the others hold), "pallas_tpu_interpret" (the same kernel step by step on any
    platform, for tests). Raises ValueError if an argument cannot work, and NotImplementedError,
    when the program is compiled, if the implementation does not run there.
    """
    out_dtype = jnp.dtype(out_dtype or x.dtype)
    _check("ragged_dot", x, group_sizes, out_dtype, w=w)
    if (pallas := _pallas("ragged_dot", implementation)) is None:
        return reference.ragged_dot(x, w, group_sizes, out_dtype)
    interpret = implementation == "pallas_tpu_interpret"
    return pallas.ragged_dot(x, w, group_sizes, out_dtype, interpret=interpret)


def ragged_swiglu(
    x: Float[Array, "M K"],
    gate: Float[Array, "E N K"],
    up: Float[Array, "E N K"],
    group_sizes: Int[Array, " E"],
    *,
    implementation: str = "reference",
) -> Float[Array, "M N"]:
    """The hidden layer of each row's gated MLP, in f32 and rounded once, to the type of x.

    Rows, groups, types, implementations and errors are those of `ragged_dot`. Differentiable in x,
    gate and up.
    """
    _check("ragged_swiglu", x, group_sizes, x.dtype, gate=gate, up=up)
    if gate.shape != up.shape:
        raise ValueError(f"ragged_swiglu: up is {list(up.shape)}; accepted: {list(gate.shape)}")
    if (pallas := _pallas("ragged_swiglu", implementation)) is None:
        return reference.ragged_swiglu(x, gate, up, group_sizes)
    interpret = implementation == "pallas_tpu_interpret"
    return pallas.ragged_swiglu(x, gate, up, group_sizes, interpret=interpret)


def _pallas(op: str, implementation: str):
    """The module of the kernels, None for the reference."""
    if implementation not in IMPLEMENTATIONS:
        accepted = ", ".join(map(repr, IMPLEMENTATIONS))
        raise ValueError(f"{op}: implementation={implementation!r}; accepted: {accepted}")
    if implementation == "reference":
        return None
    # Imported by those who want it: Pallas takes longer to import than nano to answer.
    from tmi_kernels.ragged_dot import pallas_tpu

    return pallas_tpu


def _check(op: str, x, group_sizes, out_dtype, **banks) -> None:
    def require(ok: bool, name: str, array, accepted: str) -> None:
        if not ok:
            raise ValueError(
                f"{op}: {name} is {array.dtype}{list(array.shape)}; accepted: {accepted}"
            )

    kinds = (jnp.float32, jnp.bfloat16)
    require(x.ndim == 2 and x.dtype in kinds, "x", x, "float32 or bfloat16 [M, K]")
    require(0 not in x.shape, "x", x, "one row at least, of one number at least")
    k = x.shape[1]
    for name, w in banks.items():
        ok = w.ndim == 3 and w.shape[2] == k and 0 not in w.shape and w.dtype == x.dtype
        require(ok, name, w, f"{x.dtype} [E, N, K={k}], as x")
        ok = group_sizes.shape == w.shape[:1] and group_sizes.dtype == jnp.int32
        require(ok, "group_sizes", group_sizes, f"int32 [E={w.shape[0]}]")
    if out_dtype not in kinds:
        raise ValueError(f"{op}: out_dtype={out_dtype}; accepted: float32 or bfloat16")
