"""Sampling text tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def sample_tokens(logits: Float[Array, "B V"], temperature: float, key: Array) -> Int[Array, " B"]:
    """The likeliest tokens at temperature 0, else drawn from softmax(logits / temperature)."""
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jax.random.categorical(key, logits / temperature, axis=-1).astype(jnp.int32)
