"""What micro-turns cost: quantiles and rows."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evals.sessions import played, record
from tmi.evals import wall

VALUES = st.lists(st.floats(0.1, 100), min_size=1, max_size=20)


def cost(*ms, id="a"):
    trace = played(record([], id=id, duration_s=40.0))
    turns = [dataclasses.replace(trace.turns[i], wall_ms=x) for i, x in enumerate(ms)]
    return dataclasses.replace(trace, turns=turns)


@given(st.lists(VALUES, min_size=1, max_size=5))
def test_quantiles_are_values_and_agree_with_numpy(groups):
    arrays = [np.array(g) for g in groups]
    everything = np.concatenate(arrays)
    for level, (value, low, high) in zip(
        (0.5, 0.99), wall.quantiles(arrays, (0.5, 0.99), 0), strict=True
    ):
        assert value == np.quantile(everything, level, method="inverted_cdf")
        assert everything.min() <= low <= high <= everything.max()


def test_rows():
    clock = wall.WallClock(slots=8)
    clock.add(cost(*[10.0] * 150, id="a"))
    clock.add(cost(*[20.0] * 49, 90.0, id="b"))
    found = {r.metric: r for r in clock.rows("model", 0)}
    assert found["micro-turn ms"].value == 10 and found["micro-turn ms"].n == 200
    assert found["micro-turn ms p99"].value == 20
    assert found["real-time factor"].value == pytest.approx(10 / 200)
    assert found["slots"].value == 8
    assert {r.clock for r in found.values()} == {"wall"}
    assert found["micro-turn ms"].ci95 == (10, 20)  # either session may be drawn twice


def test_what_was_not_timed_has_no_rows():
    clock = wall.WallClock(1)
    clock.add(played(record([])))  # a script costs nothing
    assert clock.rows("model", 0) == []
