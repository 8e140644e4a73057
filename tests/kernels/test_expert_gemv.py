"""The kernel equals its reference, reads what was chosen only, and raises where it cannot run."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import nano
from tests.kernels.conftest import shapes
from tmi import config as config_lib
from tmi.models import moe
from tmi_kernels.expert_gemv import IMPLEMENTATIONS, expert_gemv, pallas_tpu
from tmi_kernels.shapes import EXPERT_GEMV, ExpertShape

SMALL = ExpertShape(rows=3, width=24, experts=7, expert_width=16, choices=2)


def arguments(s: ExpertShape, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    e, f, d = s.experts, s.expert_width, s.width

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape) / shape[-1] ** 0.5, dtype)

    index = np.stack([rng.permutation(e)[: s.choices] for _ in range(s.rows)]).astype(np.int32)
    weights = jnp.asarray(rng.uniform(0.1, 1, index.shape), jnp.float32)
    x = jnp.asarray(rng.normal(size=(s.rows, d)), dtype)
    return x, jnp.asarray(index), weights, normal(e, f, d), normal(e, f, d), normal(e, d, f)


def interpreted(*args):
    return np.asarray(expert_gemv(*args, implementation="pallas_tpu_interpret"))


@pytest.mark.parametrize(
    ("shape", "dtype", "tolerance"),
    [
        (SMALL, jnp.float32, 1e-5),
        (SMALL, jnp.bfloat16, 1e-2),
        (EXPERT_GEMV["nano"], jnp.float32, 1e-5),
        (dataclasses.replace(SMALL, rows=1, expert_width=384), jnp.float32, 1e-5),
    ],
)
def test_kernel_equals_reference(shape, dtype, tolerance, monkeypatch):
    monkeypatch.setattr(pallas_tpu, "WEIGHT_BYTES", 100_000)  # of 384 rows, 128 at a time
    args = arguments(shape, dtype)
    got, want = interpreted(*args), expert_gemv(*args)
    assert got.shape == want.shape == args[0].shape and got.dtype == want.dtype == np.float32
    assert np.abs(want).max() > 0.05
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def test_experts_that_nobody_chose_are_not_read():
    x, index, weights, *banks = arguments(SMALL)
    unchosen = ~np.isin(np.arange(SMALL.experts), index)
    assert unchosen.any()
    spoiled = [jnp.where(unchosen[:, None, None], jnp.nan, b) for b in banks]
    np.testing.assert_array_equal(
        interpreted(x, index, weights, *spoiled), interpreted(x, index, weights, *banks)
    )


def test_rows_do_not_see_each_other():
    x, index, weights, *banks = arguments(SMALL)
    alone = interpreted(x, index, weights, *banks)[0]
    x = x.at[1:].set(jnp.inf)
    index = index.at[1].set(index[0]).at[2].set((index[2] + 1) % SMALL.experts)
    beside = interpreted(x, index, weights, *banks)
    np.testing.assert_array_equal(beside[0], alone)
    assert not np.isfinite(beside[1:]).any()


def test_no_copy_races(race_free, quickly):
    args = arguments(SMALL)
    got = race_free(lambda mode: pallas_tpu.expert_gemv(*args, interpret=mode))
    np.testing.assert_allclose(got, expert_gemv(*args), rtol=1e-5, atol=1e-5)


slots = jax.jit(pallas_tpu.schedule, static_argnums=1)


@given(st.lists(st.integers(0, 8), min_size=12, max_size=12))
def test_the_grid_has_each_chosen_expert_once(choices):
    order, count = slots(np.array(choices, np.int32).reshape(4, 3), 9)
    n = int(count[0])
    assert order.shape == (9,)
    assert order[:n].tolist() == sorted(set(choices))
    assert set(order[n:].tolist()) <= {max(choices)}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("x", lambda a: a[0]),
        ("x", lambda a: a.astype(jnp.float16)),
        ("x", lambda a: a[:0]),
        ("index", lambda a: a.astype(jnp.float32)),
        ("index", lambda a: a[:1]),
        ("weights", lambda a: a[:, :1]),
        ("gate", lambda a: a[..., :-1]),
        ("gate", lambda a: a.astype(jnp.bfloat16)),
        ("up", lambda a: a[:, 1:]),
        ("down", lambda a: a.transpose(0, 2, 1)),
    ],
)
def test_what_cannot_work_is_named(name, change):
    names = ("x", "index", "weights", "gate", "up", "down")
    args = [change(a) if n == name else a for n, a in zip(names, arguments(SMALL), strict=True)]
    with pytest.raises(ValueError, match=f"expert_gemv: {name} is .*; accepted: "):
        expert_gemv(*args)


def test_an_unknown_implementation_is_named():
    with pytest.raises(ValueError, match="'cuda'; accepted: 'reference', 'pallas_tpu'"):
        expert_gemv(*arguments(SMALL), implementation="cuda")


def test_a_kernel_that_cannot_run_here_raises():
    with pytest.raises(NotImplementedError, match="'pallas_tpu' runs on tpu and .* for cpu here"):
        expert_gemv(*arguments(SMALL), implementation="pallas_tpu")


def test_a_gradient_of_the_kernel_is_refused():
    def loss(*args):
        return jnp.sum(expert_gemv(*args, implementation="pallas_tpu_interpret"))

    with pytest.raises(NotImplementedError, match="no gradient; accepted in training: .*reference"):
        jax.grad(loss)(*arguments(SMALL))


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("shape", EXPERT_GEMV.values(), ids=EXPERT_GEMV)
def test_named_shapes_fit(shape, itemsize):
    tile = pallas_tpu.tile_width(shape.rows, shape.width, shape.expert_width, itemsize)
    assert shape.expert_width % tile == 0
    assert 6 * tile * shape.width * itemsize <= pallas_tpu.WEIGHT_BYTES


@pytest.mark.parametrize("sizes", [(1, 8192, 2000, 2), (4096, 4096, 2048, 2)])
def test_what_does_not_fit_raises(sizes):
    with pytest.raises(ValueError, match="MiB of VMEM; accepted: at most 32 MiB"):
        pallas_tpu.tile_width(*sizes)


def test_named_shapes_are_those_of_the_configs():
    m, s = nano.get_config().model, EXPERT_GEMV["nano"]
    assert (s.width, s.expert_width) == (m.width, m.expert_width)
    assert (s.experts, s.choices) == (m.num_experts, m.num_experts_per_token)
    # Fewer than all experts are wanted.
    assert all(s.rows * s.choices < s.experts for s in EXPERT_GEMV.values())


def test_the_model_names_the_implementation():
    # So many experts that those of the rows are gathered.
    many = dataclasses.replace(SMALL, experts=1 + moe.READ_MORE * SMALL.rows * SMALL.choices)
    args = arguments(many)
    np.testing.assert_array_equal(moe.few_rows(*args), expert_gemv(*args))
    args = arguments(SMALL)
    want = expert_gemv(*args)
    np.testing.assert_allclose(moe.few_rows(*args), want, atol=1e-6)
    got = moe.few_rows(*args, implementation="pallas_tpu_interpret")
    np.testing.assert_allclose(got, want, atol=1e-6)

    c = config_lib.Config()
    assert c.model.experts == "reference"
    c = config_lib.default()
    c.model.experts = "no_such"
    with pytest.raises(config_lib.ConfigError, match="config.model.experts='no_such'.*'reference'"):
        config_lib.from_config_dict(c)
    c.model.experts, c.model.num_experts = "pallas_tpu", 64
    model = config_lib.from_config_dict(c).model
    assert model.experts in IMPLEMENTATIONS
    small = dataclasses.replace(model, width=16, expert_width=8)
    with pytest.raises(NotImplementedError, match="pallas_tpu"):
        moe.MoE(small, jax.random.key(0))(jnp.ones((2, 16)))


@pytest.mark.tpu
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("shape", shapes(EXPERT_GEMV))
def test_it_compiles_for_tpus(shape, dtype, compile_for_tpu):
    t, n, e, f, d = shape.rows, shape.choices, shape.experts, shape.expert_width, shape.width
    if dtype == jnp.float32 and e > 64:
        e = 64  # 26 GB of f32 experts exceed a v5e's memory; the kernel is the same
    compiled = compile_for_tpu(
        functools.partial(expert_gemv, implementation="pallas_tpu"),
        ((t, d), dtype), ((t, n), jnp.int32), ((t, n), jnp.float32),
        ((e, f, d), dtype), ((e, f, d), dtype), ((e, d, f), dtype),
    )  # fmt: skip
    # No copy of a large expert is made: the banks are read where they lie.
    assert compiled.memory_analysis().temp_size_in_bytes < 2**21
