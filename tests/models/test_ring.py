"""Biases of keys in a ring, found block by block, are those looked up key by key; sessions attend
one after the other, and piece by piece, as they do beside each other and at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmi import config, mesh
from tmi.models import cache, ring
from tmi.models.attention import Span

looked_up = jax.jit(ring.gathered_bias)
by_blocks = jax.jit(ring.ring_bias, static_argnums=(2, 3))


@pytest.mark.parametrize(
    ("extent", "rows", "size", "block"),
    [
        (64, 4, 832, 64),
        (64, 16, 832, 64),
        (64, 1, 80, 64),
        (64, 16, 80, 64),
        (24, 4, 128, 64),
        (64, 4, 4096, 64),
    ],
)
@settings(max_examples=15, deadline=None)
@given(lengths=st.tuples(st.integers(0, 3000), st.integers(0, 200)), seed=st.integers(0, 9))
def test_blocks_get_what_each_key_would(extent, rows, size, block, lengths, seed):
    rel = jax.random.normal(jax.random.key(seed), (2, 3, rows, extent))
    length = jnp.array(lengths)
    last = length[:, None] + rows - 1
    held = last - (last - jnp.arange(size)) % size
    distance = length[:, None, None] + jnp.arange(rows)[:, None] - held[:, None]
    want = np.array(looked_up(rel, distance))
    got = np.array(by_blocks(rel, length, size, block))
    # What lies before the session, or behind the query, is hidden.
    seen = np.broadcast_to(((distance >= 0) & (held >= 0)[:, None])[:, None], want.shape)
    np.testing.assert_array_equal(got[seen], want[seen])
    assert np.isfinite(got).all()


@settings(max_examples=15, deadline=None)
@given(count=st.lists(st.integers(0, 4), min_size=ring.MANY + 1, max_size=ring.MANY + 1))
def test_those_who_take_part_get_theirs_and_the_others_nothing(count):
    x = np.arange(8.0 * len(count), dtype=np.float32).reshape(len(count), 1, 4, 2)
    x[np.array(count) == 0] = np.nan  # is not even looked at
    y = ring.of_those(jnp.array(count), 64, lambda rows, b, x: 2 * x[:, :, :rows], x)
    seen = np.array(count)[:, None, None, None] > np.arange(4)[:, None]  # of valid rows
    np.testing.assert_array_equal(np.where(seen, y, 0), np.where(seen, 2 * x, 0))
    assert np.isfinite(y).all()


KV, HEADS, E, D, EXTENT, ROWS = 2, 4, 8, 6, 24, 3
SPAN, SIZE = Span(0, 160, 16), 161 * 16  # more than a piece, and not whole pieces


@jax.jit
def attended(q, keys, values, rel, position, held):
    """Of both sessions beside each other, at once; and of each by itself, in pieces."""
    beside = ring.attend_ring(q, keys, values, rel, position, held, SPAN, D)
    own = [
        ring.attend_ring(q[b : b + 1], keys, values, rel[b : b + 1], position[b : b + 1],
                         held[b : b + 1], SPAN, D, jnp.int32(b))
        for b in range(2)
    ]  # fmt: skip
    return beside, jnp.concatenate(own)


@settings(max_examples=15, deadline=None)
@given(length=st.tuples(st.integers(0, 6000), st.integers(0, 2600)), seed=st.integers(0, 9))
def test_pieces_of_a_ring_are_the_whole(length, seed):
    assert SIZE > ring.PIECE and SIZE % ring.PIECE
    rng = np.random.default_rng(seed)
    q, keys, values, rel = (
        jnp.asarray(2 * rng.normal(size=(2, *shape)), jnp.float32)
        for shape in ((HEADS, ROWS, E), (KV, E, SIZE), (KV, SIZE, D), (HEADS, ROWS, EXTENT))
    )
    length = jnp.array(length)
    held = cache.ring_positions(length, jnp.full(2, ROWS - 1), ROWS, SIZE)
    # What a slot holds that is nobody's must not matter.
    keys = jnp.where((held < 0)[:, None, None], 1e3, keys)
    at_once, in_pieces = attended(q, keys, values, rel, length[:, None] + jnp.arange(ROWS), held)
    np.testing.assert_allclose(in_pieces, at_once, atol=1e-5)


def test_a_kernel_has_whole_rings_of_its_heads_on_a_mesh():
    span = Span(0, 4, 16)
    rng = np.random.default_rng(0)
    q, k, v, rel, keys, values = (
        jnp.asarray(rng.normal(size=(2, *shape)), jnp.float32)
        for shape in (
            (HEADS, 16, E), (KV, 16, E), (KV, 16, D), (HEADS, 16, EXTENT), (KV, 96, E), (KV, 96, D),
        )
    )  # fmt: skip
    none = jnp.zeros((2, 1, 1))
    layer = cache.LayerCache(keys, values, none, none, none, none)
    position = jnp.array([70, 5])[:, None] + jnp.arange(16)
    devices = jax.make_mesh(
        (1, 2, 1, 1, 2), config.MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * 5
    )

    def run(*args):
        return ring.append_by_kernel(*args, position, jnp.array([3, 16]), span, "reference")

    with jax.set_mesh(devices):
        got = jax.jit(mesh.on(devices, run, mesh.SERVING))(layer, q, k, v, rel)
    want = jax.jit(run)(layer, q, k, v, rel)
    assert len(got[0].sharding.device_set) == 4
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
