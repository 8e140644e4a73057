"""Whose words are these."""

import dataclasses

import numpy as np

from tests.evals.sessions import played, record, trial
from tmi.evals import attribution

CUE = trial("CueSpeak", 3.0, 9.0, triggers=[{"time_s": 5.0, "answer": "cold"}])
TURN = trial("TurnTaking", 4.0, 12.0, user_end_s=8.0, answer="the word is red", pauses=[])


def heard(said, task, start=0.0, end=20.0):
    session = record([CUE, TURN], said)
    words = attribution.own_words(played(session), session.truth, task, start, end)
    return [w.text for w in words]


def test_a_due_answer_to_another_task_is_not_this_one_s():
    assert heard([(5.2, "cold"), (8.4, "the word")], TURN) == ["the", "word"]
    assert heard([(5.2, "cold"), (8.4, "the word")], CUE) == ["cold", "the", "word"]


def test_an_answer_is_due_for_2_s():
    assert attribution.LATEST_S == 2.0
    assert heard([(6.8, "cold")], TURN) == []
    assert heard([(7.2, "cold")], TURN) == ["cold"]
    assert heard([(4.6, "cold")], TURN) == ["cold"]  # too early
    assert heard([(5.2, "cold"), (5.8, "cold")], TURN) == ["cold"]  # one trigger, one answer


def test_only_words_that_begin_in_time_are_given():
    said = [(5.2, "one"), (6.2, "two"), (7.2, "three")]
    assert heard(said, TURN, 6.0, 7.2) == ["two"]


def test_sound_without_words():
    trace = played(record([], [(3.0, "one two"), (6.0, "three")]))
    assert attribution.wordless(trace) == []
    sound = trace.output_audio.copy()
    sound[10 * 16000 : 11 * 16000] = 0.1 * np.sin(np.arange(16000) / 20)
    ((start, end),) = attribution.wordless(dataclasses.replace(trace, output_audio=sound))
    assert (round(start, 1), round(end, 1)) == (10.0, 11.0)
