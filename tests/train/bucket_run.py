"""A training in a bucket, stopped and resumed, in one of the `processes`: the clients of buckets
read where to go from the environment when they start."""

from __future__ import annotations

import json
import os
import pathlib
import sys
import types

import pytest

from tests.train import bucket, trainings
from tmi.config import Config
from tmi.train import checkpoint, loop

RUN = "gs://bucket/run"


def train(config: Config, corpus: str, cwd: str, said: str, errors: str) -> None:
    """Copies `corpus` into the bucket and trains there; the file `said` gets JSON of what came of
    it, `errors` the process' stderr."""
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    os.chdir(cwd)
    server = bucket.serve()
    endpoint = f"http://localhost:{server.server_port}"
    os.environ |= {
        "TENSORSTORE_GCS_HTTP_URL": endpoint,  # tensorstore
        "CLOUD_STORAGE_EMULATOR_ENDPOINT": endpoint,  # array_record
        "GCE_METADATA_ROOT": "localhost:1",  # nobody is asked for credentials
    }
    loop.machine = types.SimpleNamespace(matmul_ceiling=lambda: 1e11)  # seconds, for nothing
    fs = bucket.BucketFileSystem()
    for file in pathlib.Path(corpus).iterdir():
        fs.pipe_file(f"/bucket/corpus/{file.name}", file.read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        make, stop = loop.train_batches, trainings.terminate_at(1)
        patch.setattr(loop, "train_batches", lambda *a, **k: trainings.Meddled(make(*a, **k), stop))
        steps = [loop.train(config, RUN)["step"]]
    steps.append(loop.train(config, RUN)["step"])
    found, params = checkpoint.restore_params(RUN, "latest")
    exported = checkpoint.export(RUN, "gs://bucket/export")
    _, again = checkpoint.restore_params(exported)
    server.shutdown()
    names = [p.removeprefix("/bucket/") for p in fs.store if not p.startswith("/bucket/corpus")]
    lines = fs.cat_file("/bucket/run/metrics.jsonl").decode().splitlines()
    out = {
        "steps": steps,
        "objects": sorted(names),
        "lines": [json.loads(x)["step"] for x in lines],
        "same_config": found == config,
        "same_params": sorted(params) == sorted(again),
    }
    pathlib.Path(said).write_text(json.dumps(out))
    sys.stderr.flush()
