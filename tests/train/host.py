"""One process of a training of several: python host.py LOG SIGNAL AT FLAGS-OF-TMI.TRAIN

Writes to LOG what rows it was given, and sends itself SIGNAL (a number, 0: none) when it is handed
batch number AT.
"""

from __future__ import annotations

import os
import runpy
import sys
import types

import conftest

from tmi.train import loop


def main() -> None:
    log, number, at = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    loop.machine = types.SimpleNamespace(matmul_ceiling=lambda: 1e11)  # seconds, for nothing
    make = loop.train_batches

    def note(n: int, batch) -> None:
        with open(log, "a") as file:
            print(*conftest.row_digests(batch), file=file)
        if n == at:
            os.kill(os.getpid(), number)

    loop.train_batches = lambda *a, **k: conftest.Meddled(make(*a, **k), note)
    sys.argv = ["tmi.train", *sys.argv[4:]]
    runpy.run_module("tmi.train", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
