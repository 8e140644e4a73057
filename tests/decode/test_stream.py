"""Laws of the streaming decoder: slots do not mix, sessions start afresh, one compilation."""

import dataclasses
import functools
import itertools
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.conftest import small_config
from tmi.config import Config
from tmi.data.features import to_microturns
from tmi.data.records import SessionRecord
from tmi.decode import stream
from tmi.decode.step import init_state, input_chunk, microturn_step
from tmi.decode.stream import Decoder, SessionReader
from tmi.evals.wall import WallClock
from tmi.media.audio import DMel
from tmi.media.text import Tokenizer
from tmi.microturn import SPEAK_ID, Microturn
from tmi.models import tree


@pytest.fixture(scope="module")
def model():
    c = small_config()
    config = dataclasses.replace(c, microturn=dataclasses.replace(c.microturn, max_text_out=4))
    params = tree.init(config, jax.random.key(0))
    rng = np.random.default_rng(0)
    # Random weights that write, speak and keep quiet in turn.
    return config, {k: v + 0.1 * rng.normal(size=v.shape) for k, v in params.items()}


def session(name: str, seconds: float, seed: int) -> SessionRecord:
    rng = np.random.default_rng(seed)
    audio = (rng.normal(size=round(16_000 * seconds)) * 3000).astype(np.int16)
    picture = rng.integers(0, 256, (40, 40, 3), np.uint8)
    return SessionRecord(
        name, ["x"], seconds, audio, [], [], [], [(0.3, "hello there"), (0.9, "x" * 40)], [],
        [(t, picture) for t in np.arange(0.05, seconds, 0.13)], {},
    )  # fmt: skip


@pytest.fixture(scope="module")
def two_slots(model):
    return Decoder(*model, slots=2)


def same(a, b):
    assert [t.text_out for t in a.turns] == [t.text_out for t in b.turns]
    assert [t.spoke for t in a.turns] == [t.spoke for t in b.turns]
    assert [t.text_in for t in a.turns] == [t.text_in for t in b.turns]


def test_a_session_does_not_depend_on_slot_neighbours_or_predecessors(two_slots):
    a, b, c = session("a", 3.0, 1), session("b", 1.2, 2), session("c", 2.0, 3)
    together = two_slots.run([a, b, c])  # c follows b in its slot, beside a
    again = two_slots.run([c, a, b])
    by_id = {t.id: t for t in again}
    for trace in together:
        same(trace, by_id[trace.id])
    assert [t.id for t in together] == ["a", "b", "c"]
    assert two_slots.num_compiles() == 1


def test_biases_say_how_soon_it_speaks_and_falls_silent(model):
    config, params = model
    decode = dataclasses.replace(config.decode, silent_bias=-1e9, speaking_bias=1e9)
    table = np.zeros_like(params["unembed.table"])
    table[SPEAK_ID] = params["unembed.table"][SPEAK_ID]  # speaks about every other time
    params = params | {"unembed.table": table}
    decoder = Decoder(dataclasses.replace(config, decode=decode), params)
    (trace,) = decoder.run([session("a", 4.0, 1)])
    assert any(t.spoke for t in trace.turns)
    for before, turn in itertools.pairwise(trace.turns):
        if before.spoke:
            assert not turn.spoke and not turn.text_out


def test_output_starts_one_microturn_after_input(two_slots):
    (trace,) = two_slots.run([session("a", 2.0, 1)])
    assert len(trace.turns) == 10
    assert len(trace.output_audio) == (10 + 1) * 3200
    assert not trace.output_audio[:3200].any()


def test_what_microturns_cost_is_measured(two_slots):
    clock = WallClock(two_slots.slots)
    lengths = {"a": 2.0, "b": 1.2}
    silent = [dataclasses.replace(session(k, s, 1), text_in=[]) for k, s in lengths.items()]
    for trace in two_slots.run(silent):
        clock.add(trace)
    found = {r.metric: r for r in clock.rows("model", 0)}
    assert found["micro-turn ms"].n == 10 + 6 and found["slots"].value == 2
    assert 0 < found["micro-turn ms"].value <= found["micro-turn ms p99"].value
    assert found["real-time factor"].value == pytest.approx(
        found["micro-turn ms"].value / 200,
        abs=1e-6,  # rows are rounded
    )


def test_all_typed_text_is_read_even_when_it_is_long(two_slots):
    (trace,) = two_slots.run([session("a", 6.0, 1)])
    assert "".join(t.text_in for t in trace.turns) == "hello there" + "x" * 40


@pytest.mark.parametrize("typed", [[(0.0, "x " * 90)], [(0.9, "late " * 20)], [(1.3, "later")]])
def test_a_session_goes_on_until_all_typed_text_is_read(model, two_slots, typed):
    """As long as the trainer's session, whose text `spill_text` moves on, too."""
    config = model[0]
    record = dataclasses.replace(session("a", 1.0, 1), text_in=typed)
    (trace,) = two_slots.run([record])
    assert "".join(t.text_in for t in trace.turns) == typed[0][1]
    trained = to_microturns(record, config, two_slots.tokenizer, DMel(config.audio))
    assert len(trace.turns) == len(trained) > 5
    tokens = [two_slots.tokenizer.decode(list(t.text_in)) for t in trained]
    assert [t.text_in for t in trace.turns] == tokens


class Counted(list):
    """Knows how often it was gone through."""

    readings = 0

    def __iter__(self):
        self.readings += 1
        return super().__iter__()


def test_a_session_s_frames_are_gone_through_once(two_slots):
    record = session("a", 2.0, 1)
    record.frames = Counted(record.frames)
    (trace,) = two_slots.run([record])
    assert all(t.video for t in trace.turns) and record.frames.readings == 1


def test_a_character_that_crosses_a_microturn_comes_whole(model, two_slots):
    typed = "größe für übermütige bäcker 😀😀"
    record = dataclasses.replace(session("a", 2.0, 1), text_in=[(0.1, typed)])
    (trace,) = two_slots.run([record])
    assert "".join(t.text_in for t in trace.turns) == typed


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab 1é😀.\n'"), max_size=700), max_size=3))
def test_typed_text_has_the_tokens_of_the_whole_however_long(texts):
    """It is encoded piece by piece, so that a long one holds up nobody."""
    config, tokenizer = Config(), Tokenizer.load("bpe512")
    reader = SessionReader(config, tokenizer, DMel(config.audio))
    found, silence = [], np.zeros(3200, np.float32)
    for text in texts:
        found += reader.read(silence, text=text).text_in
    while reader.waiting:
        found += reader.read(silence).text_in
    assert found == [token for text in texts for token in tokenizer.encode(text)]


def test_a_long_text_is_not_encoded_at_once():
    class Counting:
        characters = 0

        def encode(self, text):
            self.characters += len(text)
            return tokenizer.encode(text)

    tokenizer, counting = Tokenizer.load("bpe512"), Counting()
    reader = SessionReader(Config(), counting, DMel(Config().audio))
    reader.read(np.zeros(3200, np.float32), text="many words " * 100_000)
    assert counting.characters < 1000


def test_frames_of_another_clock_are_refused_and_not_kept(model):
    reader = SessionReader(model[0], Tokenizer.load("bpe512"), DMel(model[0].audio))
    silence = np.zeros(3200, np.float32)
    with pytest.raises(ValueError, match=r"a frame at 50 s in the micro-turn of 0.0 to 0.2 s"):
        reader.read(silence, frames=[(50, PICTURE)])
    assert reader.read(silence, frames=[(0.5, PICTURE)]).video is None
    assert not reader.read(silence).text_in and reader.read(silence).video is not None


def test_a_model_without_room_for_video_sees_none(model):
    config = dataclasses.replace(model[0], data=dataclasses.replace(model[0].data, video_slots=0))
    reader = SessionReader(config, Tokenizer.load("bpe512"), DMel(config.audio))
    assert reader.read(np.zeros(3200, np.float32), frames=[(0.05, PICTURE)]).video is None


def test_a_bfloat16_model_is_streamed(model):
    """In the dtype that its training computes in."""
    config = dataclasses.replace(
        model[0], model=dataclasses.replace(model[0].model, dtype="bfloat16")
    )
    served = jax.eval_shape(lambda p: tree.served(config, p), model[1])
    assert served.unembed.table.dtype == jnp.bfloat16
    state = jax.eval_shape(lambda: init_state(config, 2))
    chunk = input_chunk(config, [None, None])
    mask, seed = np.ones(2, bool), np.zeros(2, np.uint32)
    step = functools.partial(microturn_step, config, rows=4)
    after, _ = jax.eval_shape(step, served, state, chunk, mask, mask, seed)
    assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)


def test_the_clock_reads_what_has_been_said(model, two_slots, monkeypatch):
    """In real time a slice is read when its last sample has been spoken, and reading it counts."""
    begun, read = time.perf_counter(), []

    def noted(self, *args, original=SessionReader.read, **kwargs):
        read.append(time.perf_counter() - begun)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(SessionReader, "read", noted)
    two_slots.run([dataclasses.replace(session("a", 0.6, 1), text_in=[])], real_time=True)
    assert all(at >= 0.2 * (m + 1) for m, at in enumerate(read)) and len(read) == 3


def test_a_slot_takes_no_part_without_input(two_slots):
    before = jax.device_get(two_slots._state.microturn)
    out = two_slots.step([None, None])
    assert out == [None, None]
    np.testing.assert_array_equal(jax.device_get(two_slots._state.microturn), before)


def test_wrong_number_of_inputs_and_long_chunks_are_refused(model, two_slots):
    with pytest.raises(ValueError, match="1 inputs for 2 slots"):
        two_slots.step([None])
    with pytest.raises(ValueError, match="1 fresh for 2 slots"):
        two_slots.step([None, None], fresh=[True])
    with pytest.raises(ValueError, match="3 seeds for 2 slots"):
        two_slots.step([None, None], seeds=[1, 2, 3])
    with pytest.raises(ValueError, match="without audio"):
        two_slots.step([Microturn(), None])
    reader = SessionReader(model[0], Tokenizer.load("bpe512"), DMel(model[0].audio))
    with pytest.raises(ValueError, match="3200"):
        reader.read(np.zeros(3201, np.float32))


PICTURE = np.zeros((50, 60, 3), np.uint8)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"frames": [(0.3, PICTURE[..., 0])]}, r"a frame is uint8 \[H, W, 3\], not uint8 \[50, 60"),
        ({"frames": [(9.0, PICTURE / 2)]}, "not float64"),  # shown in a later micro-turn
        ({"frames": [(float("nan"), PICTURE)]}, "a frame at nan s; accepted are finite times"),
        ({"frames": [(0.3, PICTURE), (float("inf"), PICTURE)]}, "a frame at inf s"),
        ({"text": "half a \ud83d"}, "half a surrogate pair"),
        ({"samples": np.zeros((3200, 2), np.float32)}, "one-dimensional float samples"),
        ({"samples": np.zeros(3200, np.int16)}, "one-dimensional float samples"),
        ({"events": {"pointer": []}}, "events of 'pointer'; streams of this model: none"),
    ],
)
def test_a_chunk_that_is_refused_can_be_sent_again(model, given, match):
    """Nothing of it is read: what follows has the bits of a session that it was never sent to."""
    rng = np.random.default_rng(0)
    good = [
        {
            "samples": rng.normal(size=3200).astype(np.float32) * 0.1,
            "frames": [(0.2 * m + 0.05, rng.integers(0, 256, PICTURE.shape, np.uint8))],
            "text": f"number {m}",
        }
        for m in range(4)
    ]
    config, tokenizer = model[0], Tokenizer.load("bpe512")
    meddled, alone = (SessionReader(config, tokenizer, DMel(config.audio)) for _ in range(2))
    for m, chunk in enumerate(good):
        if m == 1:
            for _ in range(2):
                with pytest.raises(ValueError, match=match):
                    meddled.read(**{**chunk, **given})
        a, b = meddled.read(**chunk), alone.read(**chunk)
        np.testing.assert_array_equal(a.audio, b.audio)
        np.testing.assert_array_equal(a.video, b.video)
        assert a.text_in == b.text_in


GIVEN = {"wav": "", "video": "", "text": "", "workdir": "nowhere", "tail": 4.0, "example": False}


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Runs the command with such flags; whatever comes of it, nothing may be compiled."""

    def run(**given):
        values = GIVEN | {"out": str(tmp_path / "out")} | given
        monkeypatch.setattr("absl.flags.FLAGS", types.SimpleNamespace(**values))
        monkeypatch.setattr(stream, "Decoder", None)
        stream.main([])

    return run


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "nothing to hear, see or read: give --wav=F"),
        ({"wav": "none.wav"}, "none.wav: no such file"),
        ({"wav": "good.wav", "text": "none.txt"}, "none.txt: no such file"),
        ({"wav": "gs://bucket/a.wav"}, "gs://bucket/a.wav lies in a bucket"),
        ({"wav": "good.wav"}, "nowhere holds no checkpoint"),
        ({"example": True}, "nowhere holds no checkpoint"),
        ({"wav": "empty.wav", "workdir": "good"}, "the file is empty"),
        ({"wav": "junk.wav", "workdir": "good"}, "junk.wav: cannot be decoded"),
        ({"text": "junk.wav", "workdir": "good"}, "junk.wav is no text in UTF-8"),
        ({"video": "junk.wav", "workdir": "good"}, "junk.wav: no frame of it can be shown"),
        ({"example": True, "workdir": "good"}, "--example needs a shipped checkpoint"),
        ({"wav": "good.wav", "workdir": "good", "out": "good.wav/x"}, "Not a directory"),
    ],
)
def test_what_cannot_be_streamed_is_one_line(command, monkeypatch, tmp_path, given, said):
    import soundfile

    from tmi.train import checkpoint

    monkeypatch.chdir(tmp_path)
    soundfile.write("good.wav", np.zeros(1600), 16_000)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "junk.wav").write_bytes(b"RIFF" + bytes(range(256)))
    if given.get("workdir") == "good":
        monkeypatch.setattr(checkpoint, "restore_params", lambda _: (Config(), {}))
    with pytest.raises(SystemExit, match="^error: ") as e:
        command(**given)
    assert said in str(e.value)


def test_workdirs_are_paths_as_tmi_has_them(tmp_path):
    from tests.data.sessions import make_record
    from tmi.data.records import encode

    (tmp_path / "example.session").write_bytes(encode(make_record(3)))
    assert stream.example(f"file://{tmp_path}").id == "s3"
