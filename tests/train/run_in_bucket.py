"""python run_in_bucket.py CORPUS: trains on a copy of CORPUS in a bucket, into the bucket, twice.

A process of its own: the clients of buckets read where to go from the environment when they start.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys

import bucket

server = bucket.serve()
endpoint = f"http://localhost:{server.server_port}"
os.environ |= {
    "TENSORSTORE_GCS_HTTP_URL": endpoint,  # tensorstore
    "CLOUD_STORAGE_EMULATOR_ENDPOINT": endpoint,  # array_record
    "GCE_METADATA_ROOT": "localhost:1",  # nobody is asked for credentials
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
}

import conftest  # noqa: E402

from experiments import debug  # noqa: E402
from tmi import config as config_lib  # noqa: E402
from tmi.train import checkpoint, loop  # noqa: E402

fs = bucket.BucketFileSystem()
for file in pathlib.Path(sys.argv[1]).iterdir():
    fs.pipe_file(f"/bucket/corpus/{file.name}", file.read_bytes())
loop.machine = conftest.types.SimpleNamespace(matmul_ceiling=lambda: 1e11)

view = debug.get_config()
view.model.num_layers, view.model.num_dense_layers, view.model.num_experts = 1, 0, 3
view.data.corpus = view.data.dev_corpus = "gs://bucket/corpus"
view.train.steps, view.train.log_every, view.train.eval_every = 2, 1, 0
config = config_lib.from_config_dict(view)
make, stop = loop.train_batches, conftest.terminate_at(1)
loop.train_batches = lambda *a, **k: conftest.Meddled(make(*a, **k), stop)
out = [loop.train(config, "gs://bucket/run")["step"]]
loop.train_batches = make
out.append(loop.train(config, "gs://bucket/run")["step"])
found, params = checkpoint.restore_params("gs://bucket/run", "latest")
exported = checkpoint.export("gs://bucket/run", "gs://bucket/export")
_, again = checkpoint.restore_params(exported)
server.shutdown()
names = sorted(p.removeprefix("/bucket/") for p in fs.store if not p.startswith("/bucket/corpus"))
lines = fs.cat_file("/bucket/run/metrics.jsonl").decode().splitlines()
print(
    json.dumps(
        {
            "steps": out,
            "objects": names,
            "lines": [json.loads(x)["step"] for x in lines],
            "same_config": found == config,
            "same_params": sorted(params) == sorted(again),
            "left_here": os.path.exists("gs:"),
        }
    )
)
