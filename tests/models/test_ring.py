"""Biases of keys in a ring, found block by block, are those looked up key by key; sessions attend
one after the other as they do beside each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmi.models import ring

looked_up = jax.jit(ring.gathered_bias)
by_blocks = jax.jit(ring.ring_bias, static_argnums=(2, 3))


@pytest.mark.parametrize(
    ("extent", "rows", "size", "block"),
    [(64, 4, 832, 64), (64, 16, 832, 64), (64, 1, 80, 64), (64, 16, 80, 64), (24, 4, 128, 64)],
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
    y = ring.of_those(jnp.array(count), lambda rows, x: 2 * x[:, :, :rows], x)
    seen = np.array(count)[:, None, None, None] > np.arange(4)[:, None]  # of valid rows
    np.testing.assert_array_equal(np.where(seen, y, 0), np.where(seen, 2 * x, 0))
    assert np.isfinite(y).all()
