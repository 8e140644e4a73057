"""Where the user points, with a mouse or a finger.

An event is 8 bytes, x and y as little-endian float32: `event` makes one. Both lie in [0, 1] of what
is shown, x to the right and y down. The last two of a slice are read, so that a move has a
direction; while nothing moves no event comes, and no position is spent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from tmi.config import Config
from tmi.models.layers import dot, rms_norm, weight

SHAPE, DTYPE = (2,), np.float32
MOST = 2
OCTAVES = 6  # of the Fourier features: the finest tells 1/64 of the screen apart


def event(time_s: float, x: float, y: float) -> tuple[float, bytes]:
    """What a record or a live session takes."""
    return time_s, np.array([x, y], "<f4").tobytes()


def slots(config: Config) -> int:
    # A micro-turn has two positions besides: no session is cut for want of these.
    return config.data.row_length // 2


def init() -> None:
    return None


def step(
    state: None, events: Sequence[tuple[float, bytes]], start_s: float, end_s: float
) -> tuple[None, np.ndarray | None]:
    """x, y float32 [n <= 2, 2]. Raises ValueError for a wrong size and a place off the screen."""
    places = [_place(time_s, data) for time_s, data in events]
    return None, np.stack(places[-MOST:]) if places else None


def _place(time_s: float, data: bytes) -> np.ndarray:
    if len(data) != 8:
        raise ValueError(
            f"the pointer event at {time_s} s has {len(data)} bytes; accepted are 8, "
            "x and y as little-endian float32"
        )
    place = np.frombuffer(data, "<f4").astype(DTYPE)
    if not ((place >= 0) & (place <= 1)).all():  # nor is NaN
        raise ValueError(
            f"the pointer event at {time_s} s is at {tuple(place.tolist())}; "
            "accepted are finite x and y in [0, 1]"
        )
    return place


class Tower(nnx.Module):
    """Fourier features of x and y (arXiv 2006.10739), then two layers."""

    def __init__(self, config: Config, key: Array):
        d, k = config.model.width, jax.random.split(key, 2)
        self.up = weight(k[0], d, 4 * OCTAVES, ("mlp", None))
        self.down = weight(k[1], d, d, ("embed", "mlp"))

    def __call__(self, places: Float[Array, "B N 2"]) -> Float[Array, "B N D"]:
        phase = places[..., None] * (math.pi * 2.0 ** jnp.arange(OCTAVES))
        features = jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=-1)
        x = dot(features.reshape(*places.shape[:2], -1), self.up[...])
        return rms_norm(dot(jax.nn.gelu(x), self.down[...]))
