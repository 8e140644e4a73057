"""Laws of the model: streaming equals one-shot, causality by zero gradients, isolation of packed
sessions, dropless experts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.conftest import small_config
from tmi import numerics
from tmi.config import Config
from tmi.data.batch import empty_batch, session_arrays
from tmi.microturn import Stream
from tmi.models import attention, far, grouped, moe, ring, tree
from tmi.models.cache import init_cache
from tmi.models.embed import Clock
from tmi.models.layers import Turned
from tmi.models.transformer import spans


def as_batch(config, seqs):
    """Sessions packed into one row, each starting on a kv_block boundary."""
    batch = empty_batch(config, 1)
    at, filled = 0, {"dmel": 0, "video": 0, "speech": 0}
    starts = []
    for number, seq in enumerate(seqs, start=1):
        rows = session_arrays(config, seq)
        n = len(seq)
        starts.append(at)
        for key in ("stream", "token", "microturn", "text_target", "text_weight"):
            batch[key][0, at : at + n] = rows[key]
        slot = rows["slot"].copy()
        for key, stream in (
            ("dmel", Stream.AUDIO_IN),
            ("video", Stream.VIDEO_IN),
            ("speech", Stream.AUDIO_OUT),
        ):
            slot[seq.stream == stream] += filled[key]
            m = len(rows[key])
            batch[key][0, filled[key] : filled[key] + m] = rows[key]
            if key == "speech":
                batch["speech_source"][0, filled[key] : filled[key] + m] = (
                    rows["speech_source"] + at
                )
                batch["speech_weight"][0, filled[key] : filled[key] + m] = rows["speech_weight"]
            filled[key] += m
        batch["slot"][0, at : at + n] = slot
        batch["segment"][0, at : at + n] = number
        batch["position"][0, at : at + n] = np.arange(n)
        at += -(-n // config.microturn.kv_block) * config.microturn.kv_block
    return batch, starts


@pytest.fixture(scope="module")
def forward(config):
    return jax.jit(lambda params, batch: tree.build(config, params)(batch, batch["speech"])[0])


@pytest.fixture(scope="module")
def hidden(config, params, session, forward):
    batch, _ = as_batch(config, [session[1]])
    return batch, np.asarray(forward(params, batch))


@pytest.fixture(scope="module")
def embedded(config, params, hidden):
    @jax.jit
    def embed(params, batch):
        model = tree.build(config, params)
        return model.embed(
            batch["stream"], batch["token"], batch["slot"], batch["microturn"],
            model.dmel(batch["dmel"]), model.video(batch["video"]), model.speech(batch["speech"]),
        )  # fmt: skip

    return embed(params, hidden[0])


def test_streaming_equals_one_shot_for_any_chunking(config, params, session, hidden, embedded):
    (batch, full), x = hidden, embedded
    n = len(session[1])
    model = tree.served(config, params)
    rows = 32

    @jax.jit
    def append(x, m, count, cache):
        return model.append(x, m, count, cache)

    for seed in range(3):
        rng = np.random.default_rng(seed)
        cache = init_cache(config, spans(config), 1, rows)
        at, out = 0, []
        while at < n:
            count = min(int(rng.integers(1, rows + 1)), n - at)
            # What stands in the padding rows must not matter.
            chunk = rng.normal(size=(1, rows, x.shape[-1])).astype(np.float32)
            chunk[:, :count] = x[:, at : at + count]
            m = np.zeros((1, rows), np.int32)
            m[:, :count] = batch["microturn"][:, at : at + count]
            h, cache, _ = append(jnp.asarray(chunk), jnp.asarray(m), jnp.array([count]), cache)
            out.append(np.asarray(h)[0, :count])
            at += count
        np.testing.assert_allclose(np.concatenate(out), full[0, :n], atol=2e-4, rtol=2e-3)


def test_causal_by_zero_gradients(config, params, session, hidden, embedded):
    batch, x = hidden[0], embedded
    model = tree.build(config, params)

    @jax.jit
    def grad(at):
        def f(x):
            h, *_ = model.transformer(x, batch["position"], batch["microturn"], batch["segment"])
            return jnp.sum(jnp.where(jnp.arange(h.shape[1]) == at, jnp.sum(h, -1), 0.0)[0])

        return jnp.abs(jax.grad(f)(x)).sum(-1)[0]

    for at in (0, 17, 100, len(session[1]) - 1):
        g = np.asarray(grad(at))
        assert np.all(g[at + 1 :] == 0), f"position {at} sees later ones"
        assert g[at] > 0


def test_packed_sessions_do_not_see_each_other(config, params, session, forward):
    turns, seq = session
    from tmi.microturn import cut

    first, second = cut(seq, 70, {}), cut(seq, 120, {})
    both, starts = as_batch(config, [first, second])
    alone, _ = as_batch(config, [second])
    h2 = np.asarray(forward(params, both))[0, starts[1] : starts[1] + len(second)]
    h1 = np.asarray(forward(params, alone))[0, : len(second)]
    np.testing.assert_allclose(h2, h1, atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize("bias", ["token", "microturn"])
def test_either_position_scheme_runs(bias):
    c = small_config(position_bias=bias)
    names = tree.names(c)
    assert any(n.endswith("attention.bank") for n in names) == (bias == "token")
    assert any(n.endswith("attention.time") for n in names) == (bias == "microturn")


def test_micro_turn_distance_is_relative():
    """Query- and key-side: the same session a minute later gives the same states."""
    c = small_config(position_bias="microturn", clock_features=False)
    model = tree.build(c, tree.init(c, jax.random.key(0)))
    assert {"time", "time_key"} <= set(vars(model.transformer.layers[1].attention))
    x = jax.random.normal(jax.random.key(1), (1, 64, c.model.width))
    position, segment = jnp.arange(64)[None], jnp.ones((1, 64), jnp.int32)
    at = jax.jit(lambda microturn: model.transformer(x, position, microturn, segment).hidden)
    now, later, other = at(position // 3), at(position // 3 + 300), at(position // 2)
    np.testing.assert_allclose(later, now, atol=1e-4)
    assert np.abs(np.asarray(other - now)).max() > 1e-2


def test_near_and_far_attention_agree():
    rng = np.random.default_rng(0)
    shapes = ((1, 2, 512, 8), (1, 1, 512, 8), (1, 1, 512, 8), (1, 2, 512, 16))
    q, k, v, rel = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    position, segment = jnp.arange(512)[None], jnp.ones((1, 512), jnp.int32)
    distance = position[:, :, None] - position[:, None]
    for span in (attention.Span(64, 0, 16), attention.Span(0, 24, 16)):  # near, far
        got = attention.attend_rows(
            q, k, v, rel, attention.hidden_of(Config().model, position, segment, span), span
        )
        scores = jnp.einsum("bhqd,bkd->bhqk", q, k[:, 0])
        scores = scores + ring.gathered_bias(rel, distance)
        visible = span.visible(position[:, :, None], position[:, None])[:, None]
        p = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), axis=-1)
        np.testing.assert_allclose(got, jnp.einsum("bhqk,bkd->bhqd", p, v[:, 0]), atol=1e-5)


def reference_moe(m: moe.MoE, x):
    index, weights = m.route(x)
    gate, up, down = (
        np.concatenate([getattr(m, name)[...], getattr(m, f"shared_{name}")[...]])
        for name in ("gate", "up", "down")
    )
    y = jnp.zeros_like(x)
    for t in range(x.shape[0]):
        for e, w in zip(np.asarray(index[t]), np.asarray(weights[t]), strict=True):
            h = jax.nn.silu(gate[e] @ x[t]) * (up[e] @ x[t])
            y = y.at[t].add(w * (down[e] @ h))
    return y


@pytest.mark.parametrize("rows", [3, 150])
def test_every_token_to_one_expert_is_not_dropped(config, rows):
    c = dataclasses.replace(config.model, num_experts_per_token=1)
    m = moe.MoE(c, jax.random.key(0))
    m.balance[...] = jnp.array([0.0, 0.0, 100.0, 0.0])
    x = jax.random.normal(jax.random.key(1), (rows, c.width))
    y, count, _ = m(x)
    assert count.tolist() == [0, 0, rows, 0]
    np.testing.assert_allclose(y, reference_moe(m, x), atol=1e-5)


@pytest.mark.parametrize("rows", [1, 150])
def test_experts_as_decoding_has_them_give_the_same(config, params, rows):
    plain, served = (f(config, params).transformer.layers[1].mlp for f in (tree.build, tree.served))
    assert isinstance(served.gate[...], Turned) and served.gate[...].shape == plain.gate.shape
    x = jax.random.normal(jax.random.key(1), (rows, config.model.width))
    for got, want in zip(served(x), plain(x), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_where_bits_matter_weights_lie_as_in_training(config, params):
    other = dataclasses.replace(
        config, model=dataclasses.replace(config.model, numerics="invariant")
    )
    served = tree.served(other, params).transformer.layers[1]
    assert isinstance(served.attention.out[...], jax.Array)


def test_tiled_experts_and_their_gradients_equal_the_plain_sum(config):
    m = moe.MoE(config.model, jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (200, config.model.width))
    n = config.model.num_experts_per_token
    index, weights = (a[:, :n] for a in m.route(x))
    banks = (m.gate[...], m.up[...], m.down[...])

    def loss(run):
        return lambda x, w, *b: jnp.sum(jnp.sin(run(x, index, w, *b)))

    got = jax.grad(loss(grouped.tiled), argnums=(0, 1, 2, 3, 4))(x, weights, *banks)
    want = jax.grad(loss(moe.few_rows), argnums=(0, 1, 2, 3, 4))(x, weights, *banks)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_the_clock_shows_the_second_at_which_output_is_heard(config):
    c = dataclasses.replace(config, model=dataclasses.replace(config.model, clock_digits=3))
    clock, without = Clock(c, jax.random.key(0)), Clock(config, jax.random.key(0))
    m = jnp.arange(600)[None]
    np.testing.assert_array_equal(clock(m), without(m))  # it begins as if there were no digits
    clock.digits[...] = jnp.zeros_like(clock.digits[...]).at[0, 10 + 4].set(1).at[0, 20 + 2].set(1)
    both = np.flatnonzero(np.asarray(clock(m) - without(m))[0, :, 0] > 1.5)
    assert both.tolist() == [119, 120, 121, 122, 123]  # heard in [24, 25) s


def test_nano_fits_its_budget():
    from experiments import nano
    from tmi.config import from_config_dict

    c = from_config_dict(nano.get_config())
    total = sum(int(np.prod(v.shape)) for v in jax.tree.leaves(tree.skeleton(c)))
    assert total <= 5_500_000
    assert c.model.num_experts >= 8


@pytest.mark.parametrize("policy", ["fast", "invariant"])
@pytest.mark.parametrize("span", [(300, 0, 16), (0, 24, 16), (0, 64, 16), (64, 0, 16)])
def test_blocks_of_queries_one_by_one_agree_with_all_at_once(span, policy):
    """Attention and its gradients, of sessions that fill whole blocks, some of them and none."""
    rng = np.random.default_rng(0)
    shapes = ((2, 4, 768, 8), (2, 2, 768, 8), (2, 2, 768, 8), (2, 4, 768, 16))
    args = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    sizes = ((48, 256, 16, 64, 0), (512, 0, 144, 112, 0))
    numbers = np.tile(np.arange(6), (2, 1))
    segment, position = np.zeros((2, 2, 768), np.int32)
    for b, (row, number) in enumerate(zip(sizes, numbers, strict=True)):
        at = 0
        for size, n in zip(row, number[1:], strict=True):
            segment[b, at : at + size], position[b, at : at + size] = n, np.arange(size)
            at += size
    span = attention.Span(*span)
    visible = span.visible(position[:, :, None], position[:, None])
    visible &= (segment[:, :, None] == segment[:, None]) & (segment > 0)[:, None]
    low = far.seen_from(span.first(jnp.asarray(position)), position, segment)
    sizes = far.plan(768, span.reach, 16, span.kv_block, policy == "invariant")

    def once(q, k, v, rel):
        bias = far.toeplitz(rel, 0)
        return attention.attend(
            q, k, v.swapaxes(2, 3), bias, attention.additive(visible), span.kv_block
        )

    def loss(f):
        def run(*args):
            with numerics.use(policy):
                y = f(*args)
            return jnp.sum(jnp.sin(y)), y

        return numerics.jit(policy, jax.value_and_grad(run, argnums=(0, 1, 2, 3), has_aux=True))

    (_, want), want_grads = loss(once)(*args)
    for f in (far.attend, attention._attend_together):
        (_, y), grads = loss(lambda *args, f=f: f(*args, low, sizes))(*args)
        np.testing.assert_allclose(y, want, atol=1e-5)
        if policy == "invariant":
            np.testing.assert_array_equal(y, want)
        for a, b in zip(grads, want_grads, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)
