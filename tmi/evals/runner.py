"""Streams sessions through the real decoder, scores the traces, writes scores.json and traces."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor

import numpy as np
from absl import logging
from tqdm import tqdm

from tmi import paths
from tmi.config import Config, to_json
from tmi.data.records import (
    Corpus,
    CorpusError,
    SessionRecord,
    Skipped,
    open_corpus,
    read_sessions,
)
from tmi.evals import bits, choice, export, moonshine, spoken
from tmi.evals import trace as traces
from tmi.evals.ablations import ABLATIONS
from tmi.evals.baselines import BASELINES, Prior, learn, model_speech, note_truth, user_speech
from tmi.evals.scoring import Benchmark, Row, Trial, rows
from tmi.evals.statistics import Statistics, dialogue
from tmi.evals.suites import BENCHMARKS, select
from tmi.evals.trace import Trace
from tmi.evals.wall import WallClock

MODEL = "model"
TRUTH = "ground truth"
GROUP = 64  # sessions that are in memory at a time
PRIOR_SESSIONS = 100  # of dev, from which the timer learns


@dataclasses.dataclass(frozen=True)
class Options:
    """What to evaluate, on what, and where to write. See the flags of tmi/evals/__main__.py."""

    out: pathlib.Path
    corpus: paths.PathLike
    workdir: paths.PathLike | None = None
    dev_corpus: paths.PathLike | None = None
    suites: str | None = None
    n: int = 0  # trials a suite, 0: all
    systems: tuple[str, ...] = (MODEL, *BASELINES)
    ablate: tuple[str, ...] = ()
    ablate_n: int = 0  # 0: as n
    seed: int = 0
    slots: int = 8
    workers: int = 0  # 0: one a core
    examples: int = 8  # sessions drawn in the report
    save_traces: bool = True
    record_bits: int = 0  # sessions a suite whose bits are kept: traces/<suite>/<id>.trace.npz
    export_fdb: bool = False


@dataclasses.dataclass
class Result:
    """scores: the contents of scores.json. The rest is for the report: sessions with their traces,
    what happened between the two sides of every session by system (MODEL, TRUTH), and the length of
    a micro-turn.
    """

    scores: dict
    rows: list[Row]
    examples: list[tuple[SessionRecord, Trace]]
    seconds: dict[str, float]  # wall time by phase
    dialogues: dict[str, list[Statistics]]
    microturn_s: float


class _Scores:
    """Trials by system and suite."""

    def __init__(self, benchmarks: Sequence[Benchmark]):
        self.benchmarks = benchmarks
        self.trials: dict[str, dict[str, list[Trial]]] = {}

    def add(self, system: str, found: dict[str, list[Trial]]) -> None:
        for suite, some in found.items():
            self.trials.setdefault(system, {}).setdefault(suite, []).extend(some)

    def rows(self, seed: int) -> list[Row]:
        return [
            r
            for b in self.benchmarks
            for system, by_suite in self.trials.items()
            if by_suite.get(b.suite)
            for r in rows(b, system, by_suite[b.suite], seed)
        ]


def evaluate(options: Options) -> Result:
    """What cannot be read of the corpus is left out, and named in scores["skipped"].

    Raises ValueError as `check` does, CorpusError on a corpus and CheckpointError on a workdir that
    cannot be used.
    """
    check(options)
    benchmarks = select(options.suites)
    with_spoken = not options.suites or "spoken" in options.suites.lower()
    corpus = open_corpus(options.corpus, "eval")
    grammar = _grammar(corpus, asked=options.suites is not None) if with_spoken else None
    dev = _dev_corpus(options, corpus)
    decoder = _decoder(options) if MODEL in options.systems else None
    config = decoder.config if decoder else Config()
    skipped = Skipped()

    def read(ids: Sequence[str] | None = None) -> Iterator[SessionRecord]:  # the same each time
        return choice.whole(read_sessions(corpus, ids, skipped=skipped), skipped)

    ids = choice.choose(read(), benchmarks, options.n)
    if not ids:
        raise CorpusError(
            f"{options.corpus}: no session has a trial of {options.suites or 'any suite'}; "
            f"{len(skipped)} of its records or shards cannot be read"
        )
    scores, seconds = _Scores(benchmarks), {}
    out_rows: list[Row] = []
    examples: list[tuple[SessionRecord, Trace]] = []
    shown = set(choice.examples(read(ids), options.examples))
    baselines = [s for s in options.systems if s in BASELINES]
    with _pool(options) as pool:
        begun = time.monotonic()
        if baselines and benchmarks:
            learnt_from = read_sessions(dev or corpus, skipped=skipped)
            learnt_from = choice.whole(learnt_from, skipped)
            prior = learn(itertools.islice(learnt_from, PRIOR_SESSIONS))
            run_baselines(read(ids), len(ids), benchmarks, prior, baselines, scores, pool)
            seconds["baselines"] = time.monotonic() - begun
        said: list[spoken.Spoken] = []
        wall = WallClock(options.slots)
        dialogues: dict[str, list[Statistics]] = {MODEL: []} if decoder else {}
        dialogues[TRUTH] = [dialogue(user_speech(r), model_speech(r)) for r in read(ids)]

        def keep(record: SessionRecord, trace: Trace) -> None:
            if options.save_traces:
                traces.save(trace, options.out / "traces")
            if options.export_fdb:
                export.full_duplex_bench(trace, record.truth, options.out / "fdb")
            if record.id in shown:
                examples.append((record, trace))
            wall.add(trace)
            dialogues[MODEL].append(dialogue(user_speech(record), trace.segments))
            if grammar:
                said.extend(spoken.utterances_of(trace, record.truth, grammar))

        if decoder:
            begun = time.monotonic()
            run_model(
                decoder,
                _groups(read(ids)),
                len(ids),
                benchmarks,
                MODEL,
                scores,
                keep,
            )
            seconds["model"] = time.monotonic() - begun
            if options.record_bits and options.workdir:
                begun = time.monotonic()
                suites = bits.choose_recorded(read(ids), benchmarks, options.record_bits)
                some = list(read(list(suites)))
                bits.record(options.workdir, some, suites, options.out, options.slots)
                seconds["bits"] = time.monotonic() - begun
        else:
            for record in read(list(shown)):
                examples.append((record, BASELINES["oracle"](record, Prior({}, {}, {}))))
        if grammar:
            begun = time.monotonic()
            model_said = said if decoder else None
            out_rows = spoken_rows(model_said, read(ids), grammar, config, options.seed, pool)
            seconds["spoken"] = time.monotonic() - begun
    for name in options.ablate:
        begun = time.monotonic()
        label, change = ABLATIONS[name]
        some = choice.choose(read(), benchmarks, options.ablate_n or options.n)
        changed = (change(group) for group in _groups(read(some)))
        run_model(decoder, changed, len(some), benchmarks, f"{MODEL}[{label}]", scores)
        seconds[name] = time.monotonic() - begun
    out_rows = scores.rows(options.seed) + out_rows + wall.rows(MODEL, options.seed)
    result = Result(
        {
            "corpus_hash": corpus.hash,
            "split": corpus.manifest.get("split"),
            "timer_learnt_from": (dev or corpus).hash,
            "asked": options.n,
            "fewer": choice.fewer(read(ids), benchmarks, options.n),
            "checkpoint": checkpoint_id(options.workdir) if decoder and options.workdir else None,
            "seed": options.seed,
            "skipped": _relative(skipped, corpus),
            "rows": [dataclasses.asdict(r) | {"ci95": list(r.ci95)} for r in out_rows],
        },
        out_rows,
        examples,
        seconds,
        dialogues,
        config.microturn.seconds,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "scores.json").write_text(json.dumps(result.scores, indent=1))
    return result


# Phases.


def run_model(
    decoder,
    groups: Iterable[Sequence[SessionRecord]],
    count: int,
    benchmarks: Sequence[Benchmark],
    system: str,
    scores: _Scores,
    keep: Callable[[SessionRecord, Trace], None] | None = None,
) -> None:
    """Streams groups of sessions through the decoder's slots; scores and forgets each trace."""
    with tqdm(total=count, desc=system, unit="session") as bar:
        for group in groups:
            by_id = {record.id: record for record in group}

            def done(trace: Trace, by_id=by_id) -> None:
                record = by_id[trace.id]
                note_truth(trace, record)
                scores.add(system, score_trace(trace, record.truth, benchmarks))
                if keep:
                    keep(record, trace)
                bar.update()

            decoder.run(list(group), progress=done, system=system)


def run_baselines(
    records: Iterable[SessionRecord],
    count: int,
    benchmarks: Sequence[Benchmark],
    prior: Prior,
    names: Sequence[str],
    scores: _Scores,
    pool: Executor,
) -> None:
    suites = [b.suite for b in benchmarks]
    tasks = ((r, prior, tuple(names), suites) for r in records)
    with tqdm(total=count, desc="baselines", unit="session") as bar:
        for some in _batches(tasks, 16):
            for found in pool.map(_score_baselines, some):
                for system, by_suite in found.items():
                    scores.add(system, by_suite)
                bar.update()


def _score_baselines(task) -> dict[str, dict[str, list[Trial]]]:
    record, prior, names, suites = task
    benchmarks = [b for b in BENCHMARKS if b.suite in suites]
    return {n: score_trace(BASELINES[n](record, prior), record.truth, benchmarks) for n in names}


def score_trace(
    trace: Trace, truth: dict, benchmarks: Sequence[Benchmark]
) -> dict[str, list[Trial]]:
    """The trials of one session by suite. Raises CorpusError naming a field that the truth
    lacks."""
    out = {}
    for b in benchmarks:
        try:
            out[b.suite] = b.score(trace, truth)
        except KeyError as e:
            raise CorpusError(
                f"session {trace.id}: {b.suite} finds no {e} in a trial's truth"
            ) from e
    return out


def spoken_rows(
    model_said: Sequence[spoken.Spoken] | None,
    records: Iterable[SessionRecord],
    grammar: Sequence[spoken.Words],
    config: Config,
    seed: int,
    pool: Executor,
) -> list[Row]:
    """Word accuracy of the model's output, the voice's recordings, their mel, and chance; then the
    word error rate by moonshine, unless it cannot be loaded.
    """
    recordings = spoken.choose([s for r in records for s in spoken.recordings_of(r)], seed)
    mel = [spoken.through_mel(s, config.speech) for s in recordings]
    groups = {"recordings": recordings, "mel": mel}
    if model_said is not None:
        groups = {MODEL: spoken.choose(model_said, seed)} | groups
    out: list[Row] = []
    for system, some in groups.items():
        heard = spoken.recognise(some, grammar, pool)
        out += spoken.rows(system, spoken.trials(some, heard), seed)
        if system == "recordings":
            out += spoken.rows("chance", spoken.chance(some, heard, seed), seed)
    try:
        for system, some in groups.items():
            out += spoken.open_rows(system, some, seed, pool)
    except moonshine.UnavailableError as e:
        logging.warning("no %s rows by moonshine: %s", spoken.SUITE, e)
    return out


# Parts.


def checkpoint_id(workdir: paths.PathLike) -> str:
    """Identifies what is evaluated: a hash of the config and of the weights that the decoder takes,
    and of nothing else that a workdir holds."""
    from tmi.train.checkpoint import restore_params

    config, params = restore_params(workdir)
    digest = hashlib.sha256(to_json(config).encode())
    for name, x in sorted(params.items()):
        digest.update(f"{name} {x.shape}".encode() + np.asarray(x).tobytes())
    return digest.hexdigest()[:16]


def _relative(skipped: Skipped, corpus: Corpus) -> dict[str, str]:
    """Name -> why, as they are in a copy of the corpus at another place."""
    here = f"{corpus.path}/"
    return {k.replace(here, ""): v.replace(here, "") for k, v in skipped.reasons.items()}


def check(options: Options) -> None:
    """Raises ValueError, which says what is accepted, on an unknown suite, system or ablation and
    on a model without a workdir."""
    select(options.suites)
    known = (MODEL, *BASELINES)
    for system in options.systems:
        if system not in known:
            raise ValueError(f"no system {system!r}; accepted: {', '.join(known)}")
    for name in options.ablate:
        if name not in ABLATIONS:
            raise ValueError(f"no ablation {name!r}; accepted: {', '.join(ABLATIONS)}")
    needs_model = MODEL in options.systems or options.ablate
    if needs_model and options.workdir is None:
        raise ValueError("the system 'model' needs a workdir with a checkpoint: --workdir=DIR")
    if options.ablate and MODEL not in options.systems:
        raise ValueError("an ablation needs the system 'model'")


def _decoder(options: Options):
    assert options.workdir is not None  # check
    from tmi.decode.stream import Decoder

    return Decoder.load(options.workdir, slots=options.slots)


def _grammar(corpus: Corpus, asked: bool) -> list[spoken.Words] | None:
    """Raises CorpusError if the corpus has none although it was asked for by name."""
    try:
        return spoken.sentences(corpus.manifest.get("model_phrases", ()))
    except spoken.GrammarError as e:
        if asked:
            raise CorpusError(f"{corpus.path}: no {spoken.SUITE} rows: {e}") from e
        logging.warning("no %s rows: %s", spoken.SUITE, e)
        return None


def _dev_corpus(options: Options, corpus: Corpus) -> Corpus | None:
    """What the timer learns from, unless it has only the evaluated corpus itself."""
    sibling = corpus.path.parent / "dev"
    dev = options.dev_corpus or (sibling if (sibling / "manifest.json").is_file() else None)
    return None if dev is None else open_corpus(dev, "dev")


def _pool(options: Options) -> ProcessPoolExecutor:
    # Spawned, since a forked JAX hangs. The scorers are single-threaded.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(options.workers or os.cpu_count() or 1, mp_context=context)


def _groups(records: Iterable[SessionRecord]) -> Iterator[list[SessionRecord]]:
    return _batches(records, GROUP)


def _batches(items: Iterable, size: int) -> Iterator[list]:
    items = iter(items)
    while some := list(itertools.islice(items, size)):
        yield some
