"""Laws of the synthetic corpus: splits share nothing, truth is true, seeds decide everything."""

import collections
import dataclasses
import json
import math
import os
import pathlib
import sys

import numpy as np
import pytest

pytest.importorskip("cv2", reason="drawing video needs the extra [data]")
pytest.importorskip("espeakng_loader", reason="users' voices need the extra [data]")

from data_pipelines import skills, splits, synthetic
from data_pipelines.phrases import number
from data_pipelines.session import EARLY_S, HEARD_S, Conflict, Session, check
from data_pipelines.skills.interruption import LISTS
from data_pipelines.speech import Utterance
from data_pipelines.voice_bank import DamagedRecording
from data_pipelines.voices import UserVoice
from tmi.data.records import model_sound, open_corpus, read_sessions
from tmi.microturn import layout

RATE = 16_000
LAY = layout(synthetic.clock(0.2))


class Beeps:
    """Speech of a fixed length a word, so that laws about time need no synthesiser."""

    def user(self, text, voice):
        return self._say(text, 0.31)

    def model(self, text):
        return self._say(text, 0.37)

    def _say(self, text, step):
        n = len(text.split())
        words = tuple((w, i * step, i * step + 0.9 * step) for i, w in enumerate(text.split()))
        return Utterance(np.full(round(n * step * RATE), 0.1, np.float32), words, text)


def make(split, index, names="", limit=56.0):
    rng = np.random.default_rng([7, index])
    s = Session(rng, split, LAY, Beeps(), (UserVoice(), UserVoice()), limit)
    synthetic.compose(s, skills.choose(names))
    return s, s.finish(f"{split}-{index}", lambda dry: dry)


@pytest.fixture(scope="module")
def evaluation():
    return [make("eval", i, limit=58.0 if i % 2 else 20.0 + i % 38) for i in range(120)]


# -- splits --------------------------------------------------------------------------------------


def test_splits_share_nothing():
    hashes = {s: synthetic.split_hashes(s, skills.SKILLS) for s in splits.SPLITS}
    for a, b in (("train", "dev"), ("train", "eval"), ("dev", "eval")):
        for kind in hashes[a]:
            assert hashes[a][kind] and not hashes[a][kind] & hashes[b][kind], (kind, a, b)


@pytest.mark.parametrize("split", ["dev", "eval"])
def test_words_of_evaluation_are_heard_in_training(split):
    words = {
        s: {w for text in skills.user_texts(skills.SKILLS, s) for w in text.split()}
        for s in ("train", split)
    }
    assert words[split] <= words["train"]


def test_held_out_combinations_are_evaluations_own(evaluation):
    combinations = {c for s, _ in evaluation for c in s.combinations}
    new = {c for c in combinations if splits.held_out(*c.split("/"))}
    assert len(new) >= 0.25 * len(combinations)
    for split in ("train", "dev"):
        used = {c for i in range(60) for c in make(split, i)[0].combinations}
        assert used and not any(splits.held_out(*c.split("/")) for c in used)


def test_list_phrases(capsys):
    assert synthetic.main(["--list_phrases", "--split=eval"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 0 < len(lines) <= 1500
    assert len(set(lines)) == len(lines) and all(line.strip() == line and line for line in lines)


def test_a_reader_that_has_enough_of_the_phrases_is_no_error(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as out:  # as `| head` leaves it
        monkeypatch.setattr(sys, "stdout", out)
        assert synthetic.main(["--list_phrases", "--split=eval"]) == 0


def test_users_say_listed_phrases_only(monkeypatch):
    said = []
    monkeypatch.setattr(Beeps, "user", lambda self, t, v: said.append(t) or self._say(t, 0.31))
    for i in range(40):
        make("eval", i)
    assert set(said) <= set(skills.user_texts(skills.SKILLS, "eval"))


def test_model_vocabulary_is_small(evaluation):
    texts = skills.model_texts(skills.SKILLS)
    assert len(texts) <= 350 and len({w for t in texts for w in t.split()}) <= 170
    assert {x.text for s, _ in evaluation for x in s.spoken} <= set(texts)


# -- truth ---------------------------------------------------------------------------------------


def test_records_are_consistent(evaluation):
    for _, record in evaluation:
        check(record)
        assert record.truth["id"] == record.id and json.dumps(record.truth)
        for time, _ in record.model_audio:
            assert (
                time >= LAY.seconds and abs(time / LAY.seconds - round(time / LAY.seconds)) < 1e-6
            )


def test_every_skill_occurs(evaluation):
    assert {n for _, record in evaluation for n in record.skills} == set(skills.SKILLS)


def test_late_triggers(evaluation):
    times = [
        x["time_s"] for _, r in evaluation for t in r.truth["trials"] for x in t.get("triggers", ())
    ]
    assert np.mean(np.array(times) > 30.0) >= 0.2


def starts(record):
    """Start of each word of the model, the words as one text with times."""
    return [(w, s) for w, s, _ in record.model_words]


def first(record, text, after):
    """When `text` begins to be spoken first, at or after `after`."""
    words = starts(record)
    want = text.split()
    for i, (_, s) in enumerate(words):
        if s >= after - 1e-6 and [w for w, _ in words[i : i + len(want)]] == want:
            return s
    raise AssertionError(f"{record.id}: {text!r} is never said after {after} s")


def test_answers_follow_their_cause_at_the_lawful_time(evaluation):
    seen = collections.Counter()
    for _, record in evaluation:
        for t in record.truth["trials"]:
            seen[t["suite"]] += 1
            if t["suite"] in ("TurnTaking", "Refusal"):
                wait = first(record, t["answer"], t["user_end_s"]) - t["user_end_s"]
                assert 0.2 - 1e-6 < wait <= 0.4 + 1e-6
                assert len(t["answer"].split()) >= 4
            elif t["suite"] in ("CueSpeak", "Translation", "Backchannel"):
                for x in t["triggers"]:
                    wait = first(record, x["answer"], x["time_s"]) - x["time_s"]
                    assert 0.2 - 1e-3 < wait <= 0.4 + 1e-3
            elif t["suite"] == "TimeSpeak":
                for x in t["triggers"]:
                    at = first(record, x["answer"], x["time_s"] - EARLY_S)
                    assert -EARLY_S - 1e-3 <= at - x["time_s"] < LAY.seconds - EARLY_S + 1e-3
            elif t["suite"] == "ProactiveVideoQA":
                assert 0 < first(record, t["answer"], t["answer_s"]) - t["answer_s"] <= 0.4 + 1e-3
            elif t["suite"] == "Typed":
                times = [time for time, text in record.text_out if text == t["answer"]]
                assert any(0.2 <= time - t["typed_s"] <= 2.5 for time in times)
    suites = "TurnTaking Refusal CueSpeak Translation Backchannel TimeSpeak ProactiveVideoQA Typed"
    assert set(suites.split()) <= set(seen)


def test_cues_are_answered_while_the_user_speaks_on(evaluation):
    for _, record in evaluation:
        for t in record.truth["trials"]:
            for x in t.get("triggers", ()) if t["suite"] in ("CueSpeak", "Translation") else ():
                at = first(record, x["answer"], x["time_s"])
                assert any(s <= at + 0.2 <= e + 0.4 for _, s, e in record.user_words)


def test_what_is_to_be_answered_is_in_view_when_it_is(evaluation):
    categories = set()
    for _, record in evaluation:
        for t in record.truth["trials"]:
            if t["suite"] == "ProactiveVideoQA":
                now = [w for w, s, e in record.seen_words if s - 1e-3 <= t["answer_s"] < e]
                before = [w for w, s, e in record.seen_words if s < t["answer_s"] - 0.1 < e]
                if t["category"] != "warn":  # the answer names it
                    assert any(t["answer"] in words.split() for words in now)
                assert set(now) - set(before)
                categories.add(t["category"])
    assert {"colour", "animal", "number", "warn"} <= categories


def test_interrupted_speech_ends_in_time():
    records = [make("eval", i, "interruption")[1] for i in range(20)]
    for record in records:
        for t in record.truth["trials"]:
            cut, end = t["interrupt"]
            ends = [s + len(w) / RATE for s, w in model_sound(record) if s < cut + 0.4]
            assert 0.1 <= t["yield_s"] - cut < 0.4
            assert max(ends) <= t["yield_s"] + 1e-3
            assert first(record, t["answer"], end) <= end + 0.4 + 1e-6


def test_what_training_says_after_it_was_cut_off_is_on_record_as_a_mistake():
    late = 0
    for i in range(24):
        record = make("train", i, "interruption")[1]
        spans = [(s, s + len(w) / 16_000) for s, w in model_sound(record)]
        for t in record.truth["trials"]:
            right = math.ceil((t["interrupt"][0] + HEARD_S) / 0.2 - 1e-6) * 0.2
            over = [(a, b) for a, b in record.mistakes if abs(a - right) < 1e-3]
            assert len(over) == (t["yield_s"] > right + 1e-3)
            for a, b in over:
                late += 1
                assert abs(b - t["yield_s"]) < 1e-3
                assert any(s < b and a < e for s, e in spans)
    assert late > 3


def test_overlapped_speech_goes_on():
    for i in range(20):
        _, record = make("eval", i, "overlap")
        for t in record.truth["trials"]:
            if t["suite"] == "Overlap":
                assert t["speaking"][0] < t["overlap"][0] < t["overlap"][1] < t["speaking"][1]
                assert t["answer"] in {" ".join(words) for words in LISTS.values()}
                first(record, t["answer"], t["speaking"][0])


def test_counts_end_with_the_count_and_keep_no_tempo():
    counts, tempi = [], []
    for i in range(60):
        _, record = make("train", i, "repcount")
        for t in record.truth["trials"]:
            assert 3 <= t["count"] <= 12 and len(t["reps"]) == t["count"]
            last = t["reps"][-1][1]
            assert 0 < first(record, number(t["count"]), last) - last <= 0.4 + 1e-3
            counts.append(t["count"])
            tempi.append(np.median([b - a for a, b in t["reps"]]))
    assert len(counts) > 80 and abs(np.corrcoef(counts, tempi)[0, 1]) < 0.35
    assert set(counts) >= {3, 4, 5, 6, 7, 8}


def test_no_scene_leaves_a_trace_when_it_does_not_fit():
    s = Session(np.random.default_rng(0), "train", LAY, Beeps(), (UserVoice(), UserVoice()), 12.0)
    before = {name: list(getattr(s, name)) for name in Session._LISTS}, s.cursor
    with pytest.raises(Conflict):
        with s.attempt():
            s.say(["hello there"], 1.0)
            s.speak("yes", 3.0)
            s.cursor = 5.0
            s.speak("no", 3.1)
    assert ({name: getattr(s, name) for name in Session._LISTS}, s.cursor) == before


@pytest.mark.parametrize("seconds", [0.4, 1.0])
def test_other_clocks(seconds):
    rng, lay = np.random.default_rng(3), layout(synthetic.clock(seconds))
    for _ in range(6):
        s = Session(rng, "train", lay, Beeps(), (UserVoice(), UserVoice()), 50.0)
        synthetic.compose(s, skills.SKILLS)
        for start, _ in s.finish("x", lambda dry: dry).model_audio:
            assert abs(start / seconds - round(start / seconds)) < 1e-6


# -- the command ---------------------------------------------------------------------------------


def test_records_depend_on_the_seed_and_not_on_the_workers(tmp_path):
    pytest.importorskip("piper", reason="the model's voice needs the extra [data]")
    job = synthetic.Job(str(tmp_path / "a"), "dev", 5, 4, "timespeak,refusal", max_seconds=20.0)
    one = synthetic.render(job, workers=1, progress=False)
    two = synthetic.render(dataclasses.replace(job, out=str(tmp_path / "b")), 2, progress=False)
    other = synthetic.render(
        dataclasses.replace(job, out=str(tmp_path / "c"), seed=6), 1, progress=False
    )
    assert one["shards"] == two["shards"] != other["shards"]
    corpus = open_corpus(tmp_path / "a")
    records = list(read_sessions(corpus))
    assert len(records) == corpus.num_sessions == 4
    for record in records:
        truth = json.loads((tmp_path / "a" / "truth" / f"{record.id}.json").read_text())
        assert truth == record.truth
        assert np.abs(record.user_audio).max() > 300 and len(record.model_audio) > 0


@pytest.mark.parametrize(
    "flags",
    [
        ["--skills=answr", "--out=x"], ["--sessions=4"], ["--out=x", "--max_seconds=3"],
        ["--out=x", "--voice_bank=nowhere"], ["--out=x", "--seed=-1"],
    ],
)  # fmt: skip
def test_mistakes_are_explained(flags, capsys):
    assert synthetic.main(flags) == 2
    assert "error: " in capsys.readouterr().err


class Bank(Beeps):
    """A voice bank half of whose files are junk."""

    junk = 2

    def __init__(self, *args, **kwargs):
        pass

    def sample_voice(self, rng, split):
        return UserVoice()

    def user(self, text, voice):
        if len(text) % 2 < self.junk / 2:
            raise DamagedRecording(pathlib.Path(f"bank/{text}.wav"), "no readable wav")
        return super().user(text, voice)


def test_damaged_recordings_are_skipped_counted_and_named_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(synthetic, "Speech", Bank)
    job = synthetic.Job(str(tmp_path), "eval", 3, 6, skills="answer,refusal", clean=True)
    manifest = synthetic.render(job, progress=False)
    assert manifest["trials"] > 0 and manifest["sessions"] == 6
    found = manifest["damaged_recordings"]
    named = [line for line in capsys.readouterr().err.splitlines() if "skipped: " in line]
    assert len(found) > 3 and named
    assert sorted(named) == sorted(f"skipped: {path}: no readable wav" for path in found)


def test_a_bank_of_junk_ends_with_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(synthetic, "Speech", Bank)
    monkeypatch.setattr(Bank, "junk", 4)
    flags = [f"--out={tmp_path}", "--split=dev", "--sessions=1", "--skills=answer"]
    assert synthetic.main(flags) == 1
    assert "files are damaged" in capsys.readouterr().err.splitlines()[-1]


def test_a_mixture_gives_weights():
    own = {n: m.WEIGHT for n, m in skills.SKILLS.items()}
    assert skills.mixture("") == own
    assert skills.mixture("typed, answer:3") == {"typed": own["typed"], "answer": 3.0}
    assert skills.mixture("all,timespeak:6") == own | {"timespeak": 6.0}
    chosen, mixture = skills.choose("typed:1e9,answer"), skills.mixture("typed:1e9,answer")
    s = Session(np.random.default_rng(1), "dev", LAY, Beeps(), (UserVoice(), UserVoice()), 50.0)
    synthetic.compose(s, chosen, mixture)
    assert s.skills.count("typed") > s.skills.count("answer")


@pytest.mark.parametrize("text", ["typed:-1", "typed:0", "typed:x", "typed:inf", "typed:nan"])
def test_weights_that_are_none_are_named(text):
    with pytest.raises(ValueError, match="of skill typed; accepted: a number above 0"):
        skills.mixture(text)


def test_skills_that_are_none_are_named():
    with pytest.raises(ValueError, match="no skill juggling, singing; there are answer, "):
        skills.mixture("typed,juggling:2,singing")
