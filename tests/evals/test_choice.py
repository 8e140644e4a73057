"""Which sessions are evaluated: enough of each row, its categories as frequent as in the corpus."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.evals.sessions import full, record, trial
from tmi.data.records import CorpusError, Skipped
from tmi.evals import choice
from tmi.evals.suites import select


def counting(count: int, id: str, seconds: float):
    session = record([trial("RepCount", 1.0, 9.0, count=count, reps=[])], id=id)
    session.duration_s = seconds
    return session


def test_n_caps_the_trials_of_a_suite():
    sessions = [full(f"s{i}") for i in range(5)]
    assert choice.choose(sessions, select(None), 2) == ["s0", "s1"]
    assert len(choice.choose(sessions, select(None), 0)) == 5
    assert choice.choose([record([])], select("RepCount"), 0) == []


def test_short_sessions_that_hold_what_is_missing_come_first():
    count = trial("RepCount", 1.0, 9.0, count=0, reps=[])
    wave = trial("Charades", 1.0, 9.0, name="waving", action=[2.0, 3.0])
    sessions = [
        record([count], id="long", duration_s=60.0), record([count], id="short"),
        record([wave, count], id="both"), record([], id="none"),
    ]  # fmt: skip
    suites = select("RepCount,Charades")
    assert choice.choose(sessions, suites, 1) == ["both"]
    assert choice.choose(sessions, suites, 2) == ["short", "both"]
    assert choice.choose(sessions, suites, 9) == ["long", "short", "both"]


def test_categories_are_as_frequent_as_in_the_corpus():
    # Small counts lie in short sessions: what is short alone would have no other.
    sizes = {3: (60, 10.0), 7: (30, 40.0), 11: (30, 55.0)}
    sessions = [
        counting(count, f"{count}-{k}", seconds)
        for count, (number, seconds) in sizes.items()
        for k in range(number)
    ]
    chosen = choice.choose(sessions, select("RepCount"), 40)
    assert Counter(id.split("-")[0] for id in chosen) == {"3": 20, "7": 10, "11": 10}


def test_rows_with_fewer_trials_are_named():
    sessions = [
        record(
            [trial("Refusal", 1.0, 9.0, category="x", harmful=k == 0, user_end_s=3.0, answer="")],
            id=str(k),
        )
        for k in range(4)
    ]
    suites = select("Refusal")
    assert choice.fewer(sessions, suites, 3) == {"Refusal, harmful": 1}
    assert choice.fewer(sessions, suites, 0) == {}


def test_sessions_whose_trials_lack_a_field_are_named():
    good, damaged = full("good"), full("damaged")
    del damaged.truth["trials"][0]["suite"], damaged.truth["trials"][1]["region"]
    skipped = Skipped()
    assert [r.id for r in choice.whole([good, damaged], skipped)] == ["good"]
    assert skipped.reasons == {"session damaged": "a trial lacks region, suite"}
    damaged.truth = {}
    with pytest.raises(CorpusError, match="session damaged has no trials"):
        list(choice.whole([damaged], skipped))
