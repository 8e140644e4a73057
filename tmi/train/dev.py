"""Dev losses of finished weights side by side, by stream and by skill: what picks a leg, or a mean
of legs, before anything is evaluated live.

    python -m tmi.train.dev --workdir=runs/a,runs/b,assets/nano --corpus=build/corpus/dev
        [--batches=24] [--write]

A table on stderr, one JSON object a workdir on stdout. The batches, and the noise of the flow head,
are the same for all, and so are the weights of losses: those of the first. --write notes the losses
in the info.json of exports, which a mean lacks.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence

from absl import app, flags, logging

from tmi import command, compiled, paths, sharding
from tmi.config import Config, ConfigError
from tmi.data.records import CorpusError, open_corpus
from tmi.train import checkpoint
from tmi.train.checkpoint import INFO_FILE, CheckpointError
from tmi.train.loop import make_evaluator

_WORKDIR = flags.DEFINE_list("workdir", None, "Workdirs and exports.", required=True)
_CORPUS = flags.DEFINE_string("corpus", None, "A dev corpus.", required=True)
_BATCHES = flags.DEFINE_integer("batches", 24, "Of the corpus.", lower_bound=1)
_WHICH = flags.DEFINE_enum("which", "best", ["best", "latest"], "Checkpoint of a training.")
_WRITE = flags.DEFINE_bool("write", False, "Into the info.json of exports.")


def alike(config: Config, first: Config, corpus: str, batches: int) -> Config:
    """The config to measure weights of `config` by: data, weights of losses and all that is no part
    of the model are `first`'s; on one device, fast."""
    return dataclasses.replace(
        config,
        name=first.name,
        data=dataclasses.replace(first.data, dev_corpus=corpus),
        model=dataclasses.replace(config.model, numerics="fast"),
        optimizer=first.optimizer,
        train=dataclasses.replace(first.train, eval_batches=batches, mesh=(1,) * 5),
        decode=first.decode,
    )


def losses(
    workdirs: Sequence[str], corpus: str, batches: int, which: str = "best"
) -> Iterator[tuple[str, dict[str, float]]]:
    """(workdir, dev metrics) in order; models of one shape share what is compiled.

    Raises CorpusError, ConfigError and CheckpointError, before anything is computed if a workdir
    cannot be read.
    """
    read = [checkpoint.read(w, which) for w in workdirs]
    evaluators = {}
    for workdir, (saved, params, _) in zip(workdirs, read, strict=True):
        config = alike(saved, read[0][0], corpus, batches)
        if config not in evaluators:
            evaluators[config] = make_evaluator(config, sharding.make_mesh(config))
        yield workdir, {n: float(x) for n, x in evaluators[config](params).items()}


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """A column a workdir, the best of each row marked: the lowest, of an accuracy the highest."""
    names = list(dict.fromkeys(n for row in found.values() for n in row))
    wide = max(len(n) for n in names)
    columns = [max(10, len(w)) for w in found]
    lines = [" " * wide + "".join(f"  {w:>{c}}" for w, c in zip(found, columns, strict=True))]
    for name in names:
        values = [row.get(name) for row in found.values()]
        known = [v for v in values if v is not None]
        best = max(known) if name.startswith("accuracy/") else min(known)
        cells = ("" if v is None else f"{v:.4f}{'*' if v == best else ' '}" for v in values)
        lines.append(
            f"{name:<{wide}}" + "".join(f"  {x:>{c}}" for x, c in zip(cells, columns, strict=True))
        )
    return "\n".join(lines)


def note(workdir: str, corpus: str, batches: int, dev: Mapping[str, float]) -> None:
    """Into an export's info.json. Raises CheckpointError for a training: its steps have theirs."""
    file = paths.at(workdir) / INFO_FILE
    if not file.is_file():
        raise CheckpointError(f"--write: {workdir} is no export (it has no {INFO_FILE})")
    info = json.loads(file.read_text())
    rounded = {n: round(float(x), 4) for n, x in dev.items()}
    info["dev"] = rounded | {"corpus_hash": open_corpus(corpus).hash, "batches": batches}
    paths.write(file, json.dumps(info, indent=1).encode())


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    compiled.keep()
    found: dict[str, Mapping[str, float]] = {}
    with command.one_line(CorpusError, ConfigError, CheckpointError, OSError):
        for workdir, dev in losses(_WORKDIR.value, _CORPUS.value, _BATCHES.value, _WHICH.value):
            found[workdir] = dev
            if _WRITE.value:
                note(workdir, _CORPUS.value, _BATCHES.value, dev)
            print(json.dumps({"workdir": workdir, "dev": dev}), flush=True)
    print(table(found), file=sys.stderr)


if __name__ == "__main__":
    app.run(main)
