"""python -m tmi.evals --workdir=W [--suite=NAMES] [--corpus=DIR] --out=DIR"""

from __future__ import annotations

from absl import app, flags, logging

from tmi import command, compiled, paths
from tmi.config import ConfigError
from tmi.data.records import CorpusError
from tmi.evals.baselines import BASELINES
from tmi.evals.runner import MODEL, Options, check, evaluate

_WORKDIR = flags.DEFINE_string("workdir", None, "Holds the checkpoint; not needed for baselines.")
_SUITE = flags.DEFINE_string("suite", None, "Comma list of suites; all by default.")
_CORPUS = flags.DEFINE_string("corpus", "build/corpus/eval", "The corpus to evaluate on.")
_DEV = flags.DEFINE_string(
    "dev_corpus", None, "What the timer learns from; dev beside --corpus, else --corpus itself."
)
_OUT = flags.DEFINE_string(
    "out", None, required=True, help="Where scores.json, report.html and traces go."
)
_N = flags.DEFINE_integer(
    "n",
    0,
    "Trials a suite, in sessions as short as are easily found; 0: all.",
    lower_bound=0,
)
_SYSTEMS = flags.DEFINE_list("systems", [MODEL, *BASELINES], "The model and baselines to run.")
_ABLATE = flags.DEFINE_list("ablate", [], "blank_video, shuffle_audio: the model without a sense.")
_ABLATE_N = flags.DEFINE_integer(
    "ablate_n", 0, "Trials a suite of an ablation; 0: as --n.", lower_bound=0
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the bootstrap and of choices.", lower_bound=0)
_SLOTS = flags.DEFINE_integer("slots", 8, "Sessions decoded at a time.", lower_bound=1)
_BESIDE = flags.DEFINE_list("beside", [], "NAME=scores.json: other figures shown in the report.")
_RECORD = flags.DEFINE_integer(
    "record_bits", 1, "Sessions a suite whose bits are kept for tmi.decode.replay.", lower_bound=0
)
_EXPORT = flags.DEFINE_bool("export_fdb", False, "Also write Full-Duplex-Bench folders to OUT/fdb.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    logging.set_verbosity(logging.WARNING)
    compiled.keep()
    from tmi.evals import report
    from tmi.train.checkpoint import CheckpointError

    with command.one_line(ValueError, OSError):
        options = Options(
            out=paths.local(_OUT.value),
            corpus=_CORPUS.value,
            workdir=_WORKDIR.value or None,
            dev_corpus=_DEV.value or None,
            suites=_SUITE.value,
            n=_N.value,
            systems=tuple(_SYSTEMS.value),
            ablate=tuple(_ABLATE.value),
            ablate_n=_ABLATE_N.value,
            seed=_SEED.value,
            slots=_SLOTS.value,
            export_fdb=_EXPORT.value,
            record_bits=_RECORD.value,
        )
        check(options)
        beside = dict(_named(pair) for pair in _BESIDE.value)
        report.others(beside)
        options.out.mkdir(parents=True, exist_ok=True)
    with command.one_line(CheckpointError, ConfigError, CorpusError):
        result = evaluate(options)
    print(report.table(result.rows, result.microturn_s))
    path = report.write(options.out, result, beside)
    print(f"scores: {options.out / 'scores.json'}\nreport: {path}")
    for note in report.notes(result.scores):
        print(note)


def _named(pair: str) -> tuple[str, str]:
    name, _, path = pair.partition("=")
    if not (name and path):
        raise ValueError(f"--beside={pair}: NAME=scores.json is accepted")
    return name, path


if __name__ == "__main__":
    app.run(main)
