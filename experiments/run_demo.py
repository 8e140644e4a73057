"""make demo: from nothing to a trained model, its scores and a conversation in real time.

Renders a corpus, trains experiments/demo.py, evaluates it on voices it never heard beside honest
baselines and the shipped nano, streams one held-out session at 200 ms a micro-turn by the wall
clock, and writes a report. What is already there is kept: run it again and it goes on where it
stopped.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import soundfile
from absl import app, flags, logging

from experiments import demo
from tmi import compiled
from tmi.data import records

_OUT = flags.DEFINE_string("out", "build/demo", "Where everything goes.")
_N = flags.DEFINE_integer("n", 40, "Trials a row of the evaluation.")
_STEPS = flags.DEFINE_integer("steps", 0, "Training steps; 0: those of experiments/demo.py.")

SUITES = "TimeSpeak,FDB1-turn-taking,FDB1-pause,RepCount"
NANO = pathlib.Path("assets/nano")
SESSIONS = (("train", 2500), ("dev", 60), ("eval", 120))


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    compiled.keep()
    begun = time.monotonic()
    out = pathlib.Path(_OUT.value)
    skills = ",".join(demo.SKILLS)

    step("1/4  renders the corpus: two-sided sessions in synthetic voices, with exact ground truth")
    for split, sessions in SESSIONS:
        where = out / "corpus" / split
        if not (where / "manifest.json").is_file():
            shutil.rmtree(where, ignore_errors=True)
            run("data_pipelines.synthetic", f"--out={where}", f"--split={split}",
                f"--sessions={sessions}", f"--skills={skills}", "--workers=2")  # fmt: skip

    step("2/4  trains experiments/demo.py from nothing")
    run("tmi.train", "--config=experiments/demo.py", f"--workdir={out / 'run'}",
        f"--config.data.corpus={out / 'corpus/train'}",
        f"--config.data.dev_corpus={out / 'corpus/dev'}",
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
