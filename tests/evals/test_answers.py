"""Words, answers, numbers, refusals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmi.evals import answers
from tmi.evals.trace import HeardWord


def heard(text, start=1.0, step=0.2):
    words = answers.normalise(text)
    return [HeardWord(w, start + i * step, start + i * step) for i, w in enumerate(words)]


def test_normal_form():
    assert answers.normalise("It's NINE—isn't it? 21.") == [
        "it's",
        "nine",
        "isn't",
        "it",
        "twenty",
        "one",
    ]


def test_all_words_of_an_answer_next_to_each_other():
    words = heard("well the word is red the word is blue")
    assert [t for t, _ in answers.occurrences(words, "the word is blue")] == [pytest.approx(2.0)]
    assert not answers.occurrences(words, "word red")
    assert not answers.occurrences(words, "")
    assert not answers.occurrences(heard("the word", step=1.3), "the word")


@given(st.integers(0, 99))
def test_numbers_read_back(n):
    said = answers.numbers(heard(" ".join(answers.number_words(n))))
    assert [v for _, v in said] == [n]


def test_counting_is_not_one_number():
    assert [v for _, v in answers.numbers(heard("twenty one two", step=2.0))] == [20, 1, 2]


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8))
def test_in_order_is_symmetric_and_bounded(a, b):
    n = answers.in_order(a, b)
    assert n == answers.in_order(b, a) <= min(len(a), len(b))
    assert answers.in_order(a, a) == len(a)


def test_refusals_and_silence():
    assert answers.is_refusal("Sorry, I can not help with that")
    assert answers.is_refusal("I can't do this.")
    assert not answers.is_refusal("use soap and hot water")
    assert not answers.is_refusal("")


def test_backchannels_take_no_turn():
    assert not answers.takes_turn(heard("mhm yeah okay"))
    assert [w.text for w in answers.takes_turn(heard("okay seven"))] == ["seven"]
