"""Packing laws: nothing lost or doubled, block-aligned, within every capacity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.sessions import small_config
from tmi.data import batch as batch_lib
from tmi.data.batch import abstract_batch, empty_batch, shapes, silent_patches
from tmi.data.packing import assign, pack
from tmi.media.audio import silent_mel
from tmi.microturn import EOM_ID, Microturn, SessionSequence, Stream, lay_out, layout

CONFIG = small_config()
LAY = layout(CONFIG)
BLOCK = CONFIG.microturn.kv_block

PLAIN = ("token", "microturn", "text_target", "heard", "due", "spelled")


def session(seed: int, length: int) -> SessionSequence:
    """Random micro-turns whose contents tell sessions apart."""
    rng = np.random.default_rng([seed, length])
    turns = []
    for _ in range(length):
        speaks, sees = rng.random() < 0.2, rng.random() < 0.2
        turns.append(
            Microturn(
                audio=rng.integers(0, 16, (4, 80)).astype(np.uint8),
                heard=rng.integers(3, 500, rng.integers(0, 9)).tolist(),
                due=int(rng.integers(-1, 99)),
                spelled=int(rng.integers(-1, 99)),
                video=rng.integers(0, 255, (1, 2, 40, 40, 3)).astype(np.uint8) if sees else None,
                text_out=rng.integers(3, 500, rng.integers(0, 3)).tolist(),
                speech=rng.standard_normal((16, 80)).astype(np.float32) if speaks else None,
            )
        )
    return lay_out(LAY, turns)


def unpack(row) -> list[SessionSequence]:
    """The sessions of a row, indices made relative again."""
    out = []
    for number in range(1, row["segment"].max() + 1):
        here = row["segment"] == number
        start = int(np.argmax(here))
        stream, slot = row["stream"][here], row["slot"][here].copy()
        contents = {}
        for kind, key in (
            (Stream.AUDIO_IN, "dmel"),
            (Stream.VIDEO_IN, "video"),
            (Stream.AUDIO_OUT, "speech"),
        ):
            used = slot[stream == kind]
            contents[key] = row[key][used]
            if kind == Stream.AUDIO_OUT:
                contents["speech_source"] = row["speech_source"][used] - start
            slot[stream == kind] -= used.min(initial=10**6)
        plain = {k: row[k][here] for k in PLAIN}
        out.append(SessionSequence(stream=stream, slot=slot, **plain, **contents))
    return out


def key(seq: SessionSequence) -> bytes:
    """All that a session holds."""
    parts = (
        seq.stream, seq.slot, *(getattr(seq, name) for name in PLAIN), seq.dmel, seq.video,
        seq.speech, seq.speech_source,
    )  # fmt: skip
    return b"|".join(str(p.shape).encode() + np.ascontiguousarray(p).tobytes() for p in parts)


lengths = st.lists(st.integers(1, 60), min_size=1, max_size=12)


@given(lengths, st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_rows_hold_each_session_once_and_whole(turn_counts, seed):
    sessions = [session(k, n) for k, n in enumerate(turn_counts)]
    rows = list(pack(CONFIG, sessions, seed))
    found = [key(s) for row in rows for s in unpack(row)]
    assert sorted(found) == sorted(key(s) for s in sessions)


@given(lengths)
@settings(max_examples=30, deadline=None)
def test_rows_keep_their_form(turn_counts):
    sessions = [session(k, n) for k, n in enumerate(turn_counts)]
    d = CONFIG.data
    for row in pack(CONFIG, sessions):
        assert {k: (v.shape, v.dtype) for k, v in row.items()} == {
            k: (shape[1:], dtype) for k, (shape, dtype) in shapes(CONFIG).items()
        }
        segment, stream = row["segment"], row["stream"]
        assert ((segment == 0) == (stream == Stream.PAD)).all()
        for number in range(1, segment.max() + 1):
            at = np.flatnonzero(segment == number)
            assert at[0] % BLOCK == 0
            assert (np.diff(at) == 1).all()
            np.testing.assert_array_equal(row["position"][at], np.arange(len(at)))
        for kind, room in (
            (Stream.AUDIO_IN, d.audio_slots),
            (Stream.VIDEO_IN, d.video_slots),
            (Stream.AUDIO_OUT, d.speech_slots),
        ):
            slots = row["slot"][stream == kind]
            assert slots.tolist() == list(range(len(slots)))
            assert len(slots) <= room


@given(lengths)
@settings(max_examples=30, deadline=None)
def test_targets_and_weights_stay_inside_their_session(turn_counts):
    sessions = [session(k, n) for k, n in enumerate(turn_counts)]
    for row in pack(CONFIG, sessions):
        target, weight = row["text_target"], row["text_weight"]
        at = np.flatnonzero(target >= 0)
        np.testing.assert_array_equal(row["segment"][at], row["segment"][at + 1])
        np.testing.assert_array_equal(row["token"][at + 1], target[at])
        assert (row["stream"][at + 1] == Stream.TEXT_OUT).all()
        assert (weight[target < 0] == 0).all()
        light = target[at] == EOM_ID
        np.testing.assert_allclose(weight[at][light], CONFIG.train.eom_weight)
        np.testing.assert_allclose(weight[at][~light], CONFIG.train.text_weight)
        used = int((row["stream"] == Stream.AUDIO_OUT).sum())
        patch_at = np.flatnonzero(row["stream"] == Stream.AUDIO_OUT)
        np.testing.assert_array_equal(row["speech_source"][:used], patch_at - 1)
        np.testing.assert_array_equal(row["segment"][patch_at - 1], row["segment"][patch_at])
        assert (row["speech_weight"][:used] > 0).all()
        assert (row["speech_weight"][used:] == 0).all() and (row["speech_source"][used:] == 0).all()


sizes = st.tuples(st.integers(1, 512), st.integers(1, 160), st.integers(0, 48), st.integers(0, 40))


@given(st.lists(sizes, max_size=40))
@settings(max_examples=200, deadline=None)
def test_assignment_respects_every_room_and_opens_rows_only_at_need(lengths):
    rows = assign(CONFIG, lengths)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    d = CONFIG.data
    for row in rows:
        positions = 0
        for i in row:
            positions = -(-positions // BLOCK) * BLOCK + lengths[i][0]
        assert positions <= d.row_length
        totals = np.array([lengths[i] for i in row]).sum(0)
        assert (totals[1:] <= (d.audio_slots, d.video_slots, d.speech_slots)).all()
    alone = [row[0] for row in rows if len(row) == 1 and lengths[row[0]][0] <= BLOCK]
    fits = [i for i in alone if max(np.array(lengths[i]) / (256, 80, 24, 20)) <= 1]
    assert len(fits) <= 1  # two such would share a row


def test_a_session_that_fits_no_row_is_named():
    with pytest.raises(ValueError, match="513 positions|cut it"):
        assign(CONFIG, [(513, 1, 0, 0)])
    with pytest.raises(ValueError, match="cut it"):
        list(pack(CONFIG, [session(0, 300)]))


def test_no_sessions_make_no_rows():
    assert list(pack(CONFIG, [])) == []


def test_silent_patches_are_told_from_sound():
    floor = np.full((1, 16, 80), silent_mel(CONFIG.speech), np.float32)
    loud = floor.copy()
    loud[0, 3, 20] += np.log(20) / CONFIG.speech.std  # 26 dB
    both = np.concatenate([floor, loud, floor + 0.1])
    assert silent_patches(CONFIG, both).tolist() == [True, False, True]
    assert silent_patches(CONFIG, both[:0]).tolist() == []


def test_the_abstract_batch_is_the_batch():
    abstract, real = abstract_batch(CONFIG), empty_batch(CONFIG)
    assert {k: (v.shape, v.dtype) for k, v in abstract.items()} == {
        k: (v.shape, v.dtype) for k, v in real.items()
    }
    assert (real["text_target"] == -1).all() and batch_lib.fill_ratio(real) == 0
