"""Averages and speeds of a run."""

from __future__ import annotations

import io
import json
import re
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmi.config import Config
from tmi.data.batch import empty_batch
from tmi.microturn import EOM_ID
from tmi.models.flops import batch_flops
from tmi.train import metrics
from tmi.train.metrics import DevAverages, TrainingDiverged, Window, Writer, mean

numbers = st.floats(-100, 100)


@given(st.lists(st.tuples(numbers, st.floats(0.01, 10)), min_size=1, max_size=20))
def test_mean_is_the_weighted_mean(pairs):
    values, weights = zip(*pairs, strict=True)
    assert mean(values, weights) == pytest.approx(np.average(values, weights=weights), abs=1e-3)


def test_mean_of_nothing_is_zero():
    assert mean([], []) == 0 and mean([3.0], [0.0]) == 0


def batch_of(config, words=0, silent=0, skill=0):
    batch = empty_batch(config, 1)
    n = words + silent
    batch["segment"][0, :n] = 1
    batch["text_target"][0, :words] = EOM_ID + 7
    batch["text_target"][0, words:n] = EOM_ID
    batch["text_weight"][0, :n] = 1
    batch["skill"][0, :n] = skill
    return batch


def test_dev_averages_weigh_each_metric_by_its_own_targets():
    averages = DevAverages(["a", "b", "never"])
    sums = (np.array([6.0, 0, 0]), np.array([3.0, 0, 0]))
    averages.add({"loss/text": 1.0, "loss/due": 5.0}, {"loss/text": 3, "loss/due": 1}, sums)
    sums = (np.array([0, 4.0, 0]), np.array([0, 1.0, 0]))
    # A batch in which no time is named has no part in what named times cost.
    averages.add({"loss/text": 2.0, "loss/due": 0.0}, {"loss/text": 1, "loss/due": 0}, sums)
    assert averages.result() == pytest.approx(
        {"loss/text": 1.25, "loss/due": 5.0, "skill/a": 2.0, "skill/b": 4.0}
    )


def test_window_counts_valid_positions_and_leaves_pauses_out(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: clock[0])
    config = Config()
    window = Window(config, ceiling=1e9)
    batch = batch_of(config, words=10, silent=20)
    window.add_batch(batch, wait_s=0.1)
    window.add_result(1, {"loss": 2.0, "grad_norm": 1.0})
    window.add_result(2, {"loss": 4.0, "grad_norm": 1.0})
    clock[0] += 0.5
    with window.pause():
        clock[0] += 7
    report = window.report(2)
    assert report["loss"] == 3.0
    assert report["speed/tokens_per_s"] == pytest.approx(60)
    gflops = batch_flops(config, batch) / 0.5 / 1e9
    assert report["speed/model_gflops"] == pytest.approx(gflops)
    assert report["speed/share_of_ceiling"] == pytest.approx(gflops)
    assert report["input/wait_share"] == pytest.approx(0.2)
    assert report["input/fill_ratio"] == pytest.approx(30 / config.data.row_length)
    clock[0] += 1
    assert "speed/tokens_per_s" not in window.report(3)  # nothing since


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_stops_with_the_step(name, value):
    window = Window(Config(), 1e9)
    with pytest.raises(TrainingDiverged, match=f"step 12: {name} is {value}"):
        window.add_result(12, {"loss": 1.0, "grad_norm": 1.0, name: value})


def test_lines_of_steps_to_be_done_again_are_dropped(tmp_path, capsys):
    writer = Writer(tmp_path, 0, 10)
    for step in (2, 4, 6):
        writer.write(step, "train", {"loss": 1.0})
    writer.report(4, {"loss": 0.5})
    writer.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "ki')  # killed while writing
    writer = Writer(tmp_path, 4, 10)
    writer.write(5, "dev", {"loss": 2.0})
    writer.close()
    read = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in read] == [2, 4, 5]
    assert "step 4/10 loss 0.5000, ETA" in capsys.readouterr().err


def test_the_bar_shows_the_time_left_and_the_speeds(tmp_path, monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    writer = Writer(tmp_path, 0, 10)
    speeds = {"tokens_per_s": 5000.0, "model_gflops": 12.34, "share_of_ceiling": 0.21}
    writer.report(4, {"loss": 0.5} | {f"speed/{k}": v for k, v in speeds.items()})
    writer.progress(5, 0.25)
    writer.close()
    assert "loss=0.2500, tokens/s=5000, GFLOP/s=12.3, ceiling=21%" in terminal.getvalue()
    assert re.search(r"5/10 \[.*<.*step", terminal.getvalue())
