"""What ragged_dot means."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def ragged_dot(
    x: Float[Array, "M K"], w: Float[Array, "E N K"], group_sizes: Int[Array, " E"], out_dtype
) -> Float[Array, "M N"]:
    """See `tmi_kernels.ragged_dot`."""
    y = jax.lax.ragged_dot(
        x,
        w.swapaxes(1, 2),
        group_sizes,
        precision=jax.lax.Precision.HIGHEST,  # a TPU would round f32 operands to bf16
        preferred_element_type=jnp.float32,
    )
    # What a TPU leaves in the rows of nobody is not said.
    somebody = jnp.arange(x.shape[0])[:, None] < jnp.sum(group_sizes)
    return jnp.where(somebody, y, 0.0).astype(out_dtype)


def ragged_swiglu(
    x: Float[Array, "M K"],
    gate: Float[Array, "E N K"],
    up: Float[Array, "E N K"],
    group_sizes: Int[Array, " E"],
) -> Float[Array, "M N"]:
    """See `tmi_kernels.ragged_dot`."""
    a, b = (ragged_dot(x, w, group_sizes, jnp.float32) for w in (gate, up))
    return (jax.nn.silu(a) * b).astype(x.dtype)
