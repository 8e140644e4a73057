"""dot equals its reference, its rows do not know of each other, and it raises where it cannot
run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from experiments import nano, tml_small
from tests.kernels.conftest import shapes
from tmi_kernels import tiles
from tmi_kernels.dot import dot, pallas_tpu
from tmi_kernels.shapes import DOT, DotShape

SMALL = DotShape(rows=3, width=24, out=40)


def arguments(s: DotShape, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(s.rows, s.width))
    return jnp.asarray(x, dtype), jnp.asarray(rng.normal(size=(s.out, s.width)) / 5, dtype)


interpreted = jax.jit(
    functools.partial(dot, out_dtype=jnp.float32, implementation="pallas_tpu_interpret")
)


@pytest.mark.parametrize(
    ("shape", "dtype", "tolerance"),
    [
        (SMALL, jnp.float32, 1e-5),
        (SMALL, jnp.bfloat16, 1e-5),
        (DOT["nano"], jnp.float32, 1e-4),
        (DotShape(rows=2, width=1300, out=700), jnp.bfloat16, 1e-4),
    ],
)
def test_kernel_equals_reference(shape, dtype, tolerance):
    x, w = arguments(shape, dtype)
    got, want = interpreted(x, w), dot(x, w, out_dtype=jnp.float32)
    assert got.shape == want.shape == (shape.rows, shape.out)
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def test_results_have_the_type_of_x_and_its_leading_axes():
    x, w = arguments(SMALL, jnp.bfloat16)
    for implementation in ("reference", "pallas_tpu_interpret"):
        y = dot(x[None, :, None], w, implementation=implementation)
        assert y.shape == (1, 3, 1, SMALL.out) and y.dtype == jnp.bfloat16
        one = dot(x[0], w, implementation=implementation)
        np.testing.assert_array_equal(one, y[0, 0, 0])


def test_rows_have_their_bits_whatever_their_number(monkeypatch):
    # Several blocks of every kind, the last of each in part; a contraction that no chunk divides.
    small = {"MOST_TILES": 2, "MOST_COLUMNS": 256, "MOST_BYTES": 512}
    for name, most in small.items():
        monkeypatch.setattr(pallas_tpu, name, most)
    monkeypatch.setattr(tiles, "WHOLE", 100)
    x, w = arguments(DotShape(rows=300, width=200, out=300))
    want = np.asarray(interpreted(x, w))
    np.testing.assert_allclose(want, dot(x, w), rtol=1e-4, atol=1e-4)
    for some in (slice(0, 1), slice(1, 8), slice(250, 300)):
        np.testing.assert_array_equal(interpreted(x[some], w), want[some])
    x = jnp.delete(x[:9].at[4].set(jnp.nan).at[6].set(jnp.inf), 0, axis=0)
    beside = np.asarray(interpreted(x, w))
    np.testing.assert_array_equal(beside[[0, 1, 2, 4, 6]], want[[1, 2, 3, 5, 7]])
    assert not np.isfinite(beside[[3, 5]]).any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", DOT.values(), ids=DOT)
def test_one_row_passes_through_the_product_of_thousands(shape, dtype, products):
    run = functools.partial(dot, implementation="pallas_tpu_interpret")
    w = ((shape.out, shape.width), dtype)
    one, few, many = (products(run, ((m, shape.width), dtype), w) for m in (1, 129, 5000))
    assert one == few == many and len(one) <= 2


def test_gradients_equal_the_references_and_rows_keep_theirs():
    x, w = arguments(DotShape(rows=5, width=24, out=150))

    def loss(implementation, x, w):
        return jnp.sum(jnp.sin(dot(x, w, implementation=implementation)))

    def gradient(implementation, rows):
        f = functools.partial(loss, implementation)
        return jax.jit(jax.grad(f, argnums=(0, 1)))(x[rows], w)

    got, want = (gradient(i, slice(5)) for i in ("pallas_tpu_interpret", "reference"))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    alone, _ = gradient("pallas_tpu_interpret", slice(2, 3))
    np.testing.assert_array_equal(alone[0], got[0][2])


def test_no_copy_races(race_free):
    x, w = arguments(DotShape(rows=130, width=24, out=40))
    got = race_free(lambda mode: pallas_tpu.dot(x, w, jnp.float32, interpret=mode))
    np.testing.assert_allclose(got, dot(x, w), rtol=1e-5, atol=1e-5)


def test_a_race_would_be_noticed(race_free):
    def racy(x, y, done):
        copy = pltpu.make_async_copy(x, y, done)
        copy.start()
        y[...] = jnp.zeros_like(y)
        copy.wait()

    def run(mode):
        return pl.pallas_call(
            racy,
            in_specs=[pl.BlockSpec(memory_space=pl.ANY)],
            out_shape=jax.ShapeDtypeStruct((8, 128), jnp.float32),
            scratch_shapes=[pltpu.SemaphoreType.DMA],
            interpret=mode,
        )(jnp.ones((8, 128)))

    with pytest.raises(AssertionError, match="RACE"):
        race_free(run)


@pytest.mark.parametrize(
    ("size", "itemsize", "chunk"),
    [(4096, 2, 256), (4096, 4, 128), (384, 2, 128), (192, 2, 192), (1345, 2, 256), (1025, 4, 128)]
)  # fmt: skip
def test_chunks_follow_from_size_and_type(size, itemsize, chunk):
    assert tiles.chunk(size, itemsize) == chunk


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("x", lambda a: a.astype(jnp.float16)),
        ("x", lambda a: a[:0]),
        ("x", lambda a: a[0, 0]),
        ("w", lambda a: a[:, :-1]),
        ("w", lambda a: a.T),
        ("w", lambda a: a.astype(jnp.bfloat16)),
        ("w", lambda a: a[:0]),
    ],
)
def test_what_cannot_work_is_named(name, change):
    x, w = arguments(SMALL)
    args = (change(x), w) if name == "x" else (x, change(w))
    with pytest.raises(ValueError, match=f"dot: {name} is .*; accepted: "):
        dot(*args)


def test_what_does_not_exist_or_cannot_run_here_raises():
    args = arguments(SMALL)
    with pytest.raises(ValueError, match="'cuda'; accepted: 'reference', 'pallas_tpu'"):
        dot(*args, implementation="cuda")
    with pytest.raises(ValueError, match="out_dtype=int32; accepted: float32 or bfloat16"):
        dot(*args, out_dtype=jnp.int32)
    with pytest.raises(NotImplementedError, match="dot: .*'pallas_tpu' runs on tpu and .* for cpu"):
        dot(*args, implementation="pallas_tpu")


def test_named_shapes_are_those_of_the_configs():
    m = nano.get_config().model
    assert (DOT["nano"].width, DOT["nano"].out) == (m.width, 2 * m.mlp_width)
    assert (DOT["nano_down"].width, DOT["nano_down"].out) == (m.mlp_width, m.width)
    c = tml_small.get_config()
    assert (DOT["tml_small"].width, DOT["tml_small"].out) == (c.model.width, 2 * c.model.mlp_width)
    assert DOT["tml_small_down"].width == c.model.mlp_width
    assert DOT["tml_small_vocabulary"].out == c.text.vocab_size


@pytest.mark.tpu
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("shape", shapes(DOT))
def test_it_compiles_for_tpus(shape, dtype, compile_for_tpu):
    args = (((shape.rows, shape.width), dtype), ((shape.out, shape.width), dtype))
    run = functools.partial(dot, implementation="pallas_tpu")
    compiled = compile_for_tpu(run, *args)
    # No copy of the weights is made. (One of narrow rows is: the kernel takes whole lanes of them.)
    weights = f"[{shape.out},{shape.width}]"
    made = [line.split(" = ")[-1].split("(")[0] for line in compiled.as_text().splitlines()]
    assert not [what for what in made if weights in what and what.endswith(("copy", "transpose"))]
    compile_for_tpu(jax.grad(lambda x, w: jnp.sum(run(x, w).astype(jnp.float32))), *args)
