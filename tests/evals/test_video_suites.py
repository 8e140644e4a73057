"""RepCount, Charades, ProactiveVideoQA."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evals.sessions import played, record, trial
from tmi.evals import charades, proactive, repcount
from tmi.evals.trace import HeardWord


def counted(count, said):
    reps = [[3.0 + i, 4.0 + i] for i in range(count)]
    task = trial("RepCount", 1.0, 19.0, count=count, reps=reps)
    session = record([task], said)
    return repcount.predicted(played(session), task)


def test_the_last_number_after_the_end_of_the_last_but_one():
    assert counted(3, [(4.4, "one"), (5.4, "two"), (6.4, "three")]) == 3
    assert counted(3, [(4.4, "one"), (5.2, "two")]) == 2  # said after repetition 2 ended
    assert counted(3, [(4.4, "one"), (4.8, "two")]) is None  # too early to know
    assert counted(3, [(5.4, "two"), (8.2, "four")]) == 2  # grace is 2 s after the end at 6.0
    assert counted(1, [(3.2, "one")]) == 1  # N = 1: from 0


def test_off_by_one_and_silence():
    task = trial("RepCount", 1.0, 19.0, count=1, reps=[[3.0, 4.0]])
    for said, strict, reference in (([], 0, 1), ([(4.2, "two")], 1, 1), ([(4.2, "three")], 0, 0)):
        session = record([task], said)
        (t,) = repcount.score(played(session), session.truth)
        assert (t.values["OBO"], t.values["reference OBO"]) == (strict, reference)


def test_every_count_has_a_bucket():
    assert [repcount.bucket(n) for n in (0, 1, 3, 8, 9, 40)] == [
        "N=1-2", "N=1-2", "N=3-5", "N=6-8", "N>=9", "N>=9",
    ]  # fmt: skip


@given(st.floats(0, 10), st.floats(0.1, 10), st.floats(0, 10), st.floats(0.1, 10))
def test_iou_is_symmetric_within_0_and_1(a, x, b, y):
    one, two = (a, a + x), (b, b + y)
    assert charades.iou(one, two) == charades.iou(two, one)
    assert 0 <= charades.iou(one, two) <= 1
    assert charades.iou(one, one) == pytest.approx(1)


@given(st.floats(0.5, 30))
def test_the_ceiling_is_the_iou_of_answers_0_2_s_late(duration):
    late = charades.iou((0.2, duration + 0.2), (0.0, duration))
    assert charades.ceiling(duration) == pytest.approx(late)


def located(said):
    task = trial("Charades", 1.0, 15.0, name="waving", action=[5.0, 9.0])
    session = record([task], said)
    (t,) = charades.score(played(session), session.truth)
    return t.values["IoU"]


def test_start_and_stop():
    assert located([(5.0, "start"), (9.0, "stop")]) == pytest.approx(1, abs=0.01)
    assert located([(9.0, "stop")]) == 0  # no start
    assert located([(5.0, "start")]) == pytest.approx(0.4, abs=0.01)  # no stop: to the clip's end
    assert located(
        [(4.0, "stop"), (5.0, "start"), (9.0, "stop"), (11.0, "start")]
    ) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("omega", "value"), [(0, 0.4949), (0.5, 0.7474), (1, 1.0)])
def test_the_published_check_of_pauc(omega, value):
    replies = [(312, 0), (328, 1), (344, 2), (352, 2)]
    assert proactive.pauc((311, 360), replies, omega) == pytest.approx(value, abs=5e-5)


@given(st.lists(st.tuples(st.floats(-5, 15), st.sampled_from([0, 1, 2])), max_size=6))
def test_pauc_is_within_0_and_1_and_silence_a_quarter(replies):
    assert 0 <= proactive.pauc((0, 10), replies) <= 1
    assert proactive.pauc((0, 10), []) == 0.25


@given(st.floats(0, 9), st.floats(0.1, 1))
def test_earlier_is_better_and_wrong_is_worse_than_silence(time, later):
    assert proactive.pauc((0, 10), [(time, 2)]) > proactive.pauc((0, 10), [(time + later, 2)])
    assert proactive.pauc((0, 10), [(time, 0)]) < 0.25


def asked(said, answer="red ball"):
    task = trial("ProactiveVideoQA", 1.0, 12.0, window=[5.0, 9.0], answer=answer, answer_s=5.0)
    session = record([task], said)
    (t,) = proactive.score(played(session), session.truth)
    return t.values


def test_replies_are_judged_whole():
    assert asked([(6.0, "i see a red ball there")])["right"] == 1
    assert asked([(6.0, "i see a blue ball")])["right"] == 0
    assert proactive.judge("a blue ball", "red ball") == 1
    assert proactive.judge("a cat", "red ball") == 0
    early = asked([(3.0, "red ball")])
    assert early["PAUC"] == 0.25 and early["premature"] == 1


def test_a_list_of_guesses_earns_from_the_right_one_on():
    guesses = "red blue green white black brown grey yellow orange violet cream gold silver pink"
    values = asked([(5.0, guesses)], "pink")
    assert values["right"] == 1
    assert values["delay"] == pytest.approx(13 * 0.18, abs=0.2)
    # A reply of 0 at the first guess, one of 2 at the answer.
    said = 5.0 + values["delay"]
    assert values["PAUC"] == pytest.approx(proactive.pauc((5, 9), [(5.0, 0), (said, 2)]))
    assert values["PAUC"] < 0.75
    assert values["reference PAUC"] > 0.99  # judged whole, as published


def test_what_comes_before_the_answer_is_a_reply_of_its_own():
    words = [HeardWord(w, t, t) for w, t in (("a", 5.0), ("red", 5.2), ("ball", 5.4), ("now", 5.6))]
    assert proactive.replies(words, "red ball") == [(5.0, 0), (5.2, 2)]
    assert proactive.reference_replies(words, "red ball") == [(5.0, 2)]
    assert proactive.replies(words[1:], "red ball") == [(5.2, 2)]
    assert proactive.replies(words, "blue ball") == [(5.0, 1)]
    assert proactive.replies([], "red ball") == []
