"""Further input streams: a file each, absent without a trace, streaming equal to one-shot.

The example of CONTRIBUTING, added as it says and nothing else, goes the way of the shipped file.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import sys

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest

from data_pipelines.session import Conflict, Session
from experiments import debug
from tests.data.sessions import Bytes
from tests.test_contributing import example
from tmi import config as config_lib
from tmi import streams
from tmi.data import records
from tmi.data.batch import empty_batch, shapes
from tmi.data.features import to_microturns, to_sequence
from tmi.data.packing import pack
from tmi.decode.step import init_state, input_chunk
from tmi.decode.stream import Decoder, SessionReader
from tmi.media.audio import DMel, from_int16
from tmi.microturn import (
    NUM_STREAMS,
    Microturn,
    Stream,
    cut,
    input_streams,
    lay_out,
    layout,
    output_streams,
)
from tmi.models import flops, tree
from tmi.sharding import param_shapes
from tmi.streams import pointer
from tmi.train.loss import loss_fn

POINTER, HEART = NUM_STREAMS, NUM_STREAMS + 1


def rate(time_s: float, beats: float) -> tuple[float, bytes]:
    return time_s, struct.pack("<f", beats)


def make_config(*names: str) -> config_lib.Config:
    c = debug.get_config()
    c.streams = names
    c.data.batch_size = 1
    c.flow.temperature = 0.0  # the decoder draws nothing
    return config_lib.from_config_dict(c)


def make_record(seed: int = 0, **events) -> records.SessionRecord:
    """Three seconds, in which text is typed by either side."""
    audio = (np.random.default_rng(seed).normal(size=48_000) * 3000).astype(np.int16)
    return records.SessionRecord(
        f"s{seed}", ["x"], 3.0, audio, [], [], [("yes", 0.2, 0.5)], [(0.7, "hi")], [(1.5, "ok")],
        [], {}, events=events,
    )  # fmt: skip


PLACES = [pointer.event(*e) for e in ((0.05, 0, 0.1), (0.1, 0.2, 0.3), (0.19, 1, 0.5))]
PLACES += [pointer.event(*e) for e in ((2.55, 0.6, 0.7), (0.75, 0.25, 0))]  # in any order
RATES = [rate(0.3, 60), rate(0.7, 90), rate(2.5, 75)]
RECORD = make_record(pointer=PLACES, heart=RATES)


@pytest.fixture(scope="module", autouse=True)
def heart(tmp_path_factory):
    """The example's file, in a folder that counts as tmi/streams."""
    path, source = example("tmi/streams/")
    folder = tmp_path_factory.mktemp("streams")
    (folder / path.rsplit("/", 1)[1]).write_text(source)
    streams.__path__.append(str(folder))
    yield
    streams.__path__.remove(str(folder))
    streams.load.cache_clear()
    sys.modules.pop("tmi.streams.heart", None)


@pytest.fixture(scope="module")
def config(heart):
    return make_config("pointer", "heart")


@pytest.fixture(scope="module")
def params(config):
    """Random arrays that give every part something to do."""
    rng, out = np.random.default_rng(0), {}
    for name, shape in param_shapes(config).items():
        scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.1
        out[name] = jnp.float32(name.endswith("gain") + scale * rng.normal(size=shape))
    return out


@pytest.fixture(scope="module")
def forward(config):
    return jax.jit(lambda params, batch: tree.build(config, params)(batch, batch["speech"])[0])


def turns_of(config, record) -> list[Microturn]:
    return to_microturns(record, config, Bytes(), DMel(config.audio))


def batch_of(config, *sessions) -> dict:
    """The sessions in one row."""
    rows = list(pack(config, [to_sequence(config, turns_of(config, r)) for r in sessions]))
    assert len(rows) == 1
    return {key: value[None] for key, value in rows[0].items()}


# -- without streams -------------------------------------------------------------------------------


def test_without_streams_nothing_is_there():
    config = make_config()
    lay = layout(config)
    assert lay.stream_numbers == {} and not any(n.startswith("streams") for n in tree.names(config))
    assert not any(key.startswith("streams") for key in shapes(config))
    assert tree.skeleton(config).tokens.stream.shape[0] == NUM_STREAMS
    assert lay.max_input_positions == lay.audio_positions + lay.video_positions + lay.max_text_in
    assert not any(turn.sensed for turn in turns_of(config, RECORD))  # a model without the sense


def test_a_config_from_before_has_none():
    saved = json.loads(config_lib.to_json(config_lib.Config()))
    del saved["config"]["streams"]
    assert config_lib.from_json(json.dumps(saved)) == config_lib.Config()


def test_records_without_events_keep_their_bytes():
    plain = records.encode(make_record())
    assert list(msgpack.unpackb(plain)) == [
        "id", "skills", "duration_s", "user_audio", "model_audio", "model_words", "user_words",
        "text_in", "text_out", "frames", "truth", "version",
    ]  # fmt: skip
    assert records.decode(plain).events == {}
    assert records.decode(records.encode(RECORD)).events == RECORD.events


def test_a_stream_leaves_the_rest_of_the_model_as_it_begins(config):
    """Names, shapes and first values; of these some, since all take long to make."""
    some = ("dmel.merge", "tokens.stream", "transformer.layers.0.attention.q", "flow.write")
    plain, more = make_config(), param_shapes(config)
    own = {name: shape for name, shape in more.items() if not name.startswith("streams.")}
    assert set(own) == set(param_shapes(plain)) < set(more)
    other = {n for n, shape in param_shapes(plain).items() if own[n] != shape}
    assert other == {"tokens.stream"}

    def begin(c):
        made = jax.jit(lambda key: {n: tree.fresh(c, key)[n] for n in some})(jax.random.key(0))
        return {n: np.asarray(x) for n, x in made.items()}

    without, with_streams = begin(plain), begin(config)
    for name, value in without.items():
        np.testing.assert_array_equal(with_streams[name][: len(value)], value)


# -- positions and batches -------------------------------------------------------------------------


def test_a_micro_turn_has_positions_of_what_it_sensed_alone(config):
    plain = lay_out(layout(make_config()), turns_of(make_config(), RECORD))
    turns = turns_of(config, RECORD)
    seq = lay_out(layout(config), turns)
    own = seq.stream < NUM_STREAMS
    for field in ("stream", "token", "slot", "microturn", "heard"):
        np.testing.assert_array_equal(getattr(seq, field)[own], getattr(plain, field))
    further = list(zip(seq.microturn[~own].tolist(), seq.stream[~own].tolist(), strict=True))
    assert further == [
        (0, POINTER), (0, POINTER), (1, HEART), (3, POINTER), (3, HEART), (12, POINTER), (12, HEART)
    ]  # fmt: skip
    assert (seq.stream[np.flatnonzero(~own) - 1] != Stream.TEXT_OUT).all()
    at = np.flatnonzero(~own)[-1]  # the last input predicts the first output
    assert seq.stream[at + 1] == Stream.TEXT_OUT and seq.text_target[at] == seq.token[at + 1]
    want = [[0.2, 0.3], [1, 0.5], [0.25, 0], [0.6, 0.7]]  # the last two of the first slice
    np.testing.assert_allclose(seq.sensed["pointer"], want, atol=1e-6)
    want = [[0.6, 0], [0.9, 0.3], [0.75, -0.15]]
    np.testing.assert_allclose(seq.sensed["heart"], want, atol=1e-6)


def test_rows_hold_the_contents_of_each_session(config):
    second = make_record(1, pointer=[pointer.event(1.0, 0.5, 0.5)], heart=[rate(0.1, 50)])
    batch = batch_of(config, RECORD, second)
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == shapes(config)
    found = set()
    for number in range(1, batch["segment"].max() + 1):
        here = (batch["segment"] == number) & (batch["stream"] == POINTER)
        found.add(batch["streams.pointer"][0, batch["slot"][here]].tobytes())
    expected = (lay_out(layout(config), turns_of(config, r)) for r in (RECORD, second))
    assert found == {seq.sensed["pointer"].tobytes() for seq in expected}
    assert (batch["streams.heart"][0, 4:] == 0).all() and batch["streams.heart"][0, :4, 0].all()


def test_a_cut_counts_further_contents(config):
    seq = lay_out(layout(config), turns_of(config, RECORD))
    short = cut(seq, 10**6, {HEART: 2})
    assert short.microturn[-1] == 11  # the third rate comes in micro-turn 12
    assert len(short.sensed["heart"]) == 2 and len(short.sensed["pointer"]) == 3


def test_work_of_a_tower_is_counted(config):
    towers, plain = flops.tower_macs(config), flops.tower_macs(make_config())
    assert towers["heart"] == 4 * config.model.width and set(towers) - set(plain) == {
        "pointer", "heart",
    }  # fmt: skip


# -- the model -------------------------------------------------------------------------------------


def test_the_loss_moves_the_towers(config, params):
    batch = jax.tree.map(jnp.asarray, batch_of(config, RECORD))

    def loss(towers):
        model = tree.build(config, {**params, **towers})
        return loss_fn(model, config, batch, jax.random.key(0))[0]

    towers = {n: v for n, v in params.items() if n.startswith("streams.")}
    for name, g in jax.jit(jax.grad(loss))(towers).items():
        assert np.isfinite(g).all() and np.abs(g).max() > 1e-6, name


def test_a_later_event_changes_nothing_earlier(config, params, forward):
    batch = batch_of(config, RECORD)
    later = {**RECORD.events, "heart": [*RATES[:2], rate(2.5, 140)]}
    other = batch_of(config, dataclasses.replace(RECORD, events=later))
    here = int(np.flatnonzero(batch["stream"][0] == HEART)[2])
    a, b = (np.asarray(forward(params, x))[0] for x in (batch, other))
    np.testing.assert_allclose(a[:here], b[:here], atol=1e-5)
    assert np.abs(a[here] - b[here]).max() > 1e-3


def live(config, reader: SessionReader, record) -> list[Microturn]:
    """The micro-turns of a client who sends what it has every 200 ms."""
    lay, wave, out = layout(config), from_int16(record.user_audio), []
    for m in range(lay.num_microturns(record.duration_s)):
        start, end = lay.input_interval(m)

        def now(items, start=start, end=end):
            return [item for item in items if start - 1e-6 <= item[0] < end - 1e-6]

        events = {name: now(found) for name, found in record.events.items()}
        text = "".join(text for _, text in now(record.text_in))
        samples = wave[m * lay.samples : (m + 1) * lay.samples]
        out.append(reader.read(samples, (), text, {k: v for k, v in events.items() if v}))
    return out


def test_streaming_equals_one_shot(config, params, forward):
    """Hidden states of a live session, micro-turn by micro-turn, are those of the trainer."""
    batch = batch_of(config, RECORD)
    turns, lay = turns_of(config, RECORD), layout(config)
    full = np.asarray(forward(params, batch))[0, : int((batch["segment"] > 0).sum())]

    @jax.jit
    def append(params, chunk, m, cache):
        model = tree.build(config, params)
        turn = jnp.full(chunk.stream.shape, m)
        x = model.embed(
            chunk.stream, chunk.token, chunk.slot, turn, model.dmel(chunk.dmel),
            model.video(chunk.video), sensed=model.sense(chunk.sensed),
        )  # fmt: skip
        return model.append(x, turn, chunk.count, cache)[:2]

    cache, hidden = init_state(config, 1).cache, []
    read = live(config, SessionReader(config, Bytes(), DMel(config.audio)), RECORD)  # pyright: ignore
    for m, (mt, taught) in enumerate(zip(read, turns, strict=True)):
        heard = input_chunk(config, [mt])
        written = output_streams(lay, Microturn(text_out=taught.text_out))
        pad = [(0, 0)] * (heard.stream.shape[1] - len(written))
        kind, token = np.array(written + pad, np.int32).T[:, None]
        count = np.array([len(written)], np.int32)
        for chunk in (heard, heard._replace(stream=kind, token=token, slot=0 * token, count=count)):
            h, cache = append(params, chunk, np.int32(m), cache)
            hidden.append(np.asarray(h)[0, : int(chunk.count[0])])
    np.testing.assert_allclose(np.concatenate(hidden), full, atol=2e-4, rtol=2e-3)


def test_a_live_session_is_that_of_its_record(config, params):
    decoder = Decoder(config, params)
    (trace,) = decoder.run([RECORD])
    after = decoder.num_positions()
    texts = []
    for m, mt in enumerate(live(config, decoder.reader(), RECORD)):
        (out,) = decoder.step([mt], [m == 0])
        texts.append(out and (out.text, out.spoke))
    cut, spoke = texts[-1]  # random bytes may end within a character
    texts[-1] = cut + decoder._texts[0].close(), spoke
    assert texts == [(t.text_out, t.spoke) for t in trace.turns]
    assert decoder.num_positions() == after and decoder.num_compiles() == 1


# -- what is refused -------------------------------------------------------------------------------


def test_a_stream_that_is_not_there_is_told_which_are():
    with pytest.raises(config_lib.ConfigError, match="names 'pionter'; .* is: heart, pointer$"):
        make_config("pionter")
    with pytest.raises(config_lib.ConfigError, match="streams=.*each stream once"):
        make_config("pointer", "pointer")
    c = debug.get_config()
    c.streams, c.data.row_length, c.microturn.kv_block = ("pointer",), 16, 16
    with pytest.raises(config_lib.ConfigError, match="at least 21, the positions of one micro"):
        config_lib.from_config_dict(c)  # eight tokens in and out, sound, video, speech, two places


@pytest.mark.parametrize(
    "event, match",
    [
        ((0.1, b"12345"), "0.1 s has 5 bytes; accepted are 8, x and y as little-endian float32"),
        (pointer.event(0.1, float("nan"), 0), "is at .nan, 0.0.; accepted are finite x and y in"),
        (pointer.event(0.1, 0.5, 1.5), r"is at \(0.5, 1.5\); accepted are finite x and y in \[0"),
        (pointer.event(-0.1, 0, 0), "a pointer event at -0.1 s.* times in"),
        (pointer.event(3.0, 0, 0), "a pointer event at 3.0 s.* times in"),
        (pointer.event(float("nan"), 0, 0), "a pointer event at nan s.* times in"),
    ],
)
def test_events_that_cannot_be_are_refused(config, event, match):
    with pytest.raises(records.CorpusError, match=match):
        turns_of(config, make_record(pointer=[event]))
    reader = SessionReader(config, Bytes(), DMel(config.audio))  # pyright: ignore
    with pytest.raises(ValueError, match=match):
        reader.read(np.zeros(0, np.float32), events={"pointer": [event]})
    good = reader.read(np.zeros(0, np.float32), events={"pointer": PLACES[:3]})  # as if nothing
    assert len(good.sensed["pointer"]) == 2


def test_events_of_a_sense_that_the_model_lacks_are_refused_live(config):
    reader = SessionReader(make_config(), Bytes(), DMel(config.audio))  # pyright: ignore
    with pytest.raises(ValueError, match="events of 'pointer'; streams of this model: none"):
        reader.read(np.zeros(0, np.float32), events={"pointer": PLACES[:1]})
    with pytest.raises(ValueError, match="3 contents of stream 'pointer'; at most .*'pointer': 2"):
        input_streams(layout(config), Microturn(sensed={"pointer": np.zeros((3, 2))}))


# -- every file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*streams.names(), "heart"])
def test_every_file_keeps_to_the_form(name):
    config = make_config(name)
    stream, lay = streams.load(name), layout(config)
    states, contents = streams.step(lay, streams.init(lay), {}, 0)
    assert contents == {} and set(states) == {name}  # no event, no position
    content = empty_batch(config)[streams.batch_key(name)]
    assert content.shape[1] == stream.slots(config) >= stream.MOST >= 1
    embedded = jax.jit(lambda x: stream.Tower(config, jax.random.key(0))(x))(content)
    assert embedded.shape == (*content.shape[:2], config.model.width)
    assert 0.1 < float(jnp.std(embedded)) < 10  # as the other towers: added to what stands beside


def test_a_skill_sends_events():
    s = Session(np.random.default_rng(0), "train", layout(make_config()), None, (None, None), 9.0)
    s.sense("pointer", *pointer.event(4.0, 0.5, 0.5))
    with pytest.raises(Conflict), s.attempt():
        s.sense("pointer", *pointer.event(1.0, 0, 0))
        s.sense("pointer", *pointer.event(9.5, 0, 0))
    record = s.finish("x", lambda dry: dry)
    assert record.events == {"pointer": [pointer.event(4.0, 0.5, 0.5)]} and record.duration_s > 4
