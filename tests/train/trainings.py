"""What tests of training share, in pytest's process and in others: configs, meddling, digests."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal

import pytest

from tmi.config import Config
from tmi.train import loop


def replace(config: Config, **fields) -> Config:
    """A config with other values: replace(c, train__steps=3)."""
    for name, value in fields.items():
        section, field = name.split("__")
        part = dataclasses.replace(getattr(config, section), **{field: value})
        config = dataclasses.replace(config, **{section: part})
    return config


class Meddled:
    """Batches that call `meddle(number, batch)` on each as it is handed out, from 1."""

    def __init__(self, batches, meddle):
        self._batches, self._meddle = batches, meddle

    def __getattr__(self, name):
        return getattr(self._batches, name)

    def __next__(self):
        batch = next(self._batches)
        return self._meddle(self._batches.num_batches, batch) or batch


def watch(patch: pytest.MonkeyPatch, see_rows, see_loss) -> None:
    """Trainings call see_rows(number of a batch, digests of its rows) and see_loss(step, loss)."""
    make, add = loop.train_batches, loop.Window.add_result

    def add_result(self, step, values):
        see_loss(step, float(values["loss"]))
        return add(self, step, values)

    def meddle(n, batch):
        see_rows(n, row_digests(batch))

    patch.setattr(loop, "train_batches", lambda *a, **k: Meddled(make(*a, **k), meddle))
    patch.setattr(loop.Window, "add_result", add_result)


def terminate_at(number: int):
    def f(n, batch):
        if n == number:
            os.kill(os.getpid(), signal.SIGTERM)

    return f


def row_digests(batch) -> list[str]:
    """What identifies each row of a batch."""
    keys = sorted(batch)
    return [
        hashlib.sha1(b"".join(batch[k][row].tobytes() for k in keys)).hexdigest()
        for row in range(len(batch[keys[0]]))
    ]
