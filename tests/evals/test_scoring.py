"""Rows and their intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmi.evals import suites
from tmi.evals.bootstrap import ratio_interval
from tmi.evals.scoring import COMBINE, Benchmark, Metric, Trial, row, rows

POOLED = COMBINE["pooled"]


def trials(values, category="c"):
    return [Trial(f"s{i}", category, {"v": v}) for i, v in enumerate(values)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_the_mean_lies_within_its_interval(values):
    r = row("S", Metric("m", "v"), "model", trials(values), seed=0)
    assert r.value == pytest.approx(100 * np.mean(values), abs=1e-4)
    assert r.ci95[0] - 1e-6 <= r.value <= r.ci95[1] + 1e-6
    assert r.n == len(values)


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(200):
        values = rng.random(60) < 0.7
        r = row("S", Metric("m", "v", scale=1), "model", trials(values.astype(float)), seed=i)
        hits += r.ci95[0] <= 0.7 <= r.ci95[1]
    assert 0.89 <= hits / 200 <= 0.99


def test_trials_of_a_session_are_drawn_together():
    alone = [Trial(f"s{i}", "", {"v": i % 2}) for i in range(40)]
    together = [Trial(f"s{i // 10}", "", {"v": float(i < 20)}) for i in range(40)]
    width = [
        np.subtract(*row("S", Metric("m", "v"), "x", t, 0).ci95[::-1]) for t in (alone, together)
    ]
    assert width[1] > 2 * width[0]


def test_same_seed_same_interval():
    args = (["a", "b", "c"], [1, 0, 1], [1, 1, 1], [""] * 3, POOLED)
    assert ratio_interval(*args, seed=3) == ratio_interval(*args, seed=3)


def test_micro_and_macro_differ_as_they_should():
    t = [
        Trial("a", "", {"hits": 1, "n": 1, "share": 1.0}),
        Trial("b", "", {"hits": 0, "n": 9, "share": 0.0}),
    ]
    assert row("S", Metric("macro", "share"), "x", t, 0).value == 50
    assert row("S", Metric("micro", "hits", per="n"), "x", t, 0).value == 10


def test_categories_are_combined():
    t = trials([1.0], "a") + trials([1.0, 0.0, 0.0], "b")
    mean = Metric("m", "v", combine="mean of categories")
    harmonic = Metric("h", "v", combine="harmonic mean of categories")
    assert row("S", mean, "x", t, 0).value == pytest.approx(100 * (1 + 1 / 3) / 2)
    assert row("S", harmonic, "x", t, 0).value == pytest.approx(50)


def test_what_is_missing_is_left_out_and_nothing_gives_none():
    t = [Trial("a", "", {}), Trial("b", "", {"v": float("nan")})]
    r = row("S", Metric("m", "v"), "x", t, 0)
    assert (r.value, r.n, r.ci95) == (None, 0, (None, None))


def test_metrics_of_absent_categories_give_no_row():
    b = Benchmark("S", (), lambda *_: [], (Metric("a", "v"), Metric("b", "v", category="other")))
    assert [r.metric for r in rows(b, "x", trials([1.0]), 0)] == ["a"]


def test_suites_are_chosen_by_name():
    names = [b.suite for b in suites.select("RepCount,TimeSpeak-syn")]
    assert names == ["RepCount-syn", "TimeSpeak-syn"]
    with pytest.raises(ValueError, match="no suite 'bogus'.*Charades-syn"):
        suites.select("bogus")


def test_suite_and_metric_names_are_unique_and_end_in_syn():
    assert len({b.suite for b in suites.BENCHMARKS}) == len(suites.BENCHMARKS)
    for b in suites.BENCHMARKS:
        assert b.suite.endswith("-syn")
        assert len({m.name for m in b.metrics}) == len(b.metrics)
