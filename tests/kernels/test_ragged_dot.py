"""ragged_dot equals its reference, decoding and training experts agree in every bit, and it raises
where it cannot run."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import nano, tml_small
from tests.kernels.conftest import shapes
from tmi import config as config_lib
from tmi.models import exchange, grouped, moe
from tmi_kernels.expert_gemv import expert_gemv
from tmi_kernels.ragged_dot import pallas_tpu, ragged_dot, ragged_swiglu
from tmi_kernels.shapes import RAGGED_DOT, RaggedShape
from tmi_kernels.tiles import ROWS

SMALL = RaggedShape(rows=7, width=24, out=40, groups=4)
INTERPRET = "pallas_tpu_interpret"


def arguments(s: RaggedShape, dtype=np.float32, seed=0, sizes=None):
    """x, w, group_sizes; one group is empty and the last rows are nobody's."""
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(s.rows, s.width)), dtype)
    w = jnp.asarray(rng.normal(size=(s.groups, s.out, s.width)) / 5, dtype)
    if sizes is None:
        sizes = np.bincount(rng.integers(1, s.groups, s.rows - 2), minlength=s.groups)
    return x, w, jnp.asarray(sizes, jnp.int32)


@functools.partial(jax.jit, static_argnums=3)
def run(x, w, sizes, implementation=INTERPRET):
    return ragged_dot(x, w, sizes, out_dtype=jnp.float32, implementation=implementation)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        (SMALL, jnp.float32),
        (SMALL, jnp.bfloat16),
        (RaggedShape(rows=300, width=192, out=80, groups=8), jnp.float32),
        (RaggedShape(rows=5, width=1300, out=300, groups=2), jnp.float32),
    ],
)
def test_kernel_equals_reference(shape, dtype, monkeypatch):
    # Several blocks of columns and of the contraction, the last ones in part.
    monkeypatch.setattr(pallas_tpu, "WEIGHT_BYTES", 600_000)
    x, w, sizes = arguments(shape, dtype)
    got, want = run(x, w, sizes), run(x, w, sizes, "reference")
    assert got.shape == (shape.rows, shape.out) and got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert np.abs(want).max() > 0.5 and not np.any(got[-2:])
    y = ragged_dot(x, w, sizes, implementation="reference")
    assert y.dtype == dtype


def test_rows_do_not_see_each_other():
    x, w, _ = arguments(RaggedShape(rows=9, width=24, out=40, groups=3))
    want = np.asarray(run(x, w, jnp.array([3, 3, 3], jnp.int32)))
    # Rows go (and with them the place in a tile), groups grow, and neighbours are no numbers.
    some = x[3:].at[jnp.array([0, 5])].set(jnp.nan)
    got = np.asarray(run(some, w, jnp.array([0, 3, 3], jnp.int32)))
    np.testing.assert_array_equal(got[1:5], want[4:8])
    assert np.isnan(got[[0, 5]]).all()
    np.testing.assert_array_equal(run(x[4:5], w, jnp.array([0, 1, 0], jnp.int32))[0], want[4])


def test_gradients_equal_the_references_and_stay_in_their_group():
    x, w, sizes = arguments(RaggedShape(rows=140, width=24, out=40, groups=4))

    @functools.partial(jax.jit, static_argnums=2)
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradients(x, w, implementation):
        return jnp.sum(jnp.sin(ragged_dot(x, w, sizes, implementation=implementation)))

    got, want = gradients(x, w, INTERPRET), gradients(x, w, "reference")
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert sizes[0] == 0 and not np.any(got[1][0]) and not np.any(got[0][-2:])
    _, dw = gradients(x.at[-3].set(jnp.nan).at[-1].set(jnp.nan), w, INTERPRET)
    assert np.isnan(dw[3]).any()
    np.testing.assert_array_equal(dw[:3], got[1][:3])


def test_gradients_of_experts_equal_those_of_tiles():
    x, index, weights, *banks = expert_arguments(10, 24, 4, 16, 2, np.float32, seed=2)

    def gradients(f):
        def loss(x, weights, *banks):
            return jnp.sum(jnp.sin(f(x, index, weights, *banks)))

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3, 4)))(x, weights, *banks)

    by_kernel = functools.partial(grouped.by_kernel, implementation=INTERPRET)
    for a, b in zip(gradients(by_kernel), gradients(grouped.tiled), strict=True):
        assert a.shape == b.shape and np.abs(b).max() > 1e-3
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


list_visits = jax.jit(pallas_tpu.visits, static_argnames=("rows", "empty"))


@given(st.lists(st.integers(0, 200), min_size=4, max_size=4), st.booleans())
def test_each_group_visits_its_tiles_once_in_order(sizes, empty):
    rows = 400
    sizes = [*sizes, max(0, rows - sum(sizes))]  # too many are cut off
    group_of = np.repeat(np.arange(5), sizes)[:rows]
    v = list_visits(np.array(sizes, np.int32), rows=rows, empty=empty)
    want = []
    for e in range(5):
        tiles = sorted(set((np.flatnonzero(group_of == e) // ROWS).tolist()))
        want += [(e, tile) for tile in tiles] or [(e, None)] * empty
    got = [
        (e, tile if e in group_of else None)
        for e, tile in zip(v.group.tolist(), v.tile.tolist(), strict=True)
    ]
    count = int(v.count[0])
    assert got[:count] == want and set(got[count:]) <= {want[-1]}
    assert 0 <= v.tile.min() and v.tile.max() < -(-rows // ROWS)


def expert_arguments(rows, width, experts, expert_width, choices, dtype, seed):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape) / shape[-1] ** 0.5, dtype)

    index = np.stack([np.sort(rng.permutation(experts)[:choices]) for _ in range(rows)])
    weights = jnp.asarray(rng.uniform(0.1, 1, index.shape), jnp.float32)
    banks = (
        normal(experts, expert_width, width),
        normal(experts, expert_width, width),
        normal(experts, width, expert_width),
    )
    x = jnp.asarray(rng.normal(size=(rows, width)), dtype)
    return x, jnp.asarray(index, jnp.int32), weights, *banks


many_rows = jax.jit(functools.partial(grouped.by_kernel, implementation=INTERPRET))
few_rows = jax.jit(functools.partial(expert_gemv, implementation=INTERPRET))


@pytest.mark.parametrize(
    ("rows", "sizes", "dtype"),
    [
        (131, (24, 7, 16, 2), jnp.float32),
        (20, (24, 7, 16, 2), jnp.bfloat16),
        (20, (256, 3, 256, 2), jnp.float32),  # several chunks of each contraction
    ],
)
def test_decoding_has_the_bits_of_training(rows, sizes, dtype):
    x, index, weights, *banks = expert_arguments(rows, *sizes, dtype, seed=1)
    want = np.asarray(many_rows(x, index, weights, *banks))
    reference = expert_gemv(x[:2], index[:2], weights[:2], *banks)
    np.testing.assert_allclose(want[:2], reference, rtol=1e-2, atol=1e-2)
    few = slice(rows - 9, rows)
    np.testing.assert_array_equal(few_rows(x[few], index[few], weights[few], *banks), want[few])
    one = slice(5, 6)
    np.testing.assert_array_equal(few_rows(x[one], index[one], weights[one], *banks), want[one])


@settings(max_examples=4)
@given(st.integers(0, 10**6))
def test_decoding_has_the_bits_of_training_whatever_the_routing(seed):
    x, index, weights, *banks = expert_arguments(6, 24, 7, 16, 2, np.float32, seed)
    want = many_rows(x, index, weights, *banks)
    np.testing.assert_array_equal(few_rows(x, index, weights, *banks), want)
    some = np.random.default_rng(seed).permutation(6)
    got = many_rows(x[some], index[some], weights[some], *banks)
    np.testing.assert_array_equal(got, np.asarray(want)[some])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["nano", "tml_small"])
def test_decoding_passes_through_the_products_of_training(name, dtype, products):
    """The literal shapes, also where nothing is large enough to be computed here."""
    s = RAGGED_DOT[name]
    experts = (s.groups, s.out, s.width)
    banks = (experts, experts, (s.groups, s.width, s.out))

    def arrays(rows):
        index, weights = ((rows, 2), "int32"), ((rows, 2), "float32")
        return ((rows, s.width), dtype), index, weights, *((bank, dtype) for bank in banks)

    training = products(many_rows, *arrays(1000))
    assert training == products(many_rows, *arrays(1)) == products(few_rows, *arrays(9))


def test_no_copy_races(race_free):
    x, w, sizes = arguments(RaggedShape(rows=140, width=24, out=40, groups=4))

    def both(mode):
        y = pallas_tpu.ragged_dot(x, w, sizes, jnp.float32, interpret=mode)
        return y, pallas_tpu._run_gradient(mode, y, x, sizes)

    y, dw = race_free(both)
    np.testing.assert_allclose(y, run(x, w, sizes, "reference"), rtol=1e-5, atol=1e-5)
    assert np.abs(dw[1:]).min(axis=(1, 2)).max() > 0


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("x", lambda a: a.astype(jnp.float16)),
        ("x", lambda a: a[0]),
        ("x", lambda a: a[:0]),
        ("w", lambda a: a.swapaxes(1, 2)),
        ("w", lambda a: a.astype(jnp.bfloat16)),
        ("group_sizes", lambda a: a[:-1]),
        ("group_sizes", lambda a: a.astype(jnp.float32)),
    ],
)
def test_what_cannot_work_is_named(name, change):
    names = ("x", "w", "group_sizes")
    args = [change(a) if n == name else a for n, a in zip(names, arguments(SMALL), strict=True)]
    with pytest.raises(ValueError, match=f"ragged_dot: {name} is .*; accepted: "):
        ragged_dot(*args)


def test_two_banks_are_alike():
    x, w, sizes = arguments(SMALL)
    with pytest.raises(ValueError, match=r"ragged_swiglu: up is \[4, 39, 24\]; accepted: \[4, 40"):
        ragged_swiglu(x, w, w[:, :-1], sizes)
    with pytest.raises(ValueError, match="ragged_swiglu: up is bfloat16.*; accepted: float32"):
        ragged_swiglu(x, w, w.astype(jnp.bfloat16), sizes)
    with pytest.raises(ValueError, match="ragged_swiglu: .*'cuda'; accepted: 'reference'"):
        ragged_swiglu(x, w, w, sizes, implementation="cuda")


def test_what_does_not_exist_or_cannot_run_here_raises():
    args = arguments(SMALL)
    with pytest.raises(ValueError, match="'cuda'; accepted: 'reference', 'pallas_tpu'"):
        ragged_dot(*args, implementation="cuda")
    with pytest.raises(NotImplementedError, match="'pallas_tpu' runs on tpu and .* for cpu here"):
        ragged_dot(*args, implementation="pallas_tpu")


def test_the_model_names_the_implementation():
    c = config_lib.default()
    assert c.model.grouped == "tiles"
    c.model.grouped = "no_such"
    with pytest.raises(
        config_lib.ConfigError, match="config.model.grouped='no_such'.*'pallas_tpu'"
    ):
        config_lib.from_config_dict(c)
    c.model.grouped = "pallas_tpu"
    model = config_lib.from_config_dict(c).model
    assert exchange.GROUPED[model.grouped] is grouped.by_kernel
    small = dataclasses.replace(model, width=16, expert_width=8, num_shared_experts=0)
    with pytest.raises(NotImplementedError, match="ragged_.*'pallas_tpu' runs on tpu"):
        moe.MoE(small, jax.random.key(0))(jnp.ones((moe.FEW_ROWS + 1, 16)))


def test_named_shapes_are_those_of_the_configs():
    for name, c in (("nano", nano.get_config()), ("tml_small", tml_small.get_config())):
        s, m = RAGGED_DOT[name], c.model
        assert (s.width, s.out) == (m.width, m.expert_width)
        assert m.num_experts % s.groups == 0


@pytest.mark.tpu
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("shape", shapes(RAGGED_DOT))
def test_it_compiles_for_tpus(shape, dtype, compile_for_tpu):
    s = shape
    args = (
        ((s.rows, s.width), dtype), ((s.groups, s.out, s.width), dtype), ((s.groups,), jnp.int32)
    )  # fmt: skip
    kernel = functools.partial(ragged_dot, implementation="pallas_tpu")
    compile_for_tpu(kernel, *args)

    def loss(x, w, sizes):
        return jnp.sum(kernel(x, w, sizes).astype(jnp.float32))

    compile_for_tpu(jax.grad(loss, argnums=(0, 1)), *args)
    swiglu = functools.partial(ragged_swiglu, implementation="pallas_tpu")
    compile_for_tpu(swiglu, args[0], args[1], *args[1:])

    # As training and decoding call them: f32 out of banks of any type.
    wide = functools.partial(kernel, out_dtype=jnp.float32)
    compile_for_tpu(wide, *args)

    def gated_loss(x, gate, up, sizes):
        return jnp.sum(swiglu(x, gate, up, sizes).astype(jnp.float32))

    compile_for_tpu(jax.grad(gated_loss, argnums=(0, 1, 2)), args[0], args[1], *args[1:])
