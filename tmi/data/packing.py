"""Sessions of unequal length into training rows.

Sessions begin on `microturn.kv_block` boundaries, so that attention blocks are left-aligned in the
session as they are when it is streamed. A fixed number of sessions in a row of the stream form a
group and are packed for themselves, longest first, each into the first row with room. So the rows
of a group depend on no other, and the state of the stream is two numbers. Against grain's
FirstFitPackIterDataset, which must place sessions in the order they come and closes all its open
rows when one does not fit, this fills rows by 4-7 % more (docs/LOG.md); padding is lost work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import grain
import numpy as np

from tmi.config import Config
from tmi.data.batch import Row, buffers, empty_row, place, room, session_arrays
from tmi.microturn import SessionSequence

GROUP_SESSIONS = 32  # at least; more fill better and cost memory


def group_size(config: Config) -> int:
    """Sessions that are packed together: about eight batches' worth of a shard."""
    d = config.data
    return max(GROUP_SESSIONS, d.batch_size // d.shards * d.row_length // 128)


def sizes(config: Config, session: Row) -> tuple[int, ...]:
    """Positions and contents of `session_arrays`, these in the order of `tmi.data.batch.room`."""
    return (len(session["stream"]), *(len(session[keys[0]]) for keys in buffers(config).values()))


def assign(config: Config, lengths: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Which sessions of such `sizes` share a row: first fit, longest first.

    Raises ValueError if one fits none.
    """
    block = config.microturn.kv_block
    most = np.array([config.data.row_length, *room(config).values()])
    rows: list[list[int]] = []
    used: list[np.ndarray] = []  # positions counted to the end of the last session's block
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i][0], i)):
        need = np.array(lengths[i])
        if (need > most).any():
            kinds = ", ".join(["positions", *(keys[0] for keys in buffers(config).values())])
            raise ValueError(
                f"a session of {lengths[i]} in rows of {tuple(most.tolist())} ({kinds}): cut it "
                "(tmi.microturn.cut)"
            )
        row = next((r for r, u in enumerate(used) if (u + need <= most).all()), len(rows))
        if row == len(rows):
            rows.append([])
            used.append(np.zeros_like(most))
        rows[row].append(i)
        used[row] = used[row] + need
        used[row][0] = -(-used[row][0] // block) * block
    return rows


class GroupRows(Sequence):
    """The rows of a group in random order, filled when they are asked for."""

    def __init__(self, config: Config, sessions: Sequence[Row], rng: np.random.Generator):
        self._config, self._sessions = config, sessions
        rows = assign(config, [sizes(config, s) for s in sessions])
        # Longest first would make the first rows of every group alike.
        self._rows = [rows[r] for r in rng.permutation(len(rows))]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, r: int) -> Row:
        row = empty_row(self._config)
        start = 0
        block = self._config.microturn.kv_block
        for number, i in enumerate(self._rows[r], start=1):
            place(self._config, row, self._sessions[i], start, number)
            start = -(-(start + len(self._sessions[i]["stream"])) // block) * block
        return row


class _Pack(grain.experimental.FlatMapTransform):
    def __init__(self, config: Config, seed: int):
        self._config, self._seed = config, seed

    def flat_map(self, element: tuple[int, Sequence[Row]]) -> Sequence[Row]:
        index, sessions = element
        return GroupRows(self._config, sessions, np.random.default_rng([self._seed, index]))


def pack_dataset(sessions: grain.IterDataset, config: Config, seed: int = 0) -> grain.IterDataset:
    """Rows (a batch without its first axis) of a stream of `session_arrays`."""
    groups = sessions.batch(group_size(config), drop_remainder=False, batch_fn=list)
    numbered = groups.map_with_index(lambda index, group: (index, group))
    return grain.experimental.FlatMapIterDataset(numbered, _Pack(config, seed))


def pack(config: Config, sequences: Iterable[SessionSequence], seed: int = 0) -> Iterator[Row]:
    """Rows that hold each of `sequences` exactly once (one that fits no row raises: `cut` it)."""
    arrays = [session_arrays(config, seq) for seq in sequences if len(seq)]
    source = grain.MapDataset.source(arrays)
    sessions = source.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    return iter(pack_dataset(sessions, config, seed)) if arrays else iter(())
