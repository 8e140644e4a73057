"""A run whose corpus, checkpoints and figures lie in a bucket."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

from tmi import paths
from tmi.data.records import open_corpus
from tmi.train import checkpoint

HERE = pathlib.Path(__file__).parent


def test_a_run_lives_in_a_bucket(corpus, tmp_path):
    env = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(
        [sys.executable, str(HERE / "run_in_bucket.py"), str(corpus.path)],
        capture_output=True, text=True, env=env, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["steps"] == [1, 2] and said["same_config"] and said["same_params"]
    assert "resumes from step 1 in gs://bucket/run" in done.stderr
    objects = said["objects"]
    assert {"run/config.json", "export/params.npz", "export/info.json"} <= set(objects)
    assert any(o.startswith("run/checkpoints/2/") for o in objects)
    assert any(o.startswith("run/tensorboard/") for o in objects)
    assert said["lines"] == [1, 2]
    assert not list(tmp_path.iterdir())  # nothing under a local folder called 'gs:'


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
