"""Figures of a run: averages over steps, speeds as shares of the machine, and where they go."""

from __future__ import annotations

import contextlib
import json
import math
import pathlib
import sys
import tempfile
import time
from collections.abc import Mapping

import numpy as np
import tqdm
from clu import metrics as clu_metrics
from tensorboardX import SummaryWriter

from tmi import paths
from tmi.config import Config
from tmi.data.batch import Batch, fill_ratio
from tmi.models.flops import batch_flops
from tmi.train.optimizer import schedule


class TrainingDiverged(RuntimeError):
    """A loss or gradient is no number; the message names the step."""


def mean(values, weights=None) -> float:
    """The weighted mean; 0 if there is no weight at all."""
    values = np.asarray(values, np.float32)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, np.float32)
    total, count = np.sum(values * weights), np.sum(weights)
    average = clu_metrics.Average(total=total, count=count)  # pyright: ignore[reportCallIssue]
    return float(average.compute()) if average.count else 0.0


class Window:
    """What happened since the last report. Seconds in which `pause` was open do not count."""

    def __init__(self, config: Config, ceiling: float):
        """ceiling: FLOP/s that the devices together can do (tmi/machine.py)."""
        self._config, self._ceiling = config, ceiling
        self._schedule = schedule(config.optimizer, config.train.steps)
        self._reset()

    def _reset(self) -> None:
        self._values: dict[str, list[float]] = {}
        self._positions, self._flops, self._wait = 0.0, 0.0, 0.0
        self._fill: list[float] = []
        self._paused, self._start = 0.0, time.perf_counter()

    def restart(self) -> None:
        """Forgets the time so far (a compilation's)."""
        self._start, self._paused, self._wait = time.perf_counter(), 0.0, 0.0
        self._positions, self._flops = 0.0, 0.0

    def add_batch(self, batch: Batch, wait_s: float, share: float = 1) -> None:
        """The batch of a step; with several processes there is `share` times as much of it."""
        self._positions += share * int(np.sum(batch["segment"] > 0))
        self._flops += share * batch_flops(self._config, batch)
        self._fill.append(fill_ratio(batch))
        self._wait += wait_s

    def add_result(self, step: int, values: Mapping[str, np.ndarray]) -> float:
        """The metrics of step `step`; returns its loss. Raises TrainingDiverged if it is none."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(float(value))
        for name in ("loss", "grad_norm"):
            if not math.isfinite(values[name]):
                parts = ", ".join(f"{k}={float(v):.4g}" for k, v in sorted(values.items()))
                raise TrainingDiverged(f"step {step}: {name} is {float(values[name])} ({parts})")
        return float(values["loss"])

    def pause(self) -> Pause:
        return Pause(self)

    def report(self, step: int) -> dict[str, float]:
        """Averages since the last report, and speeds."""
        seconds = max(1e-9, time.perf_counter() - self._start - self._paused)
        out = {name: mean(values) for name, values in self._values.items()}
        o, scale = self._config.optimizer, float(np.asarray(self._schedule(step)))
        out |= {
            "learning_rate/muon": o.muon_learning_rate * scale,
            "learning_rate/adam": o.adam_learning_rate * scale,
            "input/fill_ratio": mean(self._fill),
        }
        if self._positions:
            out |= {
                "input/wait_share": self._wait / seconds,
                "speed/tokens_per_s": self._positions / seconds,
                "speed/model_gflops": self._flops / seconds / 1e9,
                "speed/share_of_ceiling": self._flops / seconds / self._ceiling,
            }
        self._reset()
        return out


class Pause:
    """A with-block whose seconds a Window leaves out: evaluation, saving."""

    def __init__(self, window: Window):
        self._window = window

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_) -> None:
        self._window._paused += time.perf_counter() - self._start


class DevAverages:
    """Means over dev batches: each metric weighted by its own targets, and by skill."""

    def __init__(self, skills: list[str]):
        self._skills = skills
        self._parts: dict[str, tuple[list[float], list[float]]] = {}
        self._skill = np.zeros((2, len(skills)))  # sums of loss, of weight

    def add(self, values: Mapping[str, np.ndarray], weights: Mapping, by_skill) -> None:
        """values, weights: of a batch, by metric. by_skill: sums of loss and of weight [skills]."""
        for name, value in values.items():
            found, weight = self._parts.setdefault(name, ([], []))
            found.append(float(value))
            weight.append(float(weights[name]))
        self._skill += np.stack([np.asarray(x, np.float64) for x in by_skill])

    def result(self) -> dict[str, float]:
        out = {name: mean(*pair) for name, pair in self._parts.items()}
        for name, total, weight in zip(self._skills, *self._skill, strict=True):
            if weight:
                out[f"skill/{name}"] = float(total / weight)
        return out


class Writer:
    """metrics.jsonl and TensorBoard scalars under a workdir, and the progress bar on stderr.

    A bucket takes whole files only: what grows is kept here and copied there now and then.
    """

    def __init__(self, workdir: paths.PathLike, start: int, steps: int, quiet: bool = False):
        """quiet: nothing is written or said; another process does."""
        self._home = paths.at(workdir)
        self._scratch = None
        if quiet or paths.is_remote(self._home):
            self._scratch = tempfile.TemporaryDirectory(prefix="tmi-figures-")
        self._here = pathlib.Path(self._scratch.name if self._scratch else self._home)
        self._quiet, self._published = quiet, time.monotonic()
        self._path = self._here / "metrics.jsonl"
        if self._scratch and not quiet and (self._home / "metrics.jsonl").exists():
            self._path.write_bytes((self._home / "metrics.jsonl").read_bytes())
        _forget_after(self._path, start)
        self._file = open(self._path, "a", buffering=1)
        # Its thread dies on a full disk; a queue that never fills keeps us from waiting for it.
        self._board = SummaryWriter(
            str(self._here / "tensorboard"), purge_step=start + 1, max_queue=1_000_000
        )
        self._terminal = sys.stderr.isatty() and not quiet
        self._bar = tqdm.tqdm(
            initial=start,
            total=steps,
            unit="step",
            dynamic_ncols=True,
            disable=not self._terminal,
        )
        self._steps, self._speeds = steps, {}
        self.begin(start)

    def begin(self, step: int) -> None:
        """The rate that the ETA is made of counts from here."""
        self._start, self._began = step, time.perf_counter()

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """kind: 'train', 'dev' or 'replay'."""
        rounded = {k: float(f"{v:.6g}") for k, v in values.items()}
        try:
            self._file.write(json.dumps({"step": step, "kind": kind, **rounded}) + "\n")
        except OSError as e:
            raise OSError(e.errno, e.strerror, str(self._path)) from e
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def progress(self, step: int, loss: float) -> None:
        self._bar.n = step
        self._bar.set_postfix({"loss": f"{loss:.4f}", **self._speeds})

    def say(self, text: str) -> None:
        """A line that leaves the bar whole."""
        if self._quiet:
            return
        tqdm.tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """The speeds, on the bar or, where there is no terminal to draw one on, as a line."""
        if time.monotonic() - self._published > 60:
            self.publish()
        if self._terminal and "speed/tokens_per_s" in values:
            ceiling = f"{100 * values['speed/share_of_ceiling']:.0f}%"
            tokens = f"{values['speed/tokens_per_s']:.0f}"
            gflops = f"{values['speed/model_gflops']:.1f}"
            self._speeds = {"tokens/s": tokens, "GFLOP/s": gflops, "ceiling": ceiling}
        if self._terminal:
            return
        rate = (time.perf_counter() - self._began) / max(1, step - self._start)
        eta = tqdm.tqdm.format_interval(rate * (self._steps - step))
        line = f"step {step}/{self._steps} loss {values['loss']:.4f}"
        if "speed/tokens_per_s" in values:
            line += (
                f", {values['speed/tokens_per_s']:.0f} tokens/s, "
                f"{values['speed/model_gflops']:.1f} GFLOP/s "
                f"({100 * values['speed/share_of_ceiling']:.0f} % of the matmul ceiling), "
                f"input wait {100 * values['input/wait_share']:.1f} %"
            )
        self.say(f"{line}, ETA {eta}")

    def publish(self) -> None:
        """Copies the figures to a workdir that is a bucket."""
        self._published = time.monotonic()
        if self._scratch is None or self._quiet:
            return
        self._board.flush()
        for file in self._here.rglob("*"):
            if file.is_file():
                there = self._home / file.relative_to(self._here).as_posix()
                there.parent.mkdir(parents=True, exist_ok=True)
                there.write_bytes(file.read_bytes())

    def close(self) -> None:
        self._bar.close()
        for file in (self._board, self._file):
            with contextlib.suppress(OSError):  # a full disk: what failed was raised by write()
                file.close()
        with contextlib.suppress(OSError):
            self.publish()
        if self._scratch is not None:
            self._scratch.cleanup()


def _forget_after(path: pathlib.Path, step: int) -> None:
    """Drops the lines of steps that a resumed run will do again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):  # cut off while being written
            continue
    path.write_text("".join(kept))
