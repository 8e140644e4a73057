"""Where a checkpoint comes from: what is written beside weights so they can be made again."""

from __future__ import annotations

import datetime
import pathlib
import shlex
import subprocess
import sys

from tmi import machine


def commit() -> str:
    """The git commit of this code, '+changes' behind it if files differ; 'unknown' without git."""
    here = pathlib.Path(__file__).parent

    def git(*args: str) -> str:
        run = subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, timeout=20)
        return run.stdout.strip() if run.returncode == 0 else ""

    try:
        head = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return (head + ("+changes" if changed else "")) or "unknown"


def command() -> str:
    """The command line of this process as a shell takes it, without the paths of the machine."""
    first = pathlib.Path(sys.argv[0])
    if first.name == "__main__.py":
        return shlex.join(["python", "-m", f"tmi.{first.parent.name}", *sys.argv[1:]])
    return shlex.join([first.name, *sys.argv[1:]])


def new_leg(corpus_hash: str, seed: int, start_step: int) -> dict:
    """A leg is one process' share of a training; `steps` and `wall_s` grow until it ends."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command(),
        "commit": commit(),
        "corpus_hash": corpus_hash,
        "seed": seed,
        "machine": machine.describe(),
        "start_step": start_step,
        "steps": 0,
        "wall_s": 0.0,
    }
