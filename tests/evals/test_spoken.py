"""Word accuracy of the spoken output: alignment, cutting into sentences, the recogniser."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evals.sessions import full, played, record, trial
from tmi.evals import spoken

GRAMMAR = spoken.sentences([f"the word is {w}" for w in "red blue green apple river".split()] + [
    *(f"{a} {b}" for a in "one two three four five six seven eight nine ten".split()
      for b in "birds cats dogs cars trees books cups hats keys".split()), "one", "two", "three",
    "start", "stop", "sorry i can not help with that",
])  # fmt: skip
SPOKEN_WORDS = st.lists(st.sampled_from("abcd"), max_size=6)


class Inline:
    """A pool of nobody."""

    def map(self, f, items, chunksize=1):
        return map(f, items)


@settings(max_examples=60)
@given(SPOKEN_WORDS, SPOKEN_WORDS)
def test_alignment(wanted, said):
    hits, errors = spoken.align(wanted, said)
    assert 0 <= hits <= min(len(wanted), len(said))
    assert abs(len(wanted) - len(said)) <= errors <= max(len(wanted), len(said))
    assert spoken.align(wanted, wanted) == (len(wanted), 0)


def test_deletions_insertions_and_substitutions_are_errors():
    assert spoken.align("the word is red".split(), "the word red".split()) == (3, 1)
    assert spoken.align("the word is red".split(), "the word is a red".split()) == (4, 1)
    assert spoken.align("the word is red".split(), []) == (0, 4)
    assert spoken.align([], "one two".split()) == (0, 2)


def test_a_small_grammar_is_refused():
    with pytest.raises(spoken.GrammarError, match="2 sentences.*at least 100"):
        spoken.sentences(["one", "two"])


def test_the_text_stream_is_cut_into_sentences():
    session = record([], [(1.0, "one"), (1.4, "two"), (2.0, "the word is red"), (2.8, "stop")])
    found = spoken.utterances_of(played(session), session.truth, GRAMMAR)
    assert [" ".join(s.words) for s in found] == ["one", "two", "the word is red", "stop"]
    assert all(len(s.wave) >= 0.18 * 16000 for s in found)


def test_all_that_is_said_counts():
    session = record([], [(1.0, "foreign words here"), (5.0, "stop")])
    trace = played(session)
    trace.output_audio[8 * 16000 : 9 * 16000] = 0.1 * np.sin(np.arange(16000) / 20)  # babble
    found = spoken.utterances_of(trace, session.truth, GRAMMAR)
    assert [s.words for s in found] == [("foreign", "words", "here"), ("stop",), ()]
    deaf = spoken.trials(found, [(), (), ("one", "two")])
    assert sum(t.values["words"] for t in deaf) == 4
    assert sum(t.values["right"] for t in deaf) == -2


def test_text_that_is_written_only_is_left_out():
    session = full()
    words = [
        w for s in spoken.utterances_of(played(session), session.truth, GRAMMAR) for w in s.words
    ]
    assert "blue" in words and "sky" not in words  # the sky is blue: typed


def test_muted_words_are_kept_as_words_to_be_heard():
    task = trial("TimeSpeak", 0.0, 9.0, triggers=[{"time_s": 2.0, "answer": "stop"}])
    session = record([task], [(2.0, "stop")])
    trace = played(session)
    trace.output_audio[:] = 0
    (found,) = spoken.utterances_of(trace, session.truth, GRAMMAR)
    assert found.words == ("stop",) and not found.wave.any()
    assert spoken.recognise([found], GRAMMAR, Inline())[0] != ("stop",)


def test_words_outside_the_dictionary_are_read_as_spelled():
    assert spoken.as_spelled("camisa") == "K AA M IY S AA"
    assert spoken.as_spelled("arroz") == "AA R OW S"


def test_chance_is_far_below_the_truth():
    found = [spoken.Spoken(str(i), s, np.zeros(1)) for i, s in enumerate(GRAMMAR)]
    right = spoken.rows("x", spoken.trials(found, GRAMMAR), 0)
    luck = spoken.rows("chance", spoken.chance(found, GRAMMAR, 0), 0)
    assert right[0].value == 100 and luck[0].value < 40


def test_at_most_so_many_are_scored_always_the_same():
    found = [spoken.Spoken(str(i), (), np.zeros(1)) for i in range(50)]
    assert len(spoken.choose(found, 0, 20)) == 20
    assert spoken.choose(found, 0, 20) == spoken.choose(found, 0, 20)
    assert len(spoken.choose(found, 0)) == 50
