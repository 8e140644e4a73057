"""make demo: from nothing to a trained model, its scores and a conversation in real time.

Renders a corpus, trains experiments/demo.py, evaluates it on voices it never heard beside honest
baselines and the shipped nano, streams one held-out session at 200 ms a micro-turn by the wall
clock, and writes a report. What is already there is kept: run it again and it goes on where it
stopped. What another version of the code made, and this one would not, is made afresh: a corpus is
rendered again, a training that cannot go on is put aside.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import soundfile
from absl import app, flags, logging

from data_pipelines import synthetic
from experiments import demo
from tmi import compiled
from tmi import config as config_lib
from tmi.config import Config, ConfigError
from tmi.data import records
from tmi.train import checkpoint

_OUT = flags.DEFINE_string("out", "build/demo", "Where everything goes.")
_N = flags.DEFINE_integer("n", 40, "Trials a row of the evaluation.")
_SESSIONS = flags.DEFINE_list("sessions", ["2500", "60", "120"], "Of train, dev and eval.")
_STEPS = flags.DEFINE_integer("steps", 0, "Training steps; 0: those of experiments/demo.py.")

SUITES = "TimeSpeak,FDB1-turn-taking,FDB1-pause,RepCount"
NANO = pathlib.Path("assets/nano")


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    compiled.keep()
    begun = time.monotonic()
    out = pathlib.Path(_OUT.value)
    config = wanted(out, _STEPS.value)

    step("1/4  renders the corpus: two-sided sessions in synthetic voices, with exact ground truth")
    for split, sessions in zip(("train", "dev", "eval"), _SESSIONS.value, strict=True):
        render(out / "corpus" / split, split, sessions)

    step("2/4  trains experiments/demo.py from nothing")
    put_aside(out / "run", config)
    run("tmi.train", "--config=experiments/demo.py", f"--workdir={out / 'run'}",
        f"--config.data.corpus={config.data.corpus}",
        f"--config.data.dev_corpus={config.data.dev_corpus}",
        *([f"--config.train.steps={_STEPS.value}"] if _STEPS.value else []))  # fmt: skip

    step("3/4  evaluates it on voices, sentences and figures that it never met")
    common = [f"--suite={SUITES}", f"--corpus={out / 'corpus/eval'}", f"--n={_N.value}"]
    beside = []
    if (NANO / "config.json").is_file():
        run("tmi.evals", f"--workdir={NANO}", f"--out={out / 'nano'}", "--systems=model", *common)
        beside = [f"--beside=nano={out / 'nano/scores.json'}"]
    run(
        "tmi.evals",
        f"--workdir={out / 'run'}",
        f"--dev_corpus={out / 'corpus/dev'}",
        f"--out={out}",
        *common,
        *beside,
    )

    step("4/4  streams one held-out session in real time: 200 ms a micro-turn by the wall clock")
    late = converse(out)

    print(f"\nDone in {(time.monotonic() - begun) / 60:.1f} min.")
    print(f"  {out}/report.html       scores beside baselines, timelines, playable sessions")
    print(f"  {out}/conversation.wav  the session streamed just now: user left, model right")
    print(f"  {out}/timeline.png      what was heard, seen and said when ({late} late micro-turns)")


def wanted(out: pathlib.Path, steps: int = 0) -> Config:
    """What is trained: the demo's config, on the corpus in `out`."""
    c = demo.get_config()
    c.data.corpus, c.data.dev_corpus = str(out / "corpus/train"), str(out / "corpus/dev")
    c.train.steps = steps or c.train.steps
    return config_lib.from_config_dict(c)


def render(where: pathlib.Path, split: str, sessions: str) -> None:
    """Renders a corpus, unless the very one is there."""
    arguments = [f"--out={where}", f"--split={split}", f"--sessions={sessions}",
                 f"--skills={','.join(demo.SKILLS)}"]  # fmt: skip
    if (where / "manifest.json").is_file():
        why = synthetic.outdated(synthetic.job_of(synthetic.parse(arguments)))
        if not why:
            return
        print(f"     {where} is rendered afresh: {why}")
    shutil.rmtree(where, ignore_errors=True)
    run("data_pipelines.synthetic", *arguments, "--workers=2")


def put_aside(workdir: pathlib.Path, config: Config) -> None:
    """Renames a training that `config` could not go on with."""
    saved = itertools.chain(workdir.glob("checkpoints/[0-9]*"), workdir.glob("best/[0-9]*"))
    why = apart(unfit, workdir, config) if any(saved) else ""
    if why:
        numbers = (workdir.with_name(f"{workdir.name}.{n}") for n in itertools.count(1))
        aside = next(path for path in numbers if not path.exists())
        workdir.rename(aside)
        print(f"     {workdir} is another training and put aside as {aside}: {why}")


def apart(function: Callable[..., str], *arguments) -> str:
    """Calls it in a process of its own: an accelerator serves one, and the commands need it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def unfit(workdir: pathlib.Path, config: Config) -> str:
    """Why training cannot go on from what was saved in `workdir`; "" if it can."""
    try:
        before, _, info = checkpoint.read(workdir, "latest")
        corpus, now = info["data"]["corpus"], records.open_corpus(config.data.corpus).hash
    except (checkpoint.CheckpointError, ConfigError) as e:
        return str(e)
    other = config_lib.differing_fields(before, config)
    if corpus != now:
        other.append(f"the corpus: {corpus} -> {now}")
    return ", ".join(other)


def converse(out: pathlib.Path) -> int:
    """Streams one session of the evaluation by the clock; returns how many micro-turns took longer
    than they last."""
    from tmi.decode.stream import Decoder
    from tmi.evals.timeline import draw_timeline

    record = next(iter(records.read_sessions(records.open_corpus(out / "corpus/eval"))))
    decoder = Decoder.load(out / "run")
    print(f"     {record.duration_s:.0f} s, skills: {', '.join(record.skills)}")
    (trace,) = decoder.run([record], real_time=True)
    for word, start, _ in trace.words():
        print(f"     {start:6.1f} s  {word}")
    n = max(len(trace.user_audio), len(trace.output_audio))
    both = [np.pad(w, (0, n - len(w))) for w in (trace.user_audio, trace.output_audio)]
    soundfile.write(out / "conversation.wav", np.stack(both, axis=1), 16_000)
    draw_timeline(trace, record, out / "timeline.png")
    wall = [t.wall_ms for t in trace.turns]
    (out / "real_time.json").write_text(
        json.dumps({"median_ms": float(np.median(wall)), "p99_ms": float(np.percentile(wall, 99))})
    )
    return sum(ms > trace.seconds * 1e3 for ms in wall)


def step(text: str) -> None:
    print(f"\n== {text}", flush=True)


def run(module: str, *arguments: str) -> None:
    """A command of the contracts, as a user would run it; its failure ends the demo."""
    command = [sys.executable, "-m", module, *arguments]
    print("   $ python -m " + " ".join(command[2:]), flush=True)
    done = subprocess.run(command)
    if done.returncode:
        raise SystemExit(
            f"{module} failed ({done.returncode}); what was made so far is in {_OUT.value}"
        )


if __name__ == "__main__":
    app.run(main)
