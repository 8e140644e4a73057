"""What a live session computed the trainer recomputes to the same bits, and whatever was altered is
found and named."""

import dataclasses
import functools
import json
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from tests.decode.test_stream import session
from tests.models.conftest import small_config
from tmi.config import Config, to_json
from tmi.decode import recording, replay
from tmi.decode.stream import Decoder
from tmi.microturn import EOM_ID, SPEAK_ID, layout
from tmi.models import tree
from tmi.train import checkpoint


@functools.lru_cache
def model_of(policy: str):
    c = small_config(numerics=policy, clock_digits=3)
    config = dataclasses.replace(
        c,
        microturn=dataclasses.replace(c.microturn, max_text_out=4),
        text=dataclasses.replace(c.text, unpadded_vocab_size=500),  # as published models have it
    )
    params = tree.init(config, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = {k: np.asarray(v) + 0.1 * rng.normal(size=v.shape) for k, v in params.items()}
    # So that it writes, speaks and keeps quiet in turn.
    params["unembed.table"][[EOM_ID, SPEAK_ID]] *= [[3], [5]]
    # Float16, as shipped checkpoints hold them.
    return config, {k: v.astype(np.float16).astype(np.float32) for k, v in params.items()}


SESSIONS = [session("a", 4.0, 1), session("b", 1.2, 2), session("c", 2.0, 3)]


def record(policy: str, slots: int, folder):
    config, params = model_of(policy)
    decoder = Decoder(config, params, slots=slots, record=True)
    weights = recording.digests({n: np.asarray(x) for n, x in params.items()})
    decoder.run(
        SESSIONS, recorded=lambda name, r: r.save(folder / f"{name}{slots}.trace.npz", weights)
    )
    return config, params


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traces")
    for slots in (1, 2):
        config, params = record("invariant", slots, folder)
    return folder, config, params


def load(folder, name="a1"):
    return recording.load(folder / f"{name}.trace.npz")


@pytest.mark.parametrize("name", ["a1", "b2", "c2"])
def test_every_bit_is_what_the_trainer_computes(recorded, name):
    folder, config, params = recorded
    found = load(folder, name)
    assert len(found.arrays["logits"]) > 5 and (len(found.arrays["flow"]) > 0 or name != "a1")
    assert replay.replay(config, params, found) == []


def test_a_recording_does_not_depend_on_slots_and_neighbours(recorded):
    folder = recorded[0]
    for name in "abc":
        alone, beside = load(folder, name + "1"), load(folder, name + "2")
        assert alone.about["digests"] == beside.about["digests"]
        for key, x in alone.arrays.items():
            np.testing.assert_array_equal(x, beside.arrays[key], err_msg=key)


def flipped(x: np.ndarray, at: int) -> np.ndarray:
    raw = bytearray(x.tobytes())
    raw[at] ^= 1
    return np.frombuffer(bytes(raw), x.dtype).reshape(x.shape).copy()


COMPUTED = ("states", "chosen", "logits", "tokens", "flow")
GIVEN = ("seed", "dmel", "video", "text_in", "patches")


@pytest.mark.parametrize("name", [*COMPUTED, *GIVEN, "tokens_size", "video_turn"])
def test_a_flipped_bit_is_found_and_named(recorded, name):
    folder, config, params = recorded
    found = load(folder)
    found.arrays[name] = flipped(found.arrays[name], 0)
    problems = replay.replay(config, params, found)
    assert problems[0] == f"{name}: altered since it was recorded"


@pytest.mark.parametrize("name", [*COMPUTED, *GIVEN])
def test_a_flipped_bit_is_found_by_computing_too(recorded, name):
    """As of a sampler that computed something else: its digests are right."""
    folder, config, params = recorded
    found = load(folder)
    x = found.arrays[name]
    at = x.nbytes // 2 if name != "seed" else 0
    if x.dtype == np.float32:
        at = at // 4 * 4
    found.arrays[name] = flipped(x, at)
    found.about["digests"] = recording.digests(found.arrays)
    problems = replay.replay(config, params, found)
    assert len(problems) == 1
    if name in ("states", "chosen", "logits", "flow"):
        position = at // x[0].nbytes
        assert f": {name} differs in 1 of" in problems[0]
        if name in ("states", "chosen"):
            layer = at % x[0].nbytes // x[0, 0].nbytes + (name == "chosen")  # layer 0 is dense
            assert problems[0].startswith(f"position {position} ")
            assert f"layer {layer}: " in problems[0]


def test_the_layer_that_went_wrong_is_named_not_the_router_behind_it():
    """Of six layers four choose experts, the first of them layer 2."""
    rng = np.random.default_rng(0)
    own = {
        "states": rng.normal(size=(3, 6, 8)).astype(np.float32),
        "chosen": rng.integers(0, 8, (3, 4, 2), np.int32),
    }
    found = {k: v.copy() for k, v in own.items()}
    found["states"][1, 1:] += 1
    found["chosen"][1, 0] ^= 1
    s = types.SimpleNamespace(microturn=np.zeros(3, int), text_source=None, patch_source=None)
    said = str(replay.first_difference(s, own, found, [2, 3, 4, 5]))
    assert "layer 1: states differs" in said
    found["states"] = own["states"]
    assert "layer 2: chosen differs" in str(replay.first_difference(s, own, found, [2, 3, 4, 5]))


def test_a_flipped_bit_of_a_weight_is_named(recorded):
    folder, config, params = recorded
    name = "transformer.layers.1.attention.q"
    # Not the last bit of a number, which rounding may swallow.
    other = {**params, name: flipped(np.asarray(params[name]), 402)}
    problems = replay.replay(config, other, load(folder))
    assert problems[0] == f"weight {name}: not that of the recording's checkpoint"
    assert "layer 1: states differs" in problems[1]


def test_fast_recordings_promise_nothing(tmp_path, quickly):
    config, params = record("fast", 1, tmp_path)
    problems = replay.replay(config, params, load(tmp_path))
    assert "numerics='fast', which promises nothing about bits" in problems[0]


def test_what_is_no_recording_is_refused(tmp_path, recorded):
    (tmp_path / "x.npz").write_bytes(b"no zip")
    with pytest.raises(recording.RecordingError, match="cannot be read as a recording"):
        recording.load(tmp_path / "x.npz")
    with pytest.raises(recording.RecordingError, match="no such file"):
        recording.load(tmp_path / "y.npz")


def altered(path, drop=(), **about):
    """A recording by hand, as of a checkpoint that is not there."""
    arrays = {name: np.zeros(1) for name in recording.ARRAYS if name not in drop}
    full = {
        "version": recording.VERSION, "numerics": "invariant", "config": to_json(Config()),
        "weights": {}, "digests": recording.digests(arrays),
    }  # fmt: skip
    np.savez(path, about=np.array(json.dumps(full | about)), **arrays)  # pyright: ignore
    return path


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"drop": ["text_in_size", "tokens"]}, "x.npz lacks text_in_size, tokens$"),
        ({"digests": {"more": "abc"}}, "x.npz lacks more$"),
        ({"version": 7}, "x.npz is of version 7; read is 1"),
        (
            {"config": '{"format_version": 1, "config": {"modle": {}}}'},
            "config.modle does not exist",
        ),
        ({"config": '{"format_version": 1}'}, "not a saved config: .* no config"),
        ({"config": "no json"}, "not a saved config"),
        ({}, "nowhere holds no checkpoint"),
    ],
)
def test_what_cannot_be_replayed_is_one_line(tmp_path, monkeypatch, made, said):
    path = altered(tmp_path / "x.npz", **made)
    given = types.SimpleNamespace(trace=f"file://{path}", workdir="nowhere")
    monkeypatch.setattr("absl.flags.FLAGS", given)
    with pytest.raises(SystemExit, match=f"^cannot replay: .*({said})"):
        replay.main([])


def test_a_sense_that_was_not_recorded_is_named():
    arrays = {name: np.zeros(0, np.int32) for name in recording.ARRAYS}
    config = dataclasses.replace(Config(), streams=("pointer",))
    with pytest.raises(recording.RecordingError, match="^streams.pointer is not in the recording"):
        replay.session_of(layout(config), arrays)


def test_the_command_exits_as_it_should(tmp_path, recorded):
    folder, config, params = recorded
    shipped = tmp_path / "shipped"
    checkpoint.write_config(shipped, config)
    (shipped / "info.json").write_text(
        json.dumps({"format_version": checkpoint.FORMAT_VERSION, "legs": [], "step": 0, "dev": {}})
    )
    np.savez(shipped / "params.npz", **{n: x.astype(np.float16) for n, x in params.items()})  # pyright: ignore

    def run(file):
        return subprocess.run(
            [sys.executable, "-m", "tmi.decode.replay", f"--workdir={shipped}", f"--trace={file}"],
            capture_output=True, text=True,
        )  # fmt: skip

    good = run(folder / "b1.trace.npz")
    assert good.returncode == 0 and "every bit of states" in good.stdout, good.stderr
    with np.load(folder / "b1.trace.npz") as file:
        arrays = dict(file)
    arrays["logits"] = flipped(arrays["logits"], 8)
    np.savez(tmp_path / "bad.npz", **arrays)  # pyright: ignore
    bad = run(tmp_path / "bad.npz")
    assert bad.returncode == 1 and "logits" in bad.stderr
