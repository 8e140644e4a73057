"""A small corpus and a tokenizer for the tests of tmi.data."""

from __future__ import annotations

import pytest

from tests.data.sessions import SKILLS, Bytes, make_record, write_corpus


@pytest.fixture(scope="session")
def tokenizer():
    return Bytes()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    sessions = [make_record(k, SKILLS[k % len(SKILLS)]) for k in range(24)]
    return write_corpus(tmp_path_factory.mktemp("corpus"), sessions)
