"""make demo from any state: what fits is kept, what does not is put aside or made afresh."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import types

import pytest

pytest.importorskip("cv2", reason="drawing video needs the extra [data]")

from data_pipelines import synthetic
from experiments import run_demo
from tmi import config as config_lib
from tmi.config import ConfigError
from tmi.train.checkpoint import CheckpointError

POOLS = {"carriers": ["a"], "voices": ["b"]}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Pools of phrases that need no drawing, and no further process."""
    monkeypatch.setattr(synthetic, "_pools", lambda job: POOLS)
    monkeypatch.setattr(run_demo, "apart", lambda f, *arguments: f(*arguments))


class Commands:
    """In place of the commands: writes what they would leave behind, as far as the demo looks."""

    def __init__(self):
        self.ran: list[str] = []

    def __call__(self, module: str, *arguments: str) -> None:
        given = dict(a.removeprefix("--").split("=", 1) for a in arguments)
        self.ran.append(f"{module} {given.get('split', '')}".strip())
        if module == "data_pipelines.synthetic":
            job = synthetic.job_of(synthetic.parse(arguments))
            out = pathlib.Path(job.out)
            out.mkdir(parents=True)
            (out / "a.array_record").touch()
            (out / "manifest.json").write_text(json.dumps({
                "generator_version": synthetic.GENERATOR_VERSION, "job": synthetic._what(job),
                "hashes": POOLS, "skills": {}, "model_phrases": synthetic.skills.model_texts(
                    synthetic.skills.choose(job.skills)
                ),
                "shards": [{"file": "a.array_record", "sha256": job.split, "count": 1}],
            }))  # fmt: skip
        elif module == "tmi.train":
            (pathlib.Path(given["workdir"]) / "checkpoints" / "2").mkdir(
                parents=True, exist_ok=True
            )


@pytest.fixture
def demo(monkeypatch, tmp_path):
    """run() calls the demo; what its commands would have been is in run.ran."""
    commands = Commands()
    monkeypatch.setattr(run_demo, "run", commands)
    monkeypatch.setattr(run_demo, "converse", lambda out: 0)
    monkeypatch.setattr(run_demo.compiled, "keep", lambda: None)

    def run(steps: int = 2) -> list[str]:
        commands.ran.clear()
        given = {"_OUT": str(tmp_path), "_STEPS": steps, "_SESSIONS": ["3", "1", "1"], "_N": 1}
        for name, value in given.items():
            monkeypatch.setattr(run_demo, name, types.SimpleNamespace(value=value))
        run_demo.main(None)
        return commands.ran

    return run


RENDERS = [f"data_pipelines.synthetic {split}" for split in ("train", "dev", "eval")]


def saved(monkeypatch, config, corpus):
    """Makes it seem that a checkpoint of `config` on the corpus of that hash was saved."""
    info = {"data": {"corpus": corpus}}
    monkeypatch.setattr(run_demo.checkpoint, "read", lambda workdir, which: (config, {}, info))


def test_what_fits_is_kept(demo, tmp_path, monkeypatch, capsys):
    first = demo()
    assert first == [*RENDERS, "tmi.train", "tmi.evals", "tmi.evals"]
    hash = run_demo.records.open_corpus(tmp_path / "corpus/train").hash
    saved(monkeypatch, run_demo.wanted(tmp_path, 2), hash)
    assert demo(steps=3) == ["tmi.train", "tmi.evals", "tmi.evals"]  # steps may differ
    assert not list(tmp_path.glob("run.*")) and "afresh" not in capsys.readouterr().out


def test_what_does_not_fit_is_put_aside_or_made_afresh(demo, tmp_path, monkeypatch, capsys):
    demo()
    manifest = tmp_path / "corpus/dev/manifest.json"
    older = json.loads(manifest.read_text()) | {"generator_version": 0}
    manifest.write_text(json.dumps(older))
    config = run_demo.wanted(tmp_path, 2)
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, qk_gain=1.5))
    hash = run_demo.records.open_corpus(tmp_path / "corpus/train").hash
    saved(monkeypatch, other, hash)
    assert demo() == ["data_pipelines.synthetic dev", "tmi.train", "tmi.evals", "tmi.evals"]
    said = capsys.readouterr().out
    now = synthetic.GENERATOR_VERSION
    assert f"corpus/dev is rendered afresh: generator_version: 0 -> {now}" in said
    assert "put aside as " in said and "run.1: model.qk_gain: 1.5 -> 2.0" in said
    assert (tmp_path / "run.1/checkpoints/2").is_dir()
    saved(monkeypatch, config, "another")
    demo()
    assert f"run.2: the corpus: another -> {hash}" in capsys.readouterr().out


@pytest.mark.parametrize("error", [CheckpointError("step 2 is torn"), ConfigError("no field x")])
def test_a_training_that_cannot_be_read_is_put_aside(error, tmp_path, monkeypatch):
    def read(*_):
        raise error

    monkeypatch.setattr(run_demo.checkpoint, "read", read)
    config = run_demo.wanted(tmp_path)
    run_demo.put_aside(tmp_path / "run", config)  # nothing is there
    (tmp_path / "run/checkpoints/2").mkdir(parents=True)
    assert run_demo.unfit(tmp_path / "run", config) == str(error)
    run_demo.put_aside(tmp_path / "run", config)
    assert not (tmp_path / "run").exists() and (tmp_path / "run.1").exists()


def test_a_corpus_tells_what_is_outdated(demo, tmp_path):
    demo()
    out = tmp_path / "corpus/eval"
    skills = ",".join(run_demo.demo.SKILLS)
    job = synthetic.Job(str(out), "eval", 0, 1, skills)
    assert synthetic.outdated(job) == ""
    assert "sessions: 1 -> 2" in synthetic.outdated(dataclasses.replace(job, sessions=2))
    manifest = json.loads((out / "manifest.json").read_text())
    other = manifest | {"hashes": POOLS | {"voices": ["c"]}}
    (out / "manifest.json").write_text(json.dumps(other))
    assert synthetic.outdated(job) == "another generator made it: voices differ"
    (out / "a.array_record").unlink()
    assert "1 of its 1 shards are gone" in synthetic.outdated(job)
    (out / "manifest.json").write_text("{")
    assert "cannot be read" in synthetic.outdated(job)


def test_its_training_is_the_demos(tmp_path):
    config = run_demo.wanted(pathlib.Path("build/demo"))
    assert config == config_lib.from_config_dict(run_demo.demo.get_config())
