"""Both implementations mean what the model means; a row's bits are its own session's; a neighbour's
NaN stays there; what cannot work is named."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from experiments import nano, tml_small
from tests.kernels.conftest import CHIPS, shapes
from tmi import config as config_lib
from tmi.mesh import on
from tmi.microturn import layout
from tmi.models import attention as model
from tmi.models import cache as model_cache
from tmi.models import ring as model_ring
from tmi.models import transformer
from tmi.models.attention import Span
from tmi_kernels.attention import attention, attention_cached, pallas_tpu, pallas_tpu_cache, tiles
from tmi_kernels.shapes import ATTENTION

BLOCK = 64
SLIDING, GLOBAL, FAR = Span(50, 0, BLOCK), Span(50, 2, BLOCK), Span(50, 8, BLOCK)
HEADS, KV, E, D, EXTENT = 2, 1, 24, 16, 40
ROW = 256


def session(length, seed, extent=EXTENT, dtype=jnp.float32):
    """q, k, v, rel of one session, [heads, length, width]."""
    rng = np.random.default_rng(seed)
    widths = ((HEADS, E), (KV, E), (KV, D), (HEADS, extent))
    return [jnp.asarray(rng.normal(size=(h, length, w)), dtype) for h, w in widths]


def packed(rows, length=ROW):
    """Rows of sessions, each on the next multiple of BLOCK: arguments, position and segment, and
    where each session begins."""
    n, starts = len(rows), []
    args = [np.zeros((n, x.shape[0], length, x.shape[2]), x.dtype) for x in rows[0][0]]
    position, segment = np.zeros((2, n, length), np.int32)
    for b, sessions in enumerate(rows):
        at = 0
        for number, arrays in enumerate(sessions, 1):
            size = arrays[0].shape[1]
            here = slice(at, at + size)
            for whole, part in zip(args, arrays, strict=True):
                whole[b, :, here] = part
            position[b, here], segment[b, here] = np.arange(size), number
            starts.append((b, at, size))
            at += -(-size // BLOCK) * BLOCK
    return [jnp.asarray(x) for x in (*args, position, segment)], starts


@functools.cache
def rows(span, implementation):
    return jax.jit(functools.partial(attention, span=span, implementation=implementation))


@functools.cache
def cached(span, implementation):
    return jax.jit(functools.partial(attention_cached, span=span, implementation=implementation))


def interpreted(args, span=SLIDING):
    return np.asarray(rows(span, "pallas_tpu_interpret")(*args))


SOME = [[session(50, 1), session(100, 2), session(40, 3)], [session(33, 4), session(180, 5)]]


@pytest.mark.parametrize("span", [SLIDING, GLOBAL], ids=["sliding", "global"])
def test_the_reference_is_the_model(span, quickly):
    (*args, position, segment), _ = packed(SOME)
    hidden = model.hidden_of(config_lib.Config().model, position, segment, span)
    want = model.attend_rows(*args, hidden, span)
    got = rows(span, "reference")(*args, position, segment)
    real = np.asarray(segment > 0)[:, None, :, None]
    np.testing.assert_allclose(got * real, want * real, atol=1e-5)
    assert np.all(np.asarray(got)[~np.broadcast_to(real, got.shape)] == 0)


def gradients(span, implementation, args, position, segment):
    def loss(*args):
        o = rows(span, implementation)(*args, position, segment)
        return jnp.sum(o.astype(jnp.float32) * jnp.cos(jnp.arange(o.size)).reshape(o.shape)), o

    which = tuple(i for i, x in enumerate(args) if x is not None)
    (_, o), grads = jax.jit(jax.value_and_grad(loss, which, has_aux=True))(*args)
    return (o, *grads)


@pytest.mark.parametrize(
    ("span", "extent", "dtype", "tolerance"),
    [
        (SLIDING, EXTENT, jnp.float32, 1e-4),
        (GLOBAL, 0, jnp.bfloat16, 0.1),
        (FAR, EXTENT, jnp.float32, 1e-4),
    ],
)
def test_kernel_and_its_gradients_equal_the_reference(span, extent, dtype, tolerance, quickly):
    some = [[session(x[0].shape[1], 7 + i, extent, dtype) for i, x in enumerate(r)] for r in SOME]
    (*args, position, segment), _ = packed(some)
    args[3] = args[3] if extent else None
    got = gradients(span, "pallas_tpu_interpret", args, position, segment)
    want = gradients(span, "reference", args, position, segment)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == w.dtype == dtype and np.abs(np.asarray(w, np.float32)).max() > 0.5
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("span", [SLIDING, GLOBAL], ids=["sliding", "global"])
def test_bits_do_not_depend_on_where_a_session_is_packed(span):
    mine = session(100, 2)
    args, starts = packed([SOME[0], [mine, *SOME[1][:1]]])
    o = interpreted(args, span)
    (_, a, n), (_, b, _) = starts[1], starts[3]
    np.testing.assert_array_equal(o[0, :, a : a + n], o[1, :, b : b + n])
    alone, _ = packed([[mine], []])
    np.testing.assert_array_equal(interpreted(alone, span)[0, :, :n], o[1, :, b : b + n])


class Slots:
    """A cache of a few slots, to which each call appends chunks of sessions."""

    def __init__(self, span, slots, size, implementation="pallas_tpu_interpret", junk=0.0):
        self.span, self.implementation = span, implementation
        self.caches = [jnp.full((slots, KV, size, w), junk, jnp.float32) for w in (E, D)]
        self.length = np.zeros(slots, np.int32)

    def append(self, chunks, rows=16):
        """chunks: slot -> (arrays, first, count); returns each one's output."""
        args = [np.zeros((len(self.length), h, rows, w), np.float32)
                for h, w in ((HEADS, E), (KV, E), (KV, D), (HEADS, EXTENT))]  # fmt: skip
        count = np.zeros_like(self.length)
        for slot, (arrays, first, n) in chunks.items():
            for whole, x in zip(args, arrays, strict=True):
                whole[slot, :, :n] = x[:, first : first + n]
            count[slot] = n
        o, *self.caches = cached(self.span, self.implementation)(
            *args, *self.caches, self.length, count
        )
        self.length = self.length + count
        return {slot: np.asarray(o[slot, :, :n]) for slot, (_, _, n) in chunks.items()}

    def stream(self, arrays, sizes, slot=0, beside=None):
        """One session in chunks of `sizes`, with what `beside` appends to others."""
        out, at = [], 0
        for i, n in enumerate(sizes):
            chunks = {slot: (arrays, at, n), **(beside(i) if beside else {})}
            out.append(self.append(chunks)[slot])
            at += n
        return np.concatenate(out, axis=1)


RAGGED = (5, 16, 1, 9, 16, 2, 16, 11, 16, 8)  # 100 positions


@pytest.mark.parametrize("span", [SLIDING, GLOBAL], ids=["sliding", "global"])
def test_bits_of_a_chunk_are_those_of_the_row(span):
    mine, n = session(100, 2), 100
    args, _ = packed([[mine]], 128)
    row = interpreted(args, span)[0, :, :n]
    np.testing.assert_array_equal(Slots(span, 1, 192).stream(mine, RAGGED), row)
    np.testing.assert_array_equal(Slots(span, 1, 192).stream(mine, [1] * n), row)


def test_bits_do_not_depend_on_slots_capacity_or_neighbours_that_are_no_numbers():
    mine, other = session(100, 2), session(160, 9)
    alone = Slots(SLIDING, 1, 128).stream(mine, RAGGED)
    broken = [jnp.full_like(x, jnp.nan) for x in other]

    def beside(i):
        return {0: (other, 16 * i, 16), 2: (broken, 16 * i, 16 - i)}

    # Places that nothing was written to yet hold no numbers either.
    many = Slots(SLIDING, 3, 256, junk=np.nan)
    np.testing.assert_array_equal(many.stream(mine, RAGGED, 1, beside), alone)
    assert np.isnan(many.append({2: (broken, 0, 4)})[2]).all()
    # Who comes after the broken session in its slot does not meet it.
    many.length[2] = 0
    np.testing.assert_array_equal(many.stream(mine, RAGGED, 2), alone)


@pytest.mark.parametrize("rows", [48, 80])
@pytest.mark.parametrize("window", [17, 32])
def test_the_tightest_ring_keeps_every_position(window, rows):
    """A chunk that begins at a block's end touches one block more than it fills."""
    mine, n, span = session(200, 2), 200, Span(window, 0, BLOCK)
    size = model_cache.capacity(span, rows, whole=True)
    least = -(-(max(window, 64) - 1 + rows) // 64) * 64
    parts = [64 - window, *[min(rows, n - at) for at in range(64 - window, n, rows)]]
    want = Slots(span, 1, 512, "reference")
    wanted = [want.append({0: (mine, sum(parts[:i]), k)}, rows)[0] for i, k in enumerate(parts)]
    for ring in {size, least}:
        slots = Slots(span, 1, ring)
        for i, k in enumerate(parts):
            out = slots.append({0: (mine, sum(parts[:i]), k)}, rows)[0]
            np.testing.assert_allclose(out, wanted[i], atol=1e-5)


@pytest.mark.parametrize("implementation", ["reference", "pallas_tpu_interpret"])
def test_a_cache_means_what_the_models_means(implementation, quickly):
    lengths, counts, span, n, size = np.array([0, 170]), np.array([16, 7]), SLIDING, 16, 128
    rng = np.random.default_rng(0)
    q, k, v, rel = (
        jnp.asarray(rng.normal(size=(2, h, n, w)), jnp.float32)
        for h, w in ((HEADS, E), (KV, E), (KV, D), (HEADS, EXTENT))
    )
    keys, values = (jnp.asarray(rng.normal(size=(2, KV, size, w)), jnp.float32) for w in (E, D))
    lengths, counts = (jnp.asarray(x, jnp.int32) for x in (lengths, counts))
    o, *written = cached(span, implementation)(q, k, v, rel, keys, values, lengths, counts)

    layer = model_cache.LayerCache(keys.swapaxes(2, 3), values, *[jnp.zeros((2, 1, 1))] * 4)
    places = model_cache.ring_slots(lengths, n, size)
    want_k, want_v = model_cache.append_kv(layer, k, v, places)
    held = model_cache.ring_positions(lengths, counts, n, size)
    position = lengths[:, None] + jnp.arange(n)
    seen = span.visible(position[:, :, None], held[:, None]) & (held >= 0)[:, None]
    bias = model_ring.gathered_bias(rel, position[:, :, None] - held[:, None])
    want_k, want_v = want_k.swapaxes(2, 3), want_v.swapaxes(2, 3)
    want = model.attend(q, want_k, want_v, bias, model.additive(seen), BLOCK)
    for b, c in enumerate(np.asarray(counts)):
        np.testing.assert_allclose(o[b, :, :c], want[b, :, :c], atol=1e-5)
        assert not np.asarray(o[b, :, c:]).any()
        new = np.asarray(places[b, :c])
        old = np.setdiff1d(np.arange(size), new)
        for got, before, new_rows in zip(written, (keys, values), (k, v), strict=True):
            np.testing.assert_array_equal(got[b, :, new], np.swapaxes(new_rows[b, :, :c], 0, 1))
            np.testing.assert_array_equal(got[b, :, old], before[b, :, old])


def test_a_strided_roll_is_its_stand_in():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 128)), jnp.float32)
    want = jax.jit(lambda x: pltpu.roll(x, 5, 1, stride=1, stride_axis=0))(x)
    np.testing.assert_array_equal(tiles.turned_by_gather(x, jnp.int32(5)), want)


def test_no_races(capfd, quickly):
    """By the interpreter that runs copies and their semaphores as a TPU does."""
    params = pltpu.InterpretParams(detect_races=True)
    args, _ = packed([SOME[0]])

    def loss(*args):
        return jnp.sum(pallas_tpu.attention(*args, SLIDING, interpret=params) ** 2)

    jax.block_until_ready(jax.jit(jax.grad(loss, (0, 1, 2, 3)))(*args))
    arrays = [x[None, :, :16] for x in session(16, 1)]
    caches = [jnp.zeros((1, KV, 128, w)) for w in (E, D)]
    length, count = jnp.array([250], jnp.int32), jnp.array([16], jnp.int32)
    run = functools.partial(pallas_tpu_cache.attention_cached, span=SLIDING, interpret=params)
    o, *_ = jax.block_until_ready(jax.jit(run)(*arrays, *caches, length, count))
    assert np.abs(o).max() > 0.1
    assert "RACE" not in capfd.readouterr().out


def small():
    (*args, position, segment), _ = packed([SOME[0]])
    names = ("q", "k", "v", "rel", "position", "segment")
    return dict(zip(names, (*args, position, segment), strict=True))


def small_cached():
    arrays = [x[None] for x in session(16, 1)]
    caches = [jnp.zeros((1, KV, 128, w)) for w in (E, D)]
    names = ("q", "k", "v", "rel", "keys", "values", "length", "count")
    counts = jnp.zeros(1, jnp.int32), jnp.ones(1, jnp.int32)
    return dict(zip(names, (*arrays, *caches, *counts), strict=True))


@pytest.mark.parametrize(
    ("op", "make", "name", "change"),
    [
        (attention, small, "q", lambda a: a[0]),
        (attention, small, "q", lambda a: a.astype(jnp.float16)),
        (attention, small, "q", lambda a: a[:, :, :0]),
        (attention, small, "k", lambda a: a[..., 1:]),
        (attention, small, "k", lambda a: jnp.tile(a, (1, 3, 1, 1))),
        (attention, small, "v", lambda a: a.astype(jnp.bfloat16)),
        (attention, small, "rel", lambda a: a[:, :1]),
        (attention, small, "position", lambda a: a.astype(jnp.float32)),
        (attention, small, "segment", lambda a: a[:, 1:]),
        (attention_cached, small_cached, "keys", lambda a: a[:, :, :64]),  # too small a ring
        (attention_cached, small_cached, "keys", lambda a: a[:, :, :100]),
        (attention_cached, small_cached, "values", lambda a: a[:, :, :64]),
        (attention_cached, small_cached, "length", lambda a: a[:0]),
        (attention_cached, small_cached, "count", lambda a: a.astype(jnp.int16)),
    ],
)
def test_what_cannot_work_is_named(op, make, name, change):
    args = make()
    args[name] = change(args[name])
    with pytest.raises(ValueError, match=f"attention: {name} is .*; accepted: "):
        op(**args, span=SLIDING)


def test_rows_in_parts_of_blocks_and_other_spans_are_named():
    args = {n: x[:, :100] if x.ndim == 2 else x[:, :, :100] for n, x in small().items()}
    with pytest.raises(ValueError, match="S in whole blocks of kv_block=64"):
        attention(**args, span=SLIDING)
    for span in (Span(0, 0, 64), Span(8, 0, 24), Span(8, -1, 64)):
        with pytest.raises(ValueError, match="span has window=.*accepted: kv_block a multiple"):
            attention(**small(), span=span)


@pytest.mark.parametrize(("op", "make"), [(attention, small), (attention_cached, small_cached)])
def test_implementations_that_do_not_exist_or_run_are_named(op, make):
    with pytest.raises(ValueError, match="'cuda'; accepted: 'reference', 'pallas_tpu'"):
        op(**make(), span=SLIDING, implementation="cuda")
    with pytest.raises(NotImplementedError, match="'pallas_tpu' runs on tpu and .* for cpu here"):
        op(**make(), span=SLIDING, implementation="pallas_tpu")


def test_what_does_not_fit_raises():
    def abstract(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    wide = [abstract(1, 64, 1024, 128), *[abstract(1, 1, 1024, 128)] * 2]
    place = jax.ShapeDtypeStruct((1, 1024), jnp.int32)
    run = functools.partial(attention, span=SLIDING, implementation="pallas_tpu_interpret")
    with pytest.raises(ValueError, match="MiB of VMEM; accepted: at most 40 MiB, so fewer heads"):
        jax.eval_shape(run, *wide, abstract(1, 64, 1024, 1024), place, place)
    chunk = [abstract(1, 128, 512, 256), *[abstract(1, 8, 512, 256)] * 2]
    ring, one = [abstract(1, 8, 640, 256)] * 2, jax.ShapeDtypeStruct((1,), jnp.int32)
    run = functools.partial(attention_cached, span=SLIDING, implementation="pallas_tpu_interpret")
    with pytest.raises(ValueError, match="MiB of VMEM; accepted: at most 40 MiB, so a shorter"):
        jax.eval_shape(run, *chunk, None, *ring, one, one)


@pytest.mark.parametrize("experiment", [nano, tml_small], ids=["nano", "tml_small"])
def test_named_shapes_are_those_of_the_configs(experiment):
    c = config_lib.from_config_dict(experiment.get_config())
    name = c.name
    for span in set(transformer.spans(c)):
        s = ATTENTION[f"{name}_{'global' if span.blocks else 'sliding'}"]
        heads = model.heads_of(c.model, span)
        assert (s.heads, s.kv_heads, s.dim) == tuple(heads)
        assert s.key_dim == model.key_dim(c.model, span)
        assert s.extent == model.bias_extent(c.model, span)
        assert (s.window, s.blocks, s.kv_block) == (span.window, span.blocks, span.kv_block)
        assert s.length == c.data.row_length
        assert s.chunk >= layout(c).max_input_positions


def test_the_model_names_the_implementation(quickly):
    assert config_lib.Config().model.attention_kernel == "reference"
    c = config_lib.default()
    c.model.attention_kernel = "no_such"
    with pytest.raises(config_lib.ConfigError, match="attention_kernel='no_such'.*'reference'"):
        config_lib.from_config_dict(c)
    c.model.attention_kernel = "pallas_tpu"
    c.model.width, c.model.head_dim, c.model.num_heads, c.model.num_kv_heads = 16, 8, 2, 1
    c.model.time_frequencies = 2
    config = config_lib.from_config_dict(c).model
    (*_, position, segment), _ = packed([SOME[0][::2]], 128)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 128, 16)), jnp.float32)
    time = model.time_of(config, layout(config_lib.Config()), position // 4)
    got = {}
    for name in ("reference", "pallas_tpu_interpret", "pallas_tpu"):
        m = dataclasses.replace(config, attention_kernel=name)
        layer = model.Attention(m, SLIDING, jax.random.key(0))
        hidden = model.hidden_of(m, position, segment, SLIDING)

        def run(x, layer=layer, hidden=hidden):
            return jnp.where((segment > 0)[..., None], layer(x, position, time, hidden), 0)

        if name == "pallas_tpu":
            with pytest.raises(NotImplementedError, match="pallas_tpu"):
                run(x)
        else:
            got[name] = jax.jit(run)(x)
    np.testing.assert_allclose(got["reference"], got["pallas_tpu_interpret"], atol=1e-5)


def test_a_mesh_divides_rows_and_heads(quickly):
    (*args, position, segment), _ = packed(SOME)
    args = [jnp.concatenate([x] * 2, axis=1) for x in args]  # four heads, two of them for keys
    mesh = jax.make_mesh(
        (1, 2, 1, 1, 2), config_lib.MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * 5
    )

    def run(*args):
        return model.by_kernel(*args, position, segment, SLIDING, "reference")

    with jax.set_mesh(mesh):
        got = jax.jit(on(mesh, run))(*args)
    assert len(got.sharding.device_set) == 4
    np.testing.assert_allclose(got, jax.jit(run)(*args), atol=1e-6)


def compiled(chip, shape, dtype, op):
    """Two rows or slots of a named shape, compiled for one chip."""
    from jax.experimental import topologies
    from jax.experimental.layout import Format, Layout

    topology = topologies.get_topology_desc(platform="tpu", topology_name=chip)
    one = jax.sharding.SingleDeviceSharding(topology.devices[0])
    row_major = Format(Layout((0, 1, 2, 3)), one)

    def array(*size, dtype=dtype, at=one):
        return jax.ShapeDtypeStruct((2, *size), dtype, sharding=at)

    s, whole = shape, shape.length if op is attention else shape.chunk
    args = [
        array(s.heads, whole, s.key_dim), array(s.kv_heads, whole, s.key_dim),
        array(s.kv_heads, whole, s.dim), array(s.heads, whole, s.extent),
    ]  # fmt: skip
    if op is attention:
        args += [array(whole, dtype=jnp.int32)] * 2
    else:
        # Of a hundred thousand positions: a slot with all that a global layer may see is gigabytes.
        reach = min(s.blocks * s.kv_block if s.blocks else s.window, 2**17) - 1
        s = dataclasses.replace(s, blocks=min(s.blocks, 2**17 // s.kv_block))
        size = -(-(reach + whole) // s.kv_block) * s.kv_block
        args += [array(s.kv_heads, size, w, at=row_major) for w in (s.key_dim, s.dim)]
        args += [array(dtype=jnp.int32)] * 2
    kernel = functools.partial(op, span=s, implementation="pallas_tpu")
    if op is attention_cached:
        at = (one, row_major, row_major)
        run = jax.jit(kernel, donate_argnums=(4, 5), out_shardings=at)
    else:
        run = jax.jit(jax.grad(lambda *a: jnp.sum(op_f32(kernel, *a)), (0, 1, 2, 3)))
    return run.trace(*args).lower(lowering_platforms=("tpu",)).compile()


def op_f32(run, *args):
    return run(*args).astype(jnp.float32) ** 2


@pytest.mark.tpu
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=["bf16", "f32"])
@pytest.mark.parametrize("shape", shapes(ATTENTION))
@pytest.mark.parametrize("chip", CHIPS)
def test_it_compiles_for_tpus(chip, shape, dtype):
    training = compiled(chip, shape, dtype, attention)
    assert training.as_text().count("tpu_custom_call") == 3
    decoding = compiled(chip, shape, dtype, attention_cached)
    assert decoding.as_text().count("tpu_custom_call") == 2
    # The caches are written where they lie.
    assert decoding.memory_analysis().temp_size_in_bytes < 2**26
