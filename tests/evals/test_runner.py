"""From a corpus to scores.json, traces and the report, with a decoder that knows the answers."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from experiments.debug import get_config
from tests.data.sessions import flip, make_record, write_corpus
from tests.evals.sessions import frame, full, played, record, trial
from tmi import config as config_lib
from tmi.config import Config
from tmi.data.records import CorpusError, ShardWriter
from tmi.evals import report, runner
from tmi.evals.ablations import ABLATIONS, blank_video, shuffle_audio
from tmi.evals.baselines import BASELINES
from tmi.evals.timeline import draw_timeline
from tmi.evals.trace import load
from tmi.media.video import decode_image
from tmi.sharding import param_shapes
from tmi.train import checkpoint

FIELDS = {"suite", "metric", "system", "value", "n", "ci95", "mode", "asr", "judge", "clock"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "eval"
    path.mkdir()
    writer = ShardWriter(path / "eval-00000-of-00001.array_record")
    for i in range(3):
        writer.write(full(f"full-{i}"))
    shard = {"file": "eval-00000-of-00001.array_record", "sha256": writer.close(), "count": 3}
    manifest = {"shards": [shard], "skills": ["hand"], "model_phrases": ["tea"]}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


class Knowing:
    """Plays the sessions' own answers; with nothing to see it says nothing about what it sees."""

    config = Config()

    @classmethod
    def load(cls, workdir, slots):
        return cls()

    def run(self, sessions, progress=None, system="model"):
        out = []
        for session in sessions:
            trace = played(session)
            turns = [dataclasses.replace(t, wall_ms=20.0) for t in trace.turns]
            trace = dataclasses.replace(trace, system=system, turns=turns, meta={})
            progress(trace)
            out.append(trace)
        return out


@pytest.fixture
def decoder(monkeypatch):
    module = types.ModuleType("tmi.decode.stream")
    module.Decoder = Knowing
    monkeypatch.setitem(sys.modules, "tmi.decode.stream", module)


def options(corpus, out, **fields):
    return runner.Options(out=out, corpus=corpus, workers=1, **fields)


def test_a_checkpoint_is_its_config_and_its_weights(tmp_path):
    shapes = param_shapes(debug := config_lib.from_config_dict(get_config()))

    def identity(config=debug, weight=0.5) -> str:
        weights = {n: np.full(shape, weight, np.float16) for n, shape in shapes.items()}
        checkpoint.write_config(tmp_path, config)
        (tmp_path / "info.json").write_text(json.dumps({"format_version": 1, "step": 1}))
        np.savez(tmp_path / "params.npz", **weights)
        return runner.checkpoint_id(tmp_path)

    first = identity()
    (tmp_path / "metrics.jsonl").write_text("{}")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scores.json").write_text("{}")
    assert identity() == first == runner.checkpoint_id(f"file://{tmp_path}")
    louder = dataclasses.replace(debug.decode, temperature=0.5)
    others = {identity(dataclasses.replace(debug, decode=louder)), identity(weight=0.25)}
    assert len(others | {first}) == 3


def test_everything_is_written(corpus, tmp_path, decoder, monkeypatch):
    work = tmp_path / "work"
    monkeypatch.setattr(runner, "checkpoint_id", {work: "its weights"}.get)
    result = runner.evaluate(
        options(
            corpus, tmp_path / "out", workdir=work, systems=("model", "silent", "timer", "oracle"),
            ablate=("blank_video", "shuffle_audio"), examples=1, export_fdb=True,
        )
    )  # fmt: skip
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert set(scores) == {
        "corpus_hash", "split", "timer_learnt_from", "asked", "fewer", "checkpoint", "seed",
        "skipped", "rows",
    }  # fmt: skip
    assert scores["timer_learnt_from"] == scores["corpus_hash"]  # there is no dev beside it
    assert scores["checkpoint"] == "its weights" and scores["skipped"] == {}
    assert all(set(r) == FIELDS for r in scores["rows"])
    assert {r["mode"] for r in scores["rows"]} == {"strict", "reference"}
    by = {(r["suite"], r["metric"], r["system"]): r for r in scores["rows"]}
    assert by["TimeSpeak-syn", "accuracy@0.6s", "model"]["value"] == 100
    assert by["TimeSpeak-syn", "accuracy@0.6s", "silent"]["n"] == 3
    assert by["RepCount-syn", "OBO", "model[video blanked]"]["value"] == 100  # it only pretends
    assert ("FDB1-pause-syn", "TOR", "model[audio shuffled]") in by
    assert by["FDB1-turn-taking-syn", "latency", "silent"]["value"] is None
    assert by["FDB1-backchannel-syn", "JSD", "model"]["value"] == pytest.approx(0, abs=1e-5)
    wall = {r["metric"]: r["value"] for r in scores["rows"] if r["clock"] == "wall"}
    assert wall == {
        "micro-turn ms": 20, "micro-turn ms p99": 20, "real-time factor": 0.1, "slots": 8,
    }  # fmt: skip
    trace = load(tmp_path / "out/traces/full-0.json")
    assert trace.heard[0].text == "tea"
    assert len(list((tmp_path / "out/fdb/smooth_turn_taking").iterdir())) == 3
    path = report.write(tmp_path / "out", result, {"another": tmp_path / "out/scores.json"})
    text = path.read_text()
    assert text.count("data:image/png") == 4 and text.count("data:audio/ogg") == 1
    assert "<th>another</th>" in text and "0.2 s is the floor" in text
    assert "The timer learnt from the evaluated sessions, to its advantage" in text
    latency = next(line for line in text.split("<tr") if "<td>latency <small>" in line)
    assert "floor 0.2 s" in latency
    model = by["FDB1-turn-taking-syn", "latency", "model"]["value"]
    assert f"wall {model + 0.02:.2f}" in latency  # beside the stream clock's
    assert "ground truth" in str(result.dialogues.keys()) and len(result.dialogues["model"]) == 3
    assert "http" not in text  # nothing from outside
    printed = report.table(result.rows)
    assert "TimeSpeak-syn accuracy@0.6s" in printed and "Decoder-syn micro-turn ms" in printed
    assert "FDB1-turn-taking-syn latency (floor 0.2 s)" in printed
    assert "FDB1.5-overlap-syn RESPOND user_interruption" in printed


def test_the_same_twice(corpus, tmp_path):
    def scores(out):
        runner.evaluate(options(corpus, tmp_path / out, systems=("oracle", "always-talk")))
        return (tmp_path / out / "scores.json").read_text()

    assert scores("a") == scores("b")


def test_what_cannot_be_read_is_counted_and_named_once(tmp_path, monkeypatch, caplog):
    truth = record(
        [trial("TimeSpeak", 0.5, 3.5, triggers=[{"time_s": 2.0, "answer": "tea"}])]
    ).truth
    sessions = [dataclasses.replace(make_record(k, seconds=4.0), truth=truth) for k in range(8)]
    corpus = write_corpus(tmp_path / "eval", sessions)
    flip(corpus.shards[0], bytearray(corpus.shards[0].read_bytes()))
    monkeypatch.setattr(runner, "_pool", lambda _: ThreadPoolExecutor(1))
    with caplog.at_level("WARNING"):
        result = runner.evaluate(
            options(
                f"file://{corpus.path}", tmp_path / "out", systems=("silent", "oracle"),
                suites="TimeSpeak", examples=0,
            )
        )  # fmt: skip
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    ((name, _),) = scores["skipped"].items()
    assert name.startswith("record ") and name.endswith(f" of {corpus.shards[0].name}")
    assert max(r["n"] for r in scores["rows"] if r["system"] == "silent") == 7
    assert sum("skipped" in r.getMessage() for r in caplog.records) == 1
    assert f"1 records or shards cannot be read and are in no row. {name}: " in (
        report.write(tmp_path / "out", result).read_text()
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"systems": ("bogus",)}, "no system 'bogus'; accepted: model"),
        ({"suites": "bogus"}, "no suite 'bogus'"),
        (
            {"systems": ("silent",), "ablate": ("eyes",)},
            "no ablation 'eyes'; accepted: blank_video",
        ),
        ({}, "needs a workdir"),
    ],
)
def test_errors_say_what_is_accepted(corpus, tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        runner.evaluate(options(corpus, tmp_path, **fields))


def test_no_corpus(tmp_path):
    with pytest.raises(CorpusError, match="manifest.json is missing.*--split=eval$"):
        runner.evaluate(options(tmp_path, tmp_path / "out", systems=("silent",)))


def test_a_corpus_without_truth_is_named(tmp_path):
    corpus = write_corpus(tmp_path / "train", [make_record(0)])
    with pytest.raises(CorpusError, match="session s0 has no trials: this is no evaluation corpus"):
        runner.evaluate(options(corpus.path, tmp_path / "out", systems=("silent",)))


COMMANDS = """
import json, sys
from absl import flags
from absl.testing import flagsaver
from tmi.evals import __main__ as evals

flags.FLAGS(["evals", "--out=out"])
for args in json.loads(sys.argv[1]):
    with flagsaver.flagsaver():
        flags.FLAGS(["evals", *args])
        try:
            evals.main(["evals"])
        except SystemExit as e:
            print(json.dumps(e.code))
"""


def test_a_wrong_command_is_one_line(tmp_path):
    cases = {
        "no suite 'bogus'; accepted: ": ["--suite=bogus"],
        "nowhere is no corpus: ": ["--corpus=nowhere", "--systems=silent"],
        "the system 'model' needs a workdir": ["--corpus=nowhere"],
        "work holds no checkpoint": ["--corpus=corpus", "--workdir=file://work"],
        "--beside=x: NAME=scores.json is accepted": ["--systems=silent", "--beside=x"],
        "none.json is no scores.json": ["--systems=silent", "--beside=x=none.json"],
        "gs://bucket/out lies in a bucket": ["--systems=silent", "--out=gs://bucket/out"],
    }
    write_corpus(tmp_path / "corpus", [full()], 1)
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(list(cases.values()))],
        capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
    )  # fmt: skip
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == len(cases), done.stderr
    for expected, line in zip(cases, said, strict=True):
        assert line.startswith("error: ") and expected in line


def test_a_truth_that_lacks_a_field_is_named(corpus):
    session = full()
    del session.truth["trials"][0]["triggers"]
    with pytest.raises(ValueError, match="session full-0: TimeSpeak-syn finds no 'triggers'"):
        runner.score_trace(played(session), session.truth, runner.select(None))


def test_a_session_whose_trials_lack_a_field_is_left_out_and_named(tmp_path):
    damaged = full("damaged")
    del damaged.truth["trials"][0]["region"]
    write_corpus(tmp_path / "c", [full("whole"), damaged], 1)
    result = runner.evaluate(options(tmp_path / "c", tmp_path / "out", systems=("silent",)))
    assert result.scores["skipped"] == {"session damaged": "a trial lacks region"}
    assert next(r.n for r in result.rows if r.metric == "accuracy@0.6s") == 1


def test_what_a_reader_must_know_is_said():
    scores = {
        "corpus_hash": "a", "timer_learnt_from": "b", "split": "eval", "asked": 9, "fewer": {},
        "skipped": {},
    }  # fmt: skip
    assert report.notes(scores) == []
    scores |= {"split": "train", "timer_learnt_from": "a", "fewer": {"Refusal, benign": 3}}
    of_split, of_timer, of_number = report.notes(scores)
    assert "split 'train': nothing is held out" in of_split and "to its advantage" in of_timer
    assert "fewer trials than the 9 asked for: Refusal, benign: 3." in of_number


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("TimeSpeak,timespeak-syn, RepCount", ["TimeSpeak-syn", "RepCount-syn"]),
        ("Spoken", []),
        (",", None),
        ("", None),
    ],
)
def test_each_suite_is_named_once(names, found):
    if found is None:
        with pytest.raises(ValueError, match=f"no suite {names!r}; accepted: TimeSpeak-syn"):
            runner.select(names)
    else:
        assert [b.suite for b in runner.select(names)] == found


def test_sentences_asked_for_by_name_must_be_there(corpus, tmp_path):
    asked = options(corpus, tmp_path / "out", systems=("silent",), suites="Spoken")
    with pytest.raises(CorpusError, match="no Spoken-syn rows"):
        runner.evaluate(asked)


def test_blank_video_keeps_the_times_and_nothing_else():
    seen = full()
    (blank,) = blank_video([seen, record([])])
    assert [t for t, _ in blank.frames] == [t for t, _ in seen.frames]
    pictures = {decode_image(data).tobytes() for _, data in blank.frames}
    assert len(pictures) == 1
    assert np.ptp(decode_image(blank.frames[0][1])) < 8
    np.testing.assert_array_equal(blank.user_audio, seen.user_audio)


def test_blank_video_needs_one_frame_that_decodes():
    good = [(1.0, frame()), (1.2, frame())]
    sessions = [
        record([], id="first", frames=[(0.8, b"damaged"), *good]),
        record([], id="all", frames=[(0.8, b"damaged")]),
    ]
    (blank,) = blank_video(sessions)
    assert blank.id == "first" and [t for t, _ in blank.frames] == [0.8, 1.0, 1.2]
    assert decode_image(blank.frames[0][1]).shape == decode_image(good[0][1]).shape


def test_shuffled_audio_is_another_session_s():
    sessions = [full("a"), record([], user=[(1.0, 2.0)], id="b")]
    a, b = shuffle_audio(sessions)
    assert len(a.user_audio) == len(sessions[0].user_audio)
    np.testing.assert_array_equal(b.user_audio, sessions[0].user_audio[: len(b.user_audio)])
    assert a.truth == sessions[0].truth
    assert not shuffle_audio([sessions[0]])[0].user_audio.any()


def test_names():
    assert set(ABLATIONS) == {"blank_video", "shuffle_audio"}
    assert list(BASELINES)[0] == "silent" and list(BASELINES)[-1] == "oracle"


def test_a_timeline_is_a_picture(tmp_path):
    session = full()
    session.frames.append((90.0, b"no picture"))
    session.frames.append((91.0, frame()))
    draw_timeline(played(session), session, tmp_path / "t.png")
    assert (tmp_path / "t.png").stat().st_size > 20_000


def test_a_timeline_needs_no_truth(tmp_path):
    session = dataclasses.replace(record([], [(1.0, "hello")]), truth={})
    draw_timeline(played(session), session, tmp_path / "t.png")
    assert (tmp_path / "t.png").is_file()
