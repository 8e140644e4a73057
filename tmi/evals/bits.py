"""Recordings of evaluated sessions, bit for bit: OUT/traces/<suite>/<id>.trace.npz, the FILE of
`python -m tmi.decode.replay`."""

from __future__ import annotations

import pathlib
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from tmi.data.records import SessionRecord
from tmi.decode import recording
from tmi.decode.stream import Decoder
from tmi.evals.scoring import Benchmark
from tmi.models import tree
from tmi.paths import PathLike
from tmi.train.checkpoint import restore_params


def choose_recorded(
    records: Iterable[SessionRecord], benchmarks: Sequence[Benchmark], each: int
) -> dict[str, list[str]]:
    """Session id -> the suites that it is recorded for: the first `each` with trials of a suite.
    Sessions that are chosen serve as many suites as they hold."""
    suites: dict[str, list[str]] = defaultdict(list)
    missing = {b.suite: each for b in benchmarks if b.trial_suites}
    for record in records:
        held = {t["suite"] for t in record.truth["trials"]}
        serves = [b.suite for b in benchmarks if missing.get(b.suite) and held & {*b.trial_suites}]
        for suite in serves:
            missing[suite] -= 1
            suites[record.id].append(suite)
    return dict(suites)


def record(
    workdir: PathLike, records: Sequence[SessionRecord], suites: dict[str, list[str]],
    out: pathlib.Path, slots: int,
) -> list[pathlib.Path]:  # fmt: skip
    """Streams the sessions once more through a decoder that records, as many at a time as `slots`;
    the files."""
    if not records:
        return []
    config, params = tree.layer_by_layer(*restore_params(workdir))
    weights = recording.digests({n: np.asarray(x) for n, x in params.items()})
    decoder = Decoder(config, params, min(slots, len(records)), record=True)
    files: list[pathlib.Path] = []

    def keep(name: str, recorder: recording.Recorder) -> None:
        first, *others = [out / "traces" / s / f"{name}.trace.npz" for s in suites[name]]
        files.append(recorder.save(first, weights))
        for path in others:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.append(pathlib.Path(shutil.copyfile(first, path)))

    decoder.run(records, recorded=keep)
    return files
