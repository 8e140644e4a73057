"""Where numerics are invariant a position's bits depend on its session's history alone: not on the
chunks it came in, its neighbours in batch or row, the capacity of a cache, a gradient beside."""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.conftest import small_config
from tmi import config_rules, numerics
from tmi.models import layers, ring, tree
from tmi.models.cache import init_cache
from tmi.models.transformer import spans

ROW, LONGEST = 256, 150


@pytest.fixture(scope="module")
def config():
    return small_config(numerics="invariant", clock_digits=3)


@pytest.fixture(scope="module")
def params(config):
    rng = np.random.default_rng(0)
    return {
        k: v + (0.1 * rng.normal(size=v.shape)).astype(np.float32) if "balance" not in k else v
        for k, v in tree.init(config, jax.random.key(0)).items()
    }


def jit(config, f):
    """f(model, ...) compiled under the policy, called with parameters."""

    def of_model(params, *args):
        with numerics.use(config.model.numerics):
            return f(tree.build(config, params), *args)

    return numerics.jit(config.model.numerics, of_model)


@pytest.fixture(scope="module")
def rows(config):
    """The trainer's forward of packed rows: x, position, micro-turn, segment -> states of every
    layer, and logits."""

    def forward(model, *row):
        out = model.transformer(*row)
        return out.taps.states, model.unembed(out.hidden)

    return jit(config, forward)


def appending(config):
    def run(model, x, m, count, cache):
        hidden, cache, taps = model.append(x, m, count, cache)
        return taps.states, model.unembed(hidden), cache

    return jit(config, run)


@pytest.fixture(scope="module")
def append(config):
    return appending(config)


def session(config, seed: int, length: int):
    """Embedded positions [S, D] and their micro-turns."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(length, config.model.width)).astype(np.float32)
    return x, np.cumsum(rng.random(length) < 0.4).astype(np.int32)


def row_of(config, sessions):
    """Packed into one row, each at the beginning of a block."""
    x = np.zeros((1, ROW, config.model.width), np.float32)
    position, turn, segment = (np.zeros((1, ROW), np.int32) for _ in range(3))
    at, starts, block = 0, [], config.microturn.kv_block
    for number, (content, m) in enumerate(sessions, start=1):
        part = slice(at, at + len(m))
        x[0, part], turn[0, part], segment[0, part] = content, m, number
        position[0, part] = np.arange(len(m))
        starts.append(at)
        at += -(-len(m) // block) * block
    assert at <= ROW
    return (x, position, turn, segment), starts


def stream(append, config, params, sessions, sizes, rows, chunk):
    """Streams sessions beside each other, `sizes` positions a call, from a cache with room for
    `chunk`."""
    count = len(sessions)
    cache = init_cache(config, spans(config), count, chunk)
    done, found = [0] * count, [[] for _ in range(count)]
    rng = np.random.default_rng(0)
    while any(d < len(s[1]) for d, s in zip(done, sessions, strict=True)):
        x = rng.normal(size=(count, rows, config.model.width)).astype(np.float32)
        m, n = np.zeros((count, rows), np.int32), np.zeros(count, np.int32)
        for i, (content, turn) in enumerate(sessions):
            n[i] = min(next(sizes), rows, len(turn) - done[i])
            part = slice(done[i], done[i] + n[i])
            x[i, : n[i]], m[i, : n[i]] = content[part], turn[part]
        states, logits, cache = append(params, x, m, n, cache)
        for i in range(count):
            found[i].append((np.asarray(states)[i, : n[i]], np.asarray(logits)[i, : n[i]]))
            done[i] += int(n[i])
    return [tuple(np.concatenate(p) for p in zip(*parts, strict=True)) for parts in found]


def equal(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(np.asarray(x).view(np.uint32), np.asarray(y).view(np.uint32))


def forever(values):
    while True:
        yield from values


def test_kernels_of_training_and_decoding_give_the_same_bits(monkeypatch):
    """Attention by the TPU's kernels, step by step on this machine, all else as it is here."""
    kernel = "pallas_tpu_interpret"
    accepted = {**config_rules.NAMES, "model.attention_kernel": ("reference", kernel)}
    monkeypatch.setattr(config_rules, "NAMES", accepted)
    monkeypatch.setattr(sys.modules[__name__], "ROW", 128)  # its steps are slow here
    config = small_config(numerics="invariant", attention_kernel=kernel)
    params = tree.init(config, jax.random.key(0))
    one, two = (session(config, seed, length) for seed, length in ((0, 70), (1, 40)))
    packed, starts = row_of(config, [two, one])

    def forward(model, *row):
        out = model.transformer(*row)
        return out.taps.states, model.unembed(out.hidden)

    want = [np.asarray(y)[0] for y in jit(config, forward)(params, *packed)]
    sizes = forever([16, 1, 7])
    for found, start in zip(
        stream(appending(config), config, params, [one, two], sizes, 16, 16), starts[::-1],
        strict=True,
    ):  # fmt: skip
        equal(found, [y[start : start + len(found[0])] for y in want])


@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 99), st.integers(40, LONGEST), st.lists(st.integers(0, 16), min_size=3),
    st.integers(1, 60),
)  # fmt: skip
def test_streamed_is_packed_for_any_chunks_and_neighbours(
    config, params, rows, append, seed, length, sizes, other
):
    one, two, three = (session(config, seed + i, n) for i, n in enumerate((length, other, 70)))
    row, _ = row_of(config, [one])
    want = [np.asarray(y)[0, :length] for y in rows(params, *row)]
    packed, starts = row_of(config, [two, one])
    got = [np.asarray(y)[0, starts[1] : starts[1] + length] for y in rows(params, *packed)]
    equal(got, want)
    chunks = forever([*sizes, 1])
    together = stream(append, config, params, [three, one, two], chunks, 16, 16)
    equal(together[1], want)


@pytest.mark.parametrize(
    ("count", "rows_of_call", "chunk"),
    [(1, 1, 1), (1, 16, 16), (1, 32, 128), (2, 1, 48), (ring.MANY + 1, 4, 16)],
)
def test_streamed_is_packed_whatever_the_call(
    config, params, rows, append, count, rows_of_call, chunk
):
    sessions = [session(config, i, LONGEST - 20 * i) for i in range(count)]
    got = stream(append, config, params, sessions, forever([rows_of_call]), rows_of_call, chunk)
    for one, found in zip(sessions, got, strict=True):
        row, _ = row_of(config, [one])
        equal(found, [np.asarray(y)[0, : len(one[1])] for y in rows(params, *row)])


def test_streamed_is_packed_where_a_ring_is_long(config, params, rows, monkeypatch):
    monkeypatch.setattr(ring, "PIECE", 16)
    one = session(config, 0, LONGEST)
    got = stream(appending(config), config, params, [one], forever([1, 4, 2]), 4, 16)
    row, _ = row_of(config, [one])
    equal(got[0], [np.asarray(y)[0, :LONGEST] for y in rows(params, *row)])


@pytest.fixture(scope="module")
def gradient(config):
    """gradient(policy, remat): of a loss of packed rows, and beside it states and logits."""

    @functools.lru_cache
    def compiled(policy: str, remat: bool):
        c = dataclasses.replace(config, train=dataclasses.replace(config.train, remat=remat))

        def loss(params, *row):
            with numerics.use(policy):
                model = tree.build(c, params)
                out = model.transformer(*row)
                logits = model.unembed(out.hidden)
                return jnp.sum(jnp.sin(logits)), (out.taps.states, logits)

        return numerics.jit(policy, jax.value_and_grad(loss, has_aux=True))

    return compiled


@pytest.mark.parametrize("remat", [False, True])
def test_bits_inside_a_gradient_are_those_without(config, params, rows, gradient, remat):
    row, _ = row_of(config, [session(config, 3, LONGEST)])
    want = [np.asarray(y)[0, :LONGEST] for y in rows(params, *row)]
    (_, found), grads = gradient("invariant", remat)(params, *row)
    equal([np.asarray(y)[0, :LONGEST] for y in found], want)
    assert all(np.isfinite(g).all() for g in grads.values())


def test_gradients_are_those_of_fast_numerics(config, params, gradient, quickly):
    row, _ = row_of(config, [session(config, 3, LONGEST)])
    invariant, fast = (gradient(p, False)(params, *row)[1] for p in ("invariant", "fast"))
    for name, g in invariant.items():
        scale = 1e-6 + np.abs(fast[name]).max()
        np.testing.assert_allclose(g / scale, fast[name] / scale, atol=2e-4, err_msg=name)


def test_a_neighbour_and_a_predecessor_of_nan_touch_nobody(config, params, append):
    good, bad = session(config, 0, 60), session(config, 1, 60)
    bad[0][20:] = np.nan
    want = stream(append, config, params, [good, good], forever([16]), 16, 16)
    got = stream(append, config, params, [good, bad], forever([16]), 16, 16)
    equal(got[0], want[0])
    assert not np.isfinite(got[1][0]).all()


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([1, 2, 3, 5, 8, 15, 16, 33, 100]), st.sampled_from([24, 80, 192, 320, 600]),
    st.sampled_from([1, 9, 16, 49, 96, 512]), st.booleans(),
)  # fmt: skip
def test_a_row_of_a_product_does_not_depend_on_the_others(rows, inner, outer, batched):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, inner)).astype(np.float32)
    w = rng.normal(size=(outer, inner)).astype(np.float32)

    def product(x, w):
        with numerics.use("invariant"):
            if batched:
                return layers.contract(x[None].repeat(3, 0), w[None].repeat(3, 0))[1]
            return layers.dot(x, w)

    f = numerics.jit("invariant", product)
    whole = np.asarray(f(x, w))
    np.testing.assert_array_equal(np.asarray(f(x[:rows], w)), whole[:rows])
    np.testing.assert_allclose(whole, x @ w.T, atol=1e-3)


def test_an_unknown_policy_is_refused(config):
    with pytest.raises(ValueError, match="'exact'; accepted: 'invariant', 'fast'"):
        with numerics.use("exact"):
            pass
