"""Batches depend on corpus, config, seed and number alone; damage is skipped, counted, named."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest

from tests.data.sessions import (
    DAMAGES,
    SKILLS,
    Bytes,
    damaged,
    digest,
    flip,
    make_record,
    small_config,
    write_corpus,
)
from tmi.config import ConfigError
from tmi.data import records
from tmi.data.batch import shapes
from tmi.data.measure import measure
from tmi.data.pipeline import Sessions, dev_batches, merge_states, train_batches
from tmi.data.records import CorpusError
from tmi.microturn import Stream

CONFIG = small_config()


@pytest.fixture(scope="module")
def reference(corpus, tokenizer):
    """(digest, state after it) of the first 14 batches: more than two epochs."""
    batches = train_batches(CONFIG, 7, corpus=corpus, tokenizer=tokenizer)
    out = [(digest(b), json.loads(json.dumps(batches.get_state()))) for b in take(batches, 14)]
    batches.close()
    return out


def take(batches, n: int):
    return itertools.islice(batches, n)


def digests(config, n, corpus, state=None, **options) -> list[str]:
    batches = train_batches(config, 7, corpus=corpus, tokenizer=Bytes(), **options)
    if state is not None:
        batches.set_state(state)
    out = [digest(b) for b in take(batches, n)]
    batches.close()
    return out


def test_batches_have_the_declared_form(corpus, tokenizer):
    batches = train_batches(CONFIG, 7, corpus=corpus, tokenizer=tokenizer)
    batch = next(batches)
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == shapes(CONFIG)
    assert batch["skill"].max() < len(corpus.skills)
    assert 0.3 < batches.fill <= 1 and batches.num_batches == 1 and batches.wait_s > 0
    batches.close()


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_threads_change_nothing(corpus, reference, threads):
    config = small_config(num_threads=threads, prefetch=threads)
    assert digests(config, 6, corpus) == [d for d, _ in reference[:6]]


@pytest.mark.parametrize("after", [0, 4, 9, 12])
def test_resumed_batches_are_the_uninterrupted_ones_to_the_bit(corpus, reference, after):
    expected = [d for d, _ in reference[after + 1 : after + 4]]
    assert digests(CONFIG, len(expected), corpus, reference[after][1]) == expected


def test_a_state_taken_before_the_first_batch_is_the_start(corpus, reference, tokenizer):
    state = train_batches(CONFIG, 7, corpus=corpus, tokenizer=tokenizer).get_state()
    assert digests(CONFIG, 2, corpus, state) == [d for d, _ in reference[:2]]


def test_an_iterator_can_go_back(corpus, reference, tokenizer):
    batches = train_batches(CONFIG, 7, corpus=corpus, tokenizer=tokenizer)
    list(take(batches, 6))
    batches.set_state(reference[1][1])
    assert [digest(b) for b in take(batches, 3)] == [d for d, _ in reference[2:5]]
    batches.close()


def test_a_state_of_another_seed_or_corpus_is_refused(corpus, reference, tokenizer, tmp_path):
    state = reference[0][1]
    with pytest.raises(CorpusError, match="seed 7; this run's is 8"):
        train_batches(CONFIG, 8, corpus=corpus, tokenizer=tokenizer).set_state(state)
    other = write_corpus(tmp_path, [make_record(99, s) for s in SKILLS])
    with pytest.raises(CorpusError, match="of corpus"):
        train_batches(CONFIG, 7, corpus=other, tokenizer=tokenizer).set_state(state)


@pytest.mark.parametrize(
    ("shards", "parts"),
    [
        (1, [[0, 1], [2, 3]]),
        (2, [[0, 3], [1, 2]]),
        (2, [[0, 1, 2, 3], [2]]),
        (4, [[0, 1], [2, 3]]),
        (4, [[0, 3], [1, 2]]),
    ],
)
def test_rows_are_the_same_whoever_reads_them(corpus, tokenizer, shards, parts):
    config = small_config(shards=shards)
    whole = train_batches(config, 7, corpus=corpus, tokenizer=tokenizer)
    hosts = [
        train_batches(config, 7, corpus=corpus, tokenizer=tokenizer, rows=rows) for rows in parts
    ]
    assert [h.shards for h in hosts] == [sorted({r * shards // 4 for r in rows}) for rows in parts]
    for _ in range(2):
        batch = next(whole)
        for host, rows in zip(hosts, parts, strict=True):
            assert digest(next(host)) == digest({k: v[rows] for k, v in batch.items()})
    for b in [whole, *hosts]:
        b.close()


def test_two_hosts_go_on_as_one_and_one_as_two(corpus, tokenizer):
    def open_rows(rows, state=None):
        config = small_config(shards=2)
        batches = train_batches(config, 7, corpus=corpus, tokenizer=tokenizer, rows=rows)
        if state is not None:
            batches.set_state(json.loads(json.dumps(state)))
        return batches

    whole = open_rows(None)
    expected = list(take(whole, 6))
    whole.close()
    halves = [open_rows([0, 1]), open_rows([2, 3])]
    for half in halves:
        list(take(half, 2))
    with pytest.raises(CorpusError, match="lacks shard 0; it has 1"):
        open_rows([0, 1], halves[1].get_state())
    one = open_rows(None, merge_states([half.get_state() for half in halves]))
    assert [digest(b) for b in take(one, 2)] == [digest(b) for b in expected[2:4]]
    again = open_rows([2, 3], one.get_state())
    for found, b in zip(take(again, 2), expected[4:], strict=True):
        assert digest(found) == digest({k: v[2:] for k, v in b.items()})
    for b in [*halves, one, again]:
        b.close()


def test_shards_deal_out_every_epoch(tokenizer, tmp_path, monkeypatch):
    corpus = write_corpus(tmp_path, [make_record(k, "answer", 1.6) for k in range(64)])
    config = small_config(shards=2, batch_size=2, augment=False, num_threads=0)
    read, get = [], Sessions.__getitem__
    monkeypatch.setattr(Sessions, "__getitem__", lambda self, i: read.append(i) or get(self, i))
    halves = []
    for row in (0, 1):
        next(train_batches(config, 1, corpus=corpus, tokenizer=tokenizer, rows=[row]))
        halves.append(sorted(read))
        read.clear()
    assert len(halves[0]) == len(halves[1]) == 32  # a group of sessions is read at once
    assert sorted(halves[0] + halves[1]) == list(range(64))


def test_a_position_from_before_there_were_shards_is_read(corpus, reference, tokenizer):
    state = reference[0][1]
    old = {**{k: state[k] for k in ("corpus", "seed")}, "grain": state["shards"]["0"]}
    assert digests(CONFIG, 2, corpus, old) == [d for d, _ in reference[1:3]]


@pytest.mark.parametrize("rows", [[4], [1, 0], [-1], [0, 0], []])
def test_rows_are_those_of_a_batch_in_order(corpus, tokenizer, rows):
    with pytest.raises(ValueError, match="ascending numbers below data.batch_size=4"):
        train_batches(CONFIG, corpus=corpus, tokenizer=tokenizer, rows=rows)


def test_seeds_and_epochs_differ(corpus, reference):
    assert len({d for d, _ in reference}) == len(reference)
    batches = train_batches(CONFIG, 8, corpus=corpus, tokenizer=Bytes())
    assert digest(next(batches)) != reference[0][0]
    batches.close()


def sessions_seen(batches, n: int) -> list[tuple[int, int]]:
    """(skill, last micro-turn) of each session in the first `n` batches."""
    out = []
    for batch in take(batches, n):
        for segment, skill, turn in zip(
            batch["segment"], batch["skill"], batch["microturn"], strict=True
        ):
            for number in range(1, segment.max() + 1):
                at = segment == number
                out.append((int(skill[at][0]), int(turn[at].max())))
    batches.close()
    return out


def test_an_epoch_reads_every_session_once(corpus, tokenizer):
    config = small_config(batch_size=1, augment=False)
    expected = [
        (corpus.skills.index(r.skills[0]), r.id) for r in records.read_sessions(corpus)
    ]  # fmt: skip
    batches = dev_batches(config, 1000, corpus=corpus, tokenizer=tokenizer)
    seen = sessions_seen(iter_of(batches), len(batches))
    assert sorted(s for s, _ in seen) == sorted(s for s, _ in expected)


class iter_of:
    """A list of batches in the clothes of `Batches`."""

    def __init__(self, batches):
        self._iterator = iter(batches)

    def __iter__(self):
        return self._iterator

    def close(self):
        pass


def test_weights_set_the_mixture(corpus, tokenizer):
    config = small_config(skill_weights=(("typed", 3.0), ("answer", 1.0), ("count", 0.0)))
    seen = sessions_seen(train_batches(config, 1, corpus=corpus, tokenizer=tokenizer), 12)
    counts = [sum(s == k for s, _ in seen) for k in range(3)]  # answer, count, typed
    assert counts[1] == 0
    assert counts[2] / counts[0] == pytest.approx(3, rel=0.15)


def test_listed_skills_and_read_ones_give_the_same_mixture(tmp_path, tokenizer):
    sessions = [make_record(k, SKILLS[k % 3]) for k in range(9)]
    config = small_config(skill_weights=(("count", 1.0), ("answer", 1.0)))
    a, b = (write_corpus(tmp_path / str(x), sessions, list_skills=x) for x in (False, True))
    assert digests(config, 2, a) == digests(config, 2, b)


def test_a_skill_that_the_corpus_lacks_is_named(corpus, tokenizer):
    config = small_config(skill_weights=(("sing", 1.0),))
    with pytest.raises(CorpusError, match=r"'sing'.*accepted: answer, count, typed"):
        train_batches(config, corpus=corpus, tokenizer=tokenizer)


def test_dev_batches_are_fixed_unvaried_and_end(corpus, tokenizer):
    first = dev_batches(CONFIG, 100, corpus=corpus, tokenizer=tokenizer)
    again = dev_batches(CONFIG, 2, corpus=corpus, tokenizer=tokenizer)
    assert [digest(b) for b in first[:2]] == [digest(b) for b in again]
    assert all({k: (v.shape, v.dtype) for k, v in b.items()} == shapes(CONFIG) for b in first)
    with_weights = small_config(skill_weights=(("count", 2.0),))
    only = dev_batches(with_weights, 100, corpus=corpus, tokenizer=tokenizer)
    assert {s for s, _ in sessions_seen(iter_of(only), 100)} == {corpus.skills.index("count")}


def test_video_and_speech_of_the_sessions_arrive(corpus, tokenizer):
    batch = dev_batches(CONFIG, 1, corpus=corpus, tokenizer=tokenizer)[0]
    for kind in (Stream.AUDIO_IN, Stream.VIDEO_IN, Stream.TEXT_IN, Stream.AUDIO_OUT):
        assert (batch["stream"] == kind).any(), kind
    assert batch["video"].any() and batch["speech"].any() and batch["dmel"].any()


# Damage.


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_shard_is_skipped_and_named(tmp_path, name, tokenizer):
    corpus = damaged(tmp_path, DAMAGES[name])
    batches = train_batches(CONFIG, corpus=corpus, tokenizer=tokenizer)
    list(take(batches, 3))
    batches.close()
    assert len(batches.skipped) == 1
    assert str(corpus.shards[0]) in next(iter(batches.skipped.reasons))


def test_a_damaged_record_is_skipped_and_the_others_are_read(tmp_path, tokenizer):
    corpus = damaged(tmp_path, flip)
    config = small_config(batch_size=1)
    seen = sessions_seen(iter_of(dev_batches(config, 100, corpus=corpus, tokenizer=tokenizer)), 100)
    assert len(seen) == 11
    batches = train_batches(CONFIG, corpus=corpus, tokenizer=tokenizer)
    list(take(batches, 6))  # several epochs: still named once
    batches.close()
    (name,) = batches.skipped.reasons
    assert name.startswith("record ") and str(corpus.shards[0]) in name


def test_damage_does_not_spoil_resuming(tmp_path, tokenizer):
    corpus = damaged(tmp_path, flip)
    batches = train_batches(CONFIG, 7, corpus=corpus, tokenizer=tokenizer)
    out = [(digest(b), batches.get_state()) for b in take(batches, 5)]
    batches.close()
    assert digests(CONFIG, 3, corpus, out[1][1]) == [d for d, _ in out[2:]]


def test_records_that_make_no_sense_are_skipped_and_named(tmp_path, tokenizer):
    bad = dataclasses.replace(make_record(0, "answer"), duration_s=float("nan"))
    unknown = make_record(1, "answer")
    corpus = write_corpus(tmp_path, [bad, unknown, *(make_record(k, "typed") for k in (2, 3, 4))])
    unknown.skills = []
    corpus = write_corpus(tmp_path, [bad, unknown, *(make_record(k, "typed") for k in (2, 3, 4))])
    corpus.manifest["skills"] = {"answer": 1, "typed": 1}
    batches = train_batches(CONFIG, corpus=corpus, tokenizer=tokenizer)
    list(take(batches, 2))
    batches.close()
    reasons = " ".join(batches.skipped.reasons.values())
    assert (
        len(batches.skipped) == 2 and "duration_s=nan" in reasons and "its skills are []" in reasons
    )


def test_a_corpus_without_a_usable_session_is_an_error(tmp_path, tokenizer):
    one = damaged(tmp_path / "a", DAMAGES["truncated"], shards=1)
    with pytest.raises(CorpusError, match="none of its 1 shards is readable"):
        train_batches(CONFIG, corpus=one, tokenizer=tokenizer)
    nonsense = [dataclasses.replace(make_record(k), duration_s=0.0) for k in range(3)]
    other = write_corpus(tmp_path / "b", nonsense)
    with pytest.raises(CorpusError, match="none of its 3 records can be used"):
        next(train_batches(CONFIG, corpus=other, tokenizer=tokenizer))
    with pytest.raises(CorpusError, match="none of its 3 records can be used"):
        dev_batches(CONFIG, 1, corpus=other, tokenizer=tokenizer)


def test_long_sessions_are_cut_and_counted(tmp_path, tokenizer):
    corpus = write_corpus(tmp_path, [make_record(0, "answer", 60.0), make_record(1, "answer", 3.0)])
    batches = train_batches(CONFIG, corpus=corpus, tokenizer=tokenizer)
    list(take(batches, 2))
    batches.close()
    ((name, how),) = batches.skipped.cut.items()
    assert name.startswith("record 0") and how == "160 of 300 micro-turns kept"


def test_a_vocabulary_smaller_than_the_tokenizer_is_refused(corpus):
    config = dataclasses.replace(CONFIG, text=dataclasses.replace(CONFIG.text, vocab_size=100))
    with pytest.raises(ConfigError, match="text.vocab_size=100"):
        train_batches(config, corpus=corpus)
    text = dataclasses.replace(CONFIG.text, unpadded_vocab_size=100)
    with pytest.raises(ConfigError, match="text.unpadded_vocab_size=100"):
        train_batches(dataclasses.replace(CONFIG, text=text), corpus=corpus)


def test_a_vocabulary_that_is_not_there_is_named(corpus):
    text = dataclasses.replace(CONFIG.text, tokenizer="elsewhere.json")
    with pytest.raises(ConfigError, match="text.tokenizer='elsewhere.json' .*bpe512"):
        train_batches(dataclasses.replace(CONFIG, text=text), corpus=corpus)


def test_the_measuring_command_reports_rate_fill_and_losses(corpus):
    data = {"corpus": str(corpus.path), "dev_corpus": ""}
    report = measure(small_config(**data), 3)
    assert report["x_real_time_per_core"] > 10 and 0.3 < report["fill"] <= 1
    assert report["sessions"] >= 12 and report["skipped"] == {}


def test_a_corpus_of_another_clock_is_said_to_be(corpus, tokenizer, caplog):
    for seconds, said in ((0.4, True), (CONFIG.microturn.seconds, False)):
        caplog.clear()
        job = {"job": {"microturn_seconds": seconds}}
        other = dataclasses.replace(corpus, manifest=corpus.manifest | job)
        train_batches(CONFIG, 7, corpus=other, tokenizer=tokenizer).close()
        assert ("--microturn_seconds=0.2" in caplog.text) == said


def test_two_corpora_are_drawn_from_as_one(corpus, tmp_path):
    other = write_corpus(tmp_path, [make_record(k, "other") for k in range(40, 44)])
    both = records.open_corpora(f"{corpus.path},{other.path}")
    named = dataclasses.replace(CONFIG.data, corpus=f"{corpus.path},{other.path}")
    config = dataclasses.replace(CONFIG, data=named)
    assert digests(config, 4, both) == digests(config, 4, None)
    only = dataclasses.replace(named, skill_weights=(("other", 1.0),))
    of_other = digests(dataclasses.replace(CONFIG, data=only), 2, None)
    assert of_other != digests(config, 2, None)
    assert not set(by := Sessions(both, records.Skipped()).by_skill()["other"]) & set(range(12))
    assert len(by) == 4
