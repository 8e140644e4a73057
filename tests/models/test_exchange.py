"""Experts spread over eight virtual devices answer as one device does."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType

from tmi.config import MESH_AXES
from tmi.mesh import RULES, on
from tmi.models import exchange
from tmi.models.grouped import ragged, sorted_rows, tiled
from tmi.models.moe import BANK_AXES, highest

ROWS, WIDTH, MLP, EXPERTS, CHOSEN = 48, 16, 8, 8, 3


def mesh_of(*sizes):
    kinds = (AxisType.Auto,) * len(MESH_AXES)
    devices = jax.devices()[: int(np.prod(sizes))]
    return jax.make_mesh(sizes, MESH_AXES, axis_types=kinds, devices=devices)


def inputs(seed=0, rows=ROWS, skewed=False):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, WIDTH)).astype(np.float32)
    scores = rng.random((rows, EXPERTS)).astype(np.float32)
    if skewed:  # everybody wants the first device's experts
        scores[:, 2:] -= 2
    index = highest(jnp.asarray(scores), CHOSEN)
    weights = rng.random((rows, CHOSEN)).astype(np.float32)
    banks = [rng.standard_normal(s).astype(np.float32) / 4 for s in
             ((EXPERTS, MLP, WIDTH), (EXPERTS, MLP, WIDTH), (EXPERTS, WIDTH, MLP))]  # fmt: skip
    return x, index, weights, *banks


def spread(kind, mesh, x, index, weights, *banks, grouped="tiles"):
    specs = tuple(RULES.spec(a, b.shape, mesh) for a, b in zip(BANK_AXES, banks, strict=True))
    run = functools.partial(exchange.over_mesh, kind, grouped, mesh, specs)
    return on(mesh, run)(x, index, weights, *banks)


def value_and_gradients(run, args):
    x, index, weights, *banks = args

    def loss(x, weights, *banks):
        y = run(x, index, weights, *banks)
        return jnp.sum(y * jnp.cos(jnp.arange(y.size, dtype=y.dtype).reshape(y.shape))), y

    f = jax.value_and_grad(loss, argnums=tuple(range(2 + len(banks))), has_aux=True)
    (_, y), grads = jax.jit(f)(x, weights, *banks)
    return y, grads


@pytest.mark.parametrize("kind", ["padded", "ring"])
@pytest.mark.parametrize(
    "sizes", [(1, 1, 8, 1, 1), (1, 2, 4, 1, 1), (2, 1, 2, 1, 2), (1, 2, 2, 2, 1), (2, 2, 1, 1, 2)]
)
def test_every_mesh_gives_the_values_and_gradients_of_one_device(kind, sizes):
    args = inputs(skewed=sizes[2] == 4)
    want, want_grads = value_and_gradients(tiled, args)
    y, grads = value_and_gradients(functools.partial(spread, kind, mesh_of(*sizes)), args)
    np.testing.assert_allclose(y, want, atol=2e-5)
    for a, b in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5)


@pytest.mark.parametrize("sizes", [(1, 1, 8, 1, 1), (2, 1, 2, 1, 2)])
def test_rows_that_travel_in_turn_get_the_values_and_gradients_of_one_device(sizes, monkeypatch):
    monkeypatch.setattr(exchange, "MANY_ROWS", 0)
    args = inputs(1)
    want, want_grads = value_and_gradients(tiled, args)
    y, grads = value_and_gradients(functools.partial(spread, "ring", mesh_of(*sizes)), args)
    np.testing.assert_allclose(y, want, atol=2e-5)
    for a, b in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5)


@pytest.mark.parametrize("skewed", [False, True])
def test_a_ring_with_room_for_what_usually_comes_drops_nothing_where_more_comes(
    skewed, monkeypatch
):
    monkeypatch.setattr(exchange, "MANY_ROWS", 0)
    args = inputs(2, rows=192, skewed=skewed)
    want, want_grads = value_and_gradients(tiled, args)
    run = functools.partial(spread, "ring", mesh_of(1, 2, 4, 1, 1), grouped="ragged_dot")
    y, grads = value_and_gradients(run, args)
    np.testing.assert_allclose(y, want, atol=2e-5)
    for a, b in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5)


def test_room_for_most_rows_gives_the_values_and_gradients_of_room_for_all():
    x, index, weights, *banks = inputs(7)
    index = jnp.where(index < 3, index, EXPERTS)  # the rest is nobody's
    weights = jnp.where(index < 3, weights, 0.0)
    banks = [bank[:3] for bank in banks]
    index = jnp.minimum(index, 3)
    rows = int(jnp.sum(index < 3))
    args = (x, index, weights, *banks)
    want, want_grads = value_and_gradients(ragged, args)
    for most in (rows + 5, rows, rows - 1):
        y, grads = value_and_gradients(functools.partial(ragged, most=most), args)
        np.testing.assert_allclose(y, want, atol=1e-6)
        for a, b in zip(grads, want_grads, strict=True):
            if a.shape == weights.shape:  # that of nobody's weight is whatever it is
                a, b = (jnp.where(index < 3, g, 0.0) for g in (a, b))
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_padded_exchange_has_the_bits_of_one_device():
    args = inputs(3)
    run = jax.jit(functools.partial(spread, "padded", mesh_of(1, 2, 4, 1, 1)))
    np.testing.assert_array_equal(run(*args), jax.jit(tiled)(*args))


def test_rows_that_the_devices_do_not_divide_are_kept():
    args = inputs(4, rows=13)
    y = jax.jit(functools.partial(spread, "padded", mesh_of(1, 2, 4, 1, 1)))(*args)
    np.testing.assert_allclose(y, tiled(*args), atol=2e-5)


def test_experts_that_their_axis_does_not_divide_stay_whole():
    x, index, weights, *banks = inputs(5)
    args = (x, jnp.minimum(index, 5), weights, *(b[:6] for b in banks))
    y = jax.jit(functools.partial(spread, "padded", mesh_of(1, 2, 4, 1, 1)))(*args)
    np.testing.assert_allclose(y, tiled(*args), atol=2e-5)


def test_ragged_products_equal_tiled_ones_and_leave_out_nobodys_rows():
    x, index, weights, *banks = inputs(6)
    want, want_grads = value_and_gradients(tiled, (x, index, weights, *banks))
    y, grads = value_and_gradients(ragged, (x, index, weights, *banks))
    np.testing.assert_allclose(y, want, atol=2e-5)
    for a, b in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5)
    nobody = index.at[:, 1].set(EXPERTS)
    none = weights * np.array([1, 0, 1], np.float32)
    np.testing.assert_allclose(
        ragged(x, nobody, none, *banks), tiled(x, index, none, *banks), atol=2e-5
    )


def test_nobodys_rows_reach_nothing_whatever_a_product_leaves_there(monkeypatch):
    """jax does not say what a TPU's ragged_dot leaves behind the groups, nor in their gradients."""
    plain = jax.lax.ragged_dot

    def spoilt(x, sizes):
        mine = jnp.arange(x.shape[0]) < jnp.sum(sizes)
        return jnp.where(mine[:, None], x, jnp.nan)

    @jax.custom_vjp
    def product(x, bank, sizes):
        return spoilt(plain(x, bank, sizes), sizes)

    def forward(x, bank, sizes):
        return product(x, bank, sizes), (x, bank, sizes)

    def backward(saved, g):
        x, bank, sizes = saved
        mine = (jnp.arange(x.shape[0]) < jnp.sum(sizes))[:, None]
        x, g = jnp.where(mine, x, 0), jnp.where(mine, g, 0)  # it reads its groups alone
        dx, d_bank = jax.vjp(lambda x, bank: plain(x, bank, sizes), x, bank)[1](g)
        return spoilt(dx, sizes), d_bank, None

    product.defvjp(forward, backward)
    x, index, weights, *banks = inputs(6)
    none = weights * np.array([1, 0, 1], np.float32)
    want, want_grads = value_and_gradients(tiled, (x, index, none, *banks))
    monkeypatch.setattr(jax.lax, "ragged_dot", lambda x, bank, sizes, **_: product(x, bank, sizes))
    nobody = index.at[:, 1].set(EXPERTS)
    y, (dx, d_weights, *d_banks) = value_and_gradients(ragged, (x, nobody, none, *banks))
    np.testing.assert_allclose(y, want, atol=2e-5)
    np.testing.assert_allclose(dx, want_grads[0], atol=5e-5)
    np.testing.assert_allclose(d_weights[:, [0, 2]], want_grads[1][:, [0, 2]], atol=5e-5)
    for a, b in zip(d_banks, want_grads[2:], strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5)


@pytest.mark.parametrize("rows", range(1, 17))
def test_ragged_has_room_for_the_worst_case(rows, monkeypatch):
    """Every peer's rows to one device's experts, of an even number of rows or an odd one."""
    ep, own, n, rooms = 4, 2, 3, []

    def one(ep, swiglu, gate, up, down, room, x, index, weights):
        rooms.append((room, x.shape[0]))
        return x

    monkeypatch.setattr(exchange, "_ragged", one)
    monkeypatch.setattr(jax.lax, "psum", lambda x, axis: x)
    x, gate = jnp.zeros((rows, WIDTH)), jnp.zeros((own, MLP, WIDTH))
    index, weights = jnp.zeros((rows, n), jnp.int32), jnp.zeros((rows, n))
    jax.eval_shape(
        lambda *args: exchange.ragged_or_in_parts(ep, None, *args, gate, gate, gate),
        x, index, weights,
    )  # fmt: skip
    assert any(room >= part * ep * min(n, own) for room, part in rooms)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**31), st.integers(0, 12))
@settings(max_examples=40, deadline=None)
def test_the_ragged_plan_brings_each_row_to_its_expert_and_home(ep, own, seed, most):
    """The collective as its documentation defines it, in numpy: the CPU has none."""
    rng = np.random.default_rng(seed)
    experts = ep * own
    sent, counts = [], np.zeros((ep, experts), int)
    for s in range(ep):
        expert = np.sort(rng.integers(0, experts, rng.integers(0, most + 1)))
        sent.append([(s, i, int(e)) for i, e in enumerate(expert)])
        counts[s] = np.bincount(expert, minlength=experts)
    plans = [
        jax.tree.map(np.asarray, exchange.exchange_plan(jnp.asarray(counts), jnp.asarray(me)))
        for me in range(ep)
    ]

    def collective(operands, step, room):
        out = [[None] * room for _ in range(ep)]
        for me in range(ep):
            offsets, sizes, there, received = plans[me][step]
            for i in range(experts):
                to = i // own
                rows = operands[me][offsets[i] : offsets[i] + sizes[i]]
                assert len(rows) == sizes[i]
                assert plans[to][step][3][me * own + i % own] == sizes[i]
                for k, row in enumerate(rows):
                    assert out[to][there[i] + k] is None
                    out[to][there[i] + k] = row
            assert received.sum() <= room
        return out

    arrived = collective(sent, 0, ep * most)
    for me in range(ep):
        groups = plans[me][2]
        wanted = np.repeat(np.arange(own), groups) + me * own
        assert [row[2] for row in arrived[me] if row] == wanted.tolist()
        assert all(row is not None for row in arrived[me][: groups.sum()])
    home = collective(arrived, 1, most)
    for s in range(ep):
        assert [row for row in home[s] if row] == sent[s]


def test_sorted_rows_keep_the_order_of_equals():
    index = jnp.array([[2, 0], [0, 3], [2, 1]])
    source, dest, sizes = sorted_rows(index, 3)
    assert source.tolist() == [1, 2, 5, 0, 4, 3]  # 3 is nobody's and goes last
    assert sizes.tolist() == [2, 1, 2]
    assert source[dest.reshape(-1)].tolist() == list(range(6))


@given(st.integers(0, 2**31), st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_highest_is_top_k(seed, count):
    scores = jnp.asarray(np.random.default_rng(seed).integers(0, 4, (7, 5)).astype(np.float32))
    np.testing.assert_array_equal(highest(scores, count), jax.lax.top_k(scores, count)[1])
