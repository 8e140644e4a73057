"""The second recogniser: optional, deaf to silence, cheap."""

import sys
import types

import numpy as np
import pytest

from tests.evals.sessions import full
from tests.evals.test_spoken import GRAMMAR, Inline
from tmi.config import Config
from tmi.evals import moonshine, runner, spoken

RNG = np.random.default_rng(0)
LOUD = (0.1 * RNG.normal(size=16000)).astype(np.float32)


@pytest.fixture
def hears_red(monkeypatch):
    heard = []

    def listen(wave):
        heard.append(wave)
        return ["the", "word", "is", "red"]

    monkeypatch.setattr(moonshine, "_recogniser", lambda: listen)
    return heard


@pytest.fixture
def nothing_slow(monkeypatch):
    """The waveform stage and the closed grammar have tests of their own."""
    monkeypatch.setattr(spoken, "through_mel", lambda s, config: s)
    monkeypatch.setattr(spoken, "recognise", lambda some, grammar, pool: [s.words for s in some])


def test_errors_over_words_deletions_counted(hears_red):
    said = [
        spoken.Spoken("a", ("the", "word", "is", "red"), LOUD),
        spoken.Spoken("b", ("the", "word", "is", "blue"), LOUD),  # one substitution
        spoken.Spoken("c", ("stop", "now"), np.zeros(16000, np.float32)),  # two deletions
        spoken.Spoken("d", ("is", "red"), LOUD),  # two insertions
        spoken.Spoken("e", ("one",), LOUD),  # left to the grammar
    ]
    (row,) = spoken.open_rows("model", said, 0, Inline())
    assert row.value == pytest.approx(100 * (0 + 1 + 2 + 2) / 12)
    assert (row.metric, row.asr, row.mode) == ("word error rate", "moonshine", "strict")
    assert len(hears_red) == 3  # silence is not listened to


def test_few_are_heard(hears_red):
    said = [spoken.Spoken(str(i), ("is", "red"), LOUD) for i in range(200)]
    spoken.open_rows("model", said, 0, Inline())
    assert len(hears_red) == spoken.MAX_OPEN == 60


def test_rows_of_every_source(hears_red, nothing_slow):
    rows = runner.spoken_rows([], [full()], GRAMMAR, Config(), 0, Inline())
    heard = {r.system for r in rows if r.asr == "moonshine"}
    assert heard == {"model", "recordings", "mel"}
    assert {r.system for r in rows if r.asr != "moonshine"} == heard | {"chance"}


def test_without_the_package_the_rows_are_left_out_with_a_reason(monkeypatch, caplog, nothing_slow):
    monkeypatch.setitem(sys.modules, "moonshine_voice", None)
    moonshine._recogniser.cache_clear()
    with pytest.raises(moonshine.UnavailableError, match=r"\[eval\] extra"):
        moonshine.open_recogniser()
    rows = runner.spoken_rows(None, [full()], GRAMMAR, Config(), 0, Inline())
    assert rows and not [r for r in rows if r.asr == "moonshine"]
    assert "no Spoken-syn rows by moonshine: moonshine cannot be loaded" in caplog.text


def test_without_its_files_too(monkeypatch):
    def fail(*_):
        raise OSError("no such file: encoder_model.ort")

    module = types.ModuleType("moonshine_voice")
    module.__file__ = "nowhere/__init__.py"
    module.Transcriber, module.ModelArch = fail, types.SimpleNamespace(TINY=0)
    monkeypatch.setitem(sys.modules, "moonshine_voice", module)
    with pytest.raises(moonshine.UnavailableError, match="encoder_model.ort"):
        moonshine.open_recogniser()
