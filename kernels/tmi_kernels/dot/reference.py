"""What dot means."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def dot(x: Float[Array, "*M K"], w: Float[Array, "N K"], out_dtype) -> Float[Array, "*M N"]:
    """See `tmi_kernels.dot`."""
    y = jax.lax.dot_general(
        x,
        w,
        (((x.ndim - 1,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,  # a TPU would round f32 operands to bf16
        preferred_element_type=jnp.float32,
    )
    return y.astype(out_dtype)
