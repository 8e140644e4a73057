"""The grammar of carriers, and what Carriers keeps apart."""

import pytest

from data_pipelines import phrases, skills
from data_pipelines.phrases import Carriers, expand, varied


def test_expand_writes_every_choice():
    starts, ends = ("now ", "so ", ""), ("it", "that", "all of that")
    wanted = {f"{start}say {end}" for start in starts for end in ends}
    assert set(expand("[now|so] say (it|[all of ]that)")) == wanted
    assert expand("say ; it | now") == ("say | it | now", "say it | now")
    assert expand("say {word}") == ("say {word}",)


@pytest.mark.parametrize("pattern", ["(a", "a)", "[a", "a]", "(a]", "[a)", "a | [b] | c", "a ;"])
def test_patterns_that_mean_nothing(pattern):
    with pytest.raises(ValueError, match="missing|opens|without words"):
        expand(pattern)


def test_varied_takes_an_even_share_of_each_pattern():
    text = "one\n(a|b|c|d) two\n(a|b|c|d) three"
    found = varied(5, text)
    assert found == varied(5, text) and found[0] == "one"
    assert [sum(word in c for c in found) for word in ("two", "three")] == [2, 2]
    assert len(varied(99, text)) == 9


def test_training_keeps_no_clause_and_no_sentence_of_evaluation():
    kept = Carriers(
        train=("say it | now", "so say it now then", "can you tell me | it", "tell | it all now"),
        dev=("say it | twice",),
        eval=("say | it now",),
    )
    assert kept.train == ("tell | it all now",)


def test_every_intent_has_many_carriers_and_frames_hold_no_cue():
    for module in skills.MODULES:
        assert all(len(c.train) >= 20 for c in module.CARRIERS)
    for carriers in (phrases.RUNNING, phrases.FILLERS, phrases.DONE):
        assert {w for c in carriers.train for w in c.split()}.isdisjoint(phrases.CUES)
