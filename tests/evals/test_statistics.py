"""Corpus statistics against a worked example and an independent implementation."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evals.sessions import played, record
from tmi.evals.statistics import dialogue, durations, score

A = [(0, 2), (2.5, 4), (5.6, 7)]
B = [(4.3, 6), (6.2, 6.5), (7.1, 8)]


def test_the_worked_example():
    found = dialogue(A, B)
    assert found.intervals["pause"] == [(2, 2.5)]
    assert found.intervals["gap"] == [(4, 4.3), (7, 7.1)]
    assert found.intervals["overlap"] == [(5.6, 6)]
    assert found.intervals["within overlap"] == [(6.2, 6.5)]
    assert found.offsets == pytest.approx([0.3, -0.4, 0.1])


speech = st.lists(st.integers(1, 40), min_size=2, max_size=16).map(
    lambda steps: [
        (s / 10, e / 10)
        for s, e in zip(
            [sum(steps[: i + 1]) for i in range(0, len(steps) - 1, 2)],
            [sum(steps[: i + 2]) for i in range(0, len(steps) - 1, 2)],
            strict=True,
        )
    ]
)


@settings(max_examples=60, deadline=None)
@given(speech, speech)
def test_sides_can_be_swapped(a, b):
    b = [(s + 0.05, e + 0.05) for s, e in b]  # no ties: who holds the floor would be open
    one, two = dialogue(a, b), dialogue(b, a)
    for kind in ("ipu", "pause", "gap"):
        assert len(one.intervals[kind]) == len(two.intervals[kind])


@settings(max_examples=60, deadline=None)
@given(speech, speech)
def test_gaps_and_pauses_are_joint_silence(a, b):
    found = dialogue(a, b)
    for s, e in found.intervals["gap"] + found.intervals["pause"]:
        assert s < e
        assert not any(x < e - 1e-9 and y > s + 1e-9 for x, y in found.intervals["ipu"])


def test_pympi_agrees():
    pympi = pytest.importorskip("pympi")
    a, b = [(0, 2), (2.5, 4), (5.6, 7), (9, 12)], [(4.3, 6), (7.1, 8), (9.5, 10), (11.5, 13)]
    eaf = pympi.Elan.Eaf()
    for name, units in (("A", a), ("B", b)):
        eaf.add_tier(name)
        for s, e in units:
            eaf.add_annotation(name, round(1000 * s), round(1000 * e), "x")
    theirs: dict[str, list] = {"P": [], "G": [], "O": [], "W": []}
    for s, e, kind in eaf.get_gaps_and_overlaps2("A", "B"):
        if kind[0] in theirs:
            theirs[kind[0]].append((s / 1000, e / 1000))
    ours = dialogue(a, b).intervals
    for kind, letter in (("pause", "P"), ("gap", "G"), ("overlap", "O"), ("within overlap", "W")):
        assert [x for pair in ours[kind] for x in pair] == pytest.approx(
            [x for pair in sorted(theirs[letter]) for x in pair]
        ), kind


def test_durations_over_several_dialogues():
    found = durations([dialogue(A, B), dialogue(A, [])])
    assert found["offset"] == pytest.approx([0.3, -0.4, 0.1])
    assert found["gap"] == pytest.approx([0.3, 0.1])
    assert found["pause"] == pytest.approx([0.5, 0.5, 1.6])
    assert found["overlap"] == pytest.approx([0.4]) and found["within overlap"] == pytest.approx(
        [0.3]
    )


def test_a_session_s_rates():
    session = record([], [(6.0, "one two three")], user=[(2.0, 5.0)])
    (t,) = score(played(session), session.truth)
    assert t.values["ipu count"] == 2 and t.values["gap count"] == 1
    assert t.values["offset"] == pytest.approx(1.0, abs=0.02)
    assert t.values["minutes"] == pytest.approx(1 / 3)
