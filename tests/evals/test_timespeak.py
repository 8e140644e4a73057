"""Triggers and windows."""

import pytest

from tests.evals.sessions import full, played, record, trial
from tmi.evals import timespeak
from tmi.evals.scoring import rows


def score(triggers, said, region=(0.0, 18.0), others=()):
    task = trial("TimeSpeak", *region, triggers=[{"time_s": t, "answer": a} for t, a in triggers])
    session = record([task, *others], said)
    (result,) = timespeak.score("TimeSpeak", played(session), session.truth)
    return result.values


@pytest.mark.parametrize(
    ("trigger", "window", "met"),
    [(5.0, 0.2, 1), (4.41, 0.6, 1), (4.39, 0.6, 0), (5.19, 0.2, 1), (5.23, 0.2, 0), (4.01, 1.0, 1)],
)
def test_the_window_is_from_0_2_s_before_to_w_after(trigger, window, met):
    assert score([(trigger, "tea")], [(5.0, "tea")])[f"hits@{window}"] == met


def test_wrong_words_at_the_right_time_are_wrong():
    assert score([(5.0, "tea")], [(5.0, "now")])["hits@2.0"] == 0


def test_one_answer_serves_one_trigger():
    assert score([(5.0, "tea"), (5.4, "tea")], [(5.0, "tea")])["hits@2.0"] == 1
    assert score([(5.0, "tea"), (5.4, "tea")], [(5.0, "tea"), (5.6, "tea")])["hits@0.6"] == 2


def test_shares_are_of_the_example():
    values = score([(5.0, "tea"), (9.0, "tea")], [(5.0, "tea")])
    assert values["share@0.6"] == 0.5 and values["triggers"] == 2


@pytest.mark.parametrize("extra", [(8.0, "tea"), (8.0, "bird")])
def test_exclusive_fails_on_speech_outside_all_windows(extra):
    right = [(5.0, "tea")]
    for w in (0.6, 1.0, 2.0):
        assert score([(5.0, "tea")], right)[f"exclusive@{w}"] == 1
        assert score([(5.0, "tea")], [*right, extra])[f"exclusive@{w}"] == 0
        assert score([(5.0, "tea")], [*right, extra])[f"share@{w}"] == 1


def test_exclusive_is_of_its_own_window():
    values = score([(5.0, "tea")], [(5.8, "tea")])
    assert [values[f"exclusive@{w}"] for w in (0.6, 1.0, 2.0)] == [0, 1, 1]
    values = score([(5.0, "tea")], [(5.0, "tea"), (6.4, "bird")])  # within 2.0 s of it
    assert [values[f"exclusive@{w}"] for w in (0.6, 1.0, 2.0)] == [0, 0, 1]


@pytest.mark.parametrize("benchmark", [timespeak.TIMESPEAK, timespeak.BACKCHANNEL])
def test_every_full_window_has_all_its_rows(benchmark):
    session = full()
    found = rows(benchmark, "x", benchmark.score(played(session), session.truth), 0)
    value = {r.metric: r.value for r in found}
    for w in (0.6, 1.0, 2.0):
        for name in (f"accuracy@{w}s", f"exclusive@{w}s"):
            assert value[name] == 100
        assert value[f"accuracy@{w}s micro"] == value[f"accuracy@{w}s by category"] == 100
    assert len(value) == len(found) == 7 + 3 * 3 + 1


def test_another_task_s_words_are_its_own_affair():
    inner = trial("TurnTaking", 7.0, 10.0, user_end_s=7.8, answer="the word is red", pauses=[])
    said = [(5.0, "tea"), (8.2, "the word is red")]
    assert score([(5.0, "tea")], said, others=[inner])["exclusive@0.6"] == 1
    # ... but this task's answer there is still at the wrong time.
    assert score([(5.0, "tea")], [*said, (9.4, "tea")], others=[inner])["exclusive@0.6"] == 0


def test_a_timely_answer_to_another_task_is_no_stray():
    inner = trial("CueSpeak", 7.0, 10.0, triggers=[{"time_s": 8.0, "answer": "cold"}])
    said = [(5.0, "tea"), (8.2, "cold")]
    assert score([(5.0, "tea")], said, others=[inner])["exclusive@0.6"] == 1
