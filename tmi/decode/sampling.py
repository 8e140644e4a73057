"""Sampling text tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def sample_tokens(logits: Float[Array, "B V"], temperature: float, keys: Array) -> Int[Array, " B"]:
    """The likeliest tokens at temperature 0, else drawn from softmax(logits / temperature), each by
    its own key."""
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jax.vmap(jax.random.categorical)(keys, logits / temperature).astype(jnp.int32)
