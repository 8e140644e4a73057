"""Session records and corpora: the round trip, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import msgpack
import numpy as np
import pytest

from tests.data.sessions import DAMAGES, SKILLS, damaged, flip, make_record, write_corpus
from tmi.data.records import (
    CorpusError,
    Skipped,
    decode,
    encode,
    open_corpora,
    open_corpus,
    read_sessions,
)


def same(a, b) -> None:
    for field in dataclasses.fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if field.name == "user_audio":
            np.testing.assert_array_equal(x, y)
        elif field.name == "model_audio":
            assert [t for t, _ in x] == [t for t, _ in y]
            for (_, v), (_, w) in zip(x, y, strict=True):
                np.testing.assert_array_equal(v, w)
        else:
            assert x == y, field.name


@pytest.mark.parametrize("skill", SKILLS)
def test_a_record_comes_back(skill):
    record = make_record(3, skill)
    same(decode(encode(record)), record)
    record.mistakes = [(0.4, 0.8), (1.0, 1.2)]
    same(decode(encode(record)), record)


def test_other_bytes_are_refused():
    whole = encode(make_record(0))
    d = msgpack.unpackb(whole)
    for data, match in (
        (b"", "not a session record"),
        (b"hello", "not a session record"),
        (whole[: len(whole) // 2], "not a session record"),
        (msgpack.packb({**d, "version": 9}), "version 9; this code reads version 1"),
        (msgpack.packb({**d, "extra": 1}), "not a session record"),
        (msgpack.packb({k: v for k, v in d.items() if k != "id"}), "not a session record"),
        (msgpack.packb({**d, "user_audio": "text"}), "not a session record"),
        (msgpack.packb({**d, "user_audio": b"odd"}), "not a session record"),
        (msgpack.packb({**d, "frames": 3}), "not a session record"),
        (msgpack.packb([1, 2]), "not a session record"),
    ):
        with pytest.raises(CorpusError, match=match):
            decode(data)


def test_a_corpus_is_read_in_order_and_by_id(tmp_path):
    sessions = [make_record(k) for k in range(5)]
    corpus = write_corpus(tmp_path, sessions)
    assert corpus.num_sessions == 5 and corpus.skills == ["answer"]
    assert sorted(r.id for r in read_sessions(corpus)) == [r.id for r in sessions]
    assert [r.id for r in read_sessions(corpus, ["s3"])] == ["s3"]


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_shard_is_left_out_and_named_once(tmp_path, name):
    corpus = damaged(tmp_path, DAMAGES[name])
    skipped = Skipped()
    for _ in range(2):
        found = [r.id for r in read_sessions(corpus, skipped=skipped)]
        assert found == [f"s{k}" for k in range(1, 12, 2)]  # those of the second shard
    assert list(skipped.reasons) == [f"shard {corpus.shards[0]}"]


def test_a_damaged_record_is_left_out_and_named_once(tmp_path):
    corpus = damaged(tmp_path, flip)
    skipped = Skipped()
    for _ in range(2):
        assert len(list(read_sessions(corpus, skipped=skipped))) == 11
    (name,) = skipped.reasons
    assert name.startswith("record ") and name.endswith(f"of {corpus.shards[0]}")


def test_a_shard_that_lacks_records_is_named(tmp_path):
    corpus = write_corpus(tmp_path, [make_record(k) for k in range(4)])
    corpus.manifest["shards"][1]["count"] = 5
    skipped = Skipped()
    assert len(list(read_sessions(corpus, skipped=skipped))) == 4
    assert skipped.reasons == {f"part of shard {corpus.shards[1]}": "2 of 5 records"}


def test_the_hash_is_of_the_contents(tmp_path):
    a = write_corpus(tmp_path / "a", [make_record(0)])
    b = write_corpus(tmp_path / "b", [make_record(0)])
    c = write_corpus(tmp_path / "c", [make_record(1)])
    assert a.hash == b.hash != c.hash


def test_a_directory_that_is_no_corpus_is_told_what_is_missing(tmp_path):
    with pytest.raises(CorpusError, match=r"manifest.json is missing. Render one with"):
        open_corpus(tmp_path)
    corpus = write_corpus(tmp_path, [make_record(0)])
    for shard in corpus.shards:
        shard.unlink()
    with pytest.raises(CorpusError, match="names 2 shards and none is there"):
        open_corpus(tmp_path)
    for text in ("", "[]", "{}", '{"shards": [{}], "skills": {}}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(CorpusError, match="is damaged"):
            open_corpus(tmp_path)


def test_several_corpora_are_one(tmp_path):
    a = write_corpus(tmp_path / "a", [make_record(k, "answer") for k in range(3)])
    b = write_corpus(tmp_path / "b", [make_record(k, "typed") for k in range(3, 7)])
    both = open_corpora(f"{a.path},{b.path}")
    assert [r.id for r in read_sessions(both)] == [
        r.id for corpus in (a, b) for r in read_sessions(corpus)
    ]
    assert both.num_sessions == 7 and both.skills == ["answer", "typed"]
    assert both.hash not in (a.hash, b.hash)
    assert open_corpora(str(a.path)).hash == a.hash


def test_corpora_that_do_not_belong_together_are_refused(tmp_path):
    a = write_corpus(tmp_path / "a", [make_record(0)])
    b = write_corpus(tmp_path / "b", [make_record(1)])
    with pytest.raises(CorpusError, match="the same sessions, named twice"):
        open_corpora(f"{a.path},{b.path},{a.path}")
    held = json.loads((b.path / "manifest.json").read_text())
    (b.path / "manifest.json").write_text(json.dumps(held | {"split": "eval"}))
    with pytest.raises(CorpusError, match="corpora of one split and clock .*'eval'"):
        open_corpora(f"{a.path},{b.path}")
    with pytest.raises(CorpusError, match="nowhere is no corpus"):
        open_corpora(f"{a.path},nowhere")
