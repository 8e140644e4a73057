"""Going on while others sound."""

import pytest

from tests.evals.sessions import full, played, record, trial
from tmi.evals import overlap

COUNT = "one two three four five six seven eight nine ten eleven twelve"


def behaviour(said):
    task = trial(
        "Overlap", 1.0, 9.0, category="backchannel", overlap=[4.0, 4.5], speaking=[3.0, 5.16],
        answer=COUNT,
    )  # fmt: skip
    session = record([task], said)
    return overlap.behaviour(played(session), session.truth, task)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([(3.0, COUNT)], "RESUME"),
        ([(3.0, "one two three four five six")], "UNCERTAIN"),  # 0.08 s of sound after it began
        ([(3.0, "one two three four five"), (4.6, "what did you say to me")], "RESPOND"),
        ([(3.0, "one two three four five")], "UNKNOWN"),
        ([], "UNKNOWN"),
        ([(6.0, COUNT)], "UNCERTAIN"),  # it was not speaking
    ],
)
def test_behaviours(said, expected):
    assert behaviour(said) == expected


def test_a_barge_in_on_an_interruption_is_no_response():
    task = trial("Interruption", 0.0, 16.0, interrupt=[6.0, 9.0], answer="the word is red")
    said = [(4.2, COUNT), (9.4, "the word is red")]
    for extra, right in (([], 1), ([(7.2, "one two three four five six")], 0)):
        session = record([task], said + extra)
        (result,) = overlap.score(played(session), session.truth)
        assert result.values["right"] == right


def test_every_value_is_read_by_a_metric():
    session = full()
    read = {x for m in overlap.OVERLAP.metrics for x in (m.value, m.per)}
    for result in overlap.score(played(session), session.truth):
        assert set(result.values) <= read
