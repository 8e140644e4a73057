"""Full-Duplex-Bench v1: predicate, turn-taking, pauses, interruptions, folders for its scripts."""

import json

import numpy as np
import pytest
import soundfile

from tests.evals.sessions import full, played, record, trial
from tmi.evals import export, fdb1
from tmi.evals.scoring import rows


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        ([], False),
        ([(0.0, 0.5)], False),
        ([(0.0, 0.3), (0.3, 0.6), (0.6, 0.99)], False),
        ([(0.0, 0.3), (0.3, 0.6), (0.6, 1.0)], True),  # dur < 1.0 is strict
        ([(0.0, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.4)], True),  # more than 3 words
        ([(0.0, 1.2)], True),
    ],
)
def test_the_public_predicate(words, taken):
    assert fdb1.took_turn([("w", s, e) for s, e in words]) is taken


def turn(said, pauses=(), answer="the word is red"):
    task = trial("TurnTaking", 2.0, 12.0, user_end_s=6.0, answer=answer, pauses=list(pauses))
    session = record([task], said)
    (result,) = fdb1.score_turns(played(session), session.truth)
    return result.values


def test_latency_is_from_the_user_s_end_to_the_first_sound():
    values = turn([(6.4, "the word is red")])
    assert values["latency"] == pytest.approx(0.4, abs=0.011)
    assert values["TOR"] == values["answered"] == 1


def test_a_barge_in_counts_as_0_s_in_reference_and_fails_in_strict():
    values = turn([(5.0, "the word is red")])
    assert values["reference latency"] == 0 and values["reference TOR"] == 1
    assert values["TOR"] == values["answered"] == 0 and values["barge-in"] == 1
    assert "latency" not in values


def test_short_answers_take_the_turn_in_strict_only():
    values = turn([(6.4, "red")])
    assert values["TOR"] == 1 and values["reference TOR"] == 0


def test_a_backchannel_is_no_turn():
    assert turn([(4.0, "mhm"), (6.4, "the word is red")])["TOR"] == 1
    assert turn([(6.4, "mhm")])["TOR"] == 0


@pytest.mark.parametrize(
    ("said", "strict", "reference"),
    [([], 0, 0), ([(4.2, "red")], 1, 0), ([(4.2, "the word is red")], 1, 1), ([(4.2, "mhm")], 0, 0),
     ([(6.2, "the word is red")], 0, 0)],
)  # fmt: skip
def test_pauses_are_not_the_end(said, strict, reference):
    task = trial("TurnTaking", 2.0, 12.0, user_end_s=6.0, answer="x", pauses=[[4.0, 5.0]])
    session = record([task, {**task, "pauses": []}], said)
    (result,) = fdb1.score_pauses(played(session), session.truth)  # turns without pauses are out
    assert result.values == {"TOR": strict, "reference TOR": reference}


LIST = "one two three four five six seven eight nine ten eleven twelve"  # 2.16 s


def interruption(said):
    task = trial("Interruption", 0.0, 16.0, interrupt=[6.0, 9.0], answer="the word is red")
    session = record([task], said)
    (result,) = fdb1.score_interruptions(played(session), session.truth)
    return result.values


def test_who_stops_in_time_yields():
    values = interruption([(4.2, LIST), (9.4, "the word is red")])  # until 6.36
    assert values["yield time"] == pytest.approx(0.36, abs=0.02)
    assert values["yielded"] == values["RESPOND"] == values["TOR"] == 1
    assert values["latency"] == pytest.approx(0.4, abs=0.011)


def test_who_goes_on_does_not():
    values = interruption([(4.4, LIST), (9.4, "the word is red")])  # until 6.56
    assert values["yielded"] == 0 and values["yield time"] == pytest.approx(0.56, abs=0.02)
    values = interruption([(4.4, LIST), (6.8, LIST), (9.2, LIST)])
    assert values["yielded"] == values["TOR"] == 0 and "yield time" not in values


def test_who_was_silent_has_nothing_to_yield():
    values = interruption([(9.4, "the word is red")])
    assert values["speaking"] == values["yielded"] == values["RESPOND"] == 0


def test_speaking_again_before_the_user_s_end_is_no_yielding():
    assert interruption([(4.2, LIST), (8.0, "red"), (9.4, "the word is red")])["yielded"] == 0


@pytest.mark.parametrize(
    ("meanwhile", "barge_in"),
    [
        ((7.2, "one two three four five six"), 1),
        ((8.6, "the word is red"), 1),  # before the user's end
        ((7.2, "mhm"), 0),  # no turn
    ],
)
def test_barging_in_on_an_interruption_fails(meanwhile, barge_in):
    values = interruption([(4.2, LIST), meanwhile, (9.4, "the word is red")])
    assert values["barge-in"] == barge_in
    assert values["RESPOND"] == values["TOR"] == 1 - barge_in
    assert ("latency" in values) == (not barge_in)
    assert values["reference TOR"] == 1


def test_stopping_late_or_at_once_is_no_barge_in():
    for start in (4.2, 4.4):
        assert interruption([(start, LIST), (9.4, "the word is red")])["barge-in"] == 0


def test_a_due_answer_to_another_task_is_no_barge_in():
    task = trial("Interruption", 0.0, 16.0, interrupt=[6.0, 9.0], answer="the word is red")
    other = trial("CueSpeak", 6.0, 9.0, triggers=[{"time_s": 7.0, "answer": "cold"}])
    session = record([task, other], [(4.2, LIST), (7.2, "cold"), (9.4, "the word is red")])
    (result,) = fdb1.score_interruptions(played(session), session.truth)
    assert result.values["barge-in"] == 0 and result.values["RESPOND"] == 1


def test_barge_ins_on_interruptions_have_a_row():
    session = full()
    found = rows(
        fdb1.INTERRUPTION, "x", fdb1.score_interruptions(played(session), session.truth), 0
    )
    assert {r.metric: r.value for r in found}["barge-in"] == 0


def test_a_late_answer_is_no_response():
    assert interruption([(4.2, LIST), (11.2, "the word is red")])["RESPOND"] == 0


def test_the_folders_read_like_the_benchmark_s(tmp_path):
    """The public definitions, recomputed from the files, agree with `reference`."""
    session = full()
    trace = played(session)
    folders = export.full_duplex_bench(trace, session.truth, tmp_path)
    kinds = sorted(f.parent.name for f in folders)
    assert kinds == ["pause_handling", "smooth_turn_taking", "user_interruption"]
    results = {
        "smooth_turn_taking": fdb1.score_turns(trace, session.truth)[0].values,
        "user_interruption": fdb1.score_interruptions(trace, session.truth)[0].values,
        "pause_handling": fdb1.score_pauses(trace, session.truth)[0].values,
    }
    for folder in folders:
        task = folder.parent.name
        wave, rate = soundfile.read(folder / "output.wav")
        other, _ = soundfile.read(folder / "input.wav")
        assert rate == 16000 and len(wave) == len(other) and np.abs(wave).max() <= 1
        output = json.loads((folder / "output.json").read_text())
        spans = [c["timestamp"] for c in output["chunks"]]
        assert output["text"].split() == [c["text"] for c in output["chunks"]]
        if task == "smooth_turn_taking":
            user_end = json.loads((folder / "turn_taking.json").read_text())[0]["timestamp"][0]
            taken = bool(spans) and not (spans[-1][1] - spans[0][0] < 1.0 and len(spans) <= 3)
            assert taken == results[task]["reference TOR"]
            latency = max(0.0, spans[0][0] - user_end)
            assert latency == pytest.approx(results[task]["reference latency"], abs=1e-3)
        elif task == "pause_handling":
            assert spans == [] and results[task]["reference TOR"] == 0
        else:
            end = json.loads((folder / "interrupt.json").read_text())[0]["timestamp"][1]
            latency = spans[0][0] - end  # all of the file counts: no word of the list is in it
            assert latency == pytest.approx(results[task]["reference latency"], abs=1e-3)
            assert output["text"] == "the word is river"
