"""What expert_gemv means: gather the experts of each row, multiply."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def expert_gemv(
    x: Float[Array, "T D"],
    index: Int[Array, "T N"],
    weights: Float[Array, "T N"],
    gate: Float[Array, "E F D"],
    up: Float[Array, "E F D"],
    down: Float[Array, "E D F"],
) -> Float[Array, "T D"]:
    """See `tmi_kernels.expert_gemv`. Takes memory for the T * N experts that it gathers."""

    def product(equation, a, b):
        # Highest: a TPU would round f32 operands to bf16.
        return jnp.einsum(
            equation,
            a,
            b,
            preferred_element_type=jnp.float32,
            precision=jax.lax.Precision.HIGHEST,
        )

    h = jax.nn.silu(product("td,tnfd->tnf", x, gate[index]))
    h = h * product("td,tnfd->tnf", x, up[index])
    y = product("tnf,tndf->tnd", h.astype(down.dtype), down[index])
    return jnp.sum(weights[..., None] * y, axis=1)
