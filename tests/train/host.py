"""What a process of a training of several does; the fixture `processes` has them import this."""

from __future__ import annotations

import atexit
import json
import logging
import os
import runpy
import signal
import sys
import types
from collections.abc import Sequence

import pytest

from tests.train import trainings
from tmi.train import hosts, loop


class Misses(logging.Handler):
    """Notes what jax says that it does not find in its compilation cache."""

    def __init__(self, note):
        super().__init__()
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        if "CACHE MISS" in record.msg:
            self._note("compiled", *record.args)


def train(
    flags: Sequence[str],
    env: dict[str, str],
    notes: str,
    errors: str,
    number: int = 0,
    at: int = 0,
    lost_s: int = hosts.LOST_S,
) -> None:
    """python -m tmi.train FLAGS.

    Args:
      env: variables of its environment.
      notes: a file that gets a line of JSON for each batch, ["rows", digests of those it is given],
        for each step, ["loss", step, loss], and for each program that was not in the compilation
        cache, ["compiled", name, key].
      errors: a file for its stderr.
      number, at: a signal that it sends itself when it is handed batch number `at`, from 1.
      lost_s: in place of hosts.LOST_S.
    """
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    os.environ |= env
    hosts.LOST_S = lost_s
    loop.machine = types.SimpleNamespace(matmul_ceiling=lambda: 1e11)  # seconds, for nothing

    def note(*what) -> None:
        with open(notes, "a") as file:
            print(json.dumps(what), file=file)

    def rows(n: int, digests: list[str]) -> None:
        note("rows", digests)
        if n == at:
            os.kill(os.getpid(), number)

    trainings.watch(pytest.MonkeyPatch(), rows, lambda step, loss: note("loss", step, loss))
    compiler = logging.getLogger("jax._src.compiler")
    compiler.addHandler(Misses(note))
    compiler.setLevel(logging.DEBUG)
    compiler.propagate = False
    sys.argv = ["tmi.train", *flags]
    try:
        runpy.run_module("tmi.train", run_name="__main__", alter_sys=True)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        atexit._run_exitfuncs()  # where hosts part, which multiprocessing leaves out
