"""A run whose corpus, checkpoints and figures lie in a bucket."""

from __future__ import annotations

import json
import pathlib

from tests.train import bucket_run
from tests.train.trainings import replace
from tmi import paths
from tmi.data.records import open_corpus
from tmi.train import checkpoint


def test_a_run_lives_in_a_bucket(config, corpus, processes, tmp_path):
    config = replace(config, data__corpus="gs://bucket/corpus", train__eval_every=3)
    config = replace(config, train__log_every=1, train__save_every=0, train__eval_batches=1)
    cwd, said, errors = (tmp_path / name for name in ("cwd", "said", "errors"))
    cwd.mkdir()
    files = [str(x) for x in (corpus.path, cwd, said, errors)]
    process = processes.Process(target=bucket_run.train, args=(config, *files))
    process.start()
    process.join(600)
    assert process.exitcode == 0, errors.read_text()
    out = json.loads(said.read_text())
    assert out["steps"] == [1, config.train.steps] and out["lines"] == [1, 2, 3, 3, 4, 5, 6, 6]
    assert out["same_config"] and out["same_params"]
    assert "resumes from step 1 in gs://bucket/run" in errors.read_text()
    objects = out["objects"]
    assert {"run/config.json", "export/params.npz", "export/info.json"} <= set(objects)
    assert any(o.startswith("run/checkpoints/6/") for o in objects)
    assert any(o.startswith("run/best/") for o in objects)
    assert any(o.startswith("run/tensorboard/") for o in objects)
    assert not list(cwd.iterdir())  # nothing under a local folder called 'gs:'


def test_a_path_is_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(paths.absolute("gs://b/x")) == "gs://b/x" and paths.is_remote("gs://b/x")
    assert paths.absolute("x") == tmp_path / "x" and not paths.is_remote("x")
    assert paths.at("file:///x/y") == pathlib.Path("/x/y") and str(paths.at("x/y")) == "x/y"
    paths.write(paths.at("here"), b"old")
    paths.write(paths.at("here"), b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["here"]
    assert (tmp_path / "here").read_bytes() == b"new"


def test_file_urls_are_local_paths(config, corpus, tmp_path):
    assert open_corpus(f"file://{corpus.path}").hash == corpus.hash
    checkpoint.write_config(f"file://{tmp_path}/run", config)
    assert (tmp_path / "run" / "config.json").is_file()
    assert checkpoint.Checkpoints(f"file://{tmp_path}/run").path == tmp_path / "run"
