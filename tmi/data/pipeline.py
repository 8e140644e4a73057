"""Corpus -> batches: read, mix, vary, cut, pack, batch, prefetch.

Batch n depends on the corpus, the config, the seed and n alone: not on threads, hosts or
interruptions. Its rows come from data.shards streams, of which each reads every session of its own
part of an epoch and no other: a host opens those that its rows come from. Records that cannot be
read are skipped, counted and named once on the log.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Sequence

import grain
import numpy as np
from absl import logging
from grain.sources import ArrayRecordDataSource

from tmi.config import Config, ConfigError
from tmi.data import records
from tmi.data.batch import Batch, Row, empty_batch, fill_ratio, session_arrays
from tmi.data.features import TextEncoder, to_microturns, to_sequence
from tmi.data.packing import group_size, pack_dataset
from tmi.data.records import Corpus, CorpusError, Skipped
from tmi.media.audio import DMel


class Sessions:
    """Random access to a corpus: `self[i]` is a SessionRecord, or None if it cannot be read."""

    def __init__(self, corpus: Corpus, skipped: Skipped):
        """Raises CorpusError if no shard can be opened or none holds a record."""
        self.corpus, self.skipped = corpus, skipped
        self._shards = list(records.readable_shards(corpus, skipped))  # (file, records)
        if not self._shards:
            raise CorpusError(f"{corpus.path}: none of its {len(corpus.shards)} shards is readable")
        self._source = ArrayRecordDataSource([path for path, _ in self._shards])
        self._unreadable: set[int] = set()

    def __len__(self) -> int:
        return len(self._source)  # pyright: ignore[reportArgumentType]  # it has __len__

    def __getitem__(self, i: int) -> records.SessionRecord | None:
        try:
            record = records.decode(self._source[i])
            if not record.skills or record.skills[0] not in self.corpus.skills:
                raise CorpusError(f"its skills are {record.skills}, not of {self.corpus.skills}")
            return record
        except Exception as e:
            self.skip(i, e)
            return None

    def skip(self, i: int, why: object) -> None:
        """Names record `i` as unusable. Raises CorpusError once no record is left."""
        self.skipped.add(self.name(i), why)
        self._unreadable.add(i)
        if len(self._unreadable) == len(self):
            raise CorpusError(
                f"{self.corpus.path}: none of its {len(self)} records can be used; last: {why}"
            )

    def name(self, i: int) -> str:
        shard = 0
        while i >= self._shards[shard][1]:
            i -= self._shards[shard][1]
            shard += 1
        return f"record {i} of {self._shards[shard][0]}"

    def by_skill(self) -> dict[str, list[int]]:
        """First skill -> indices. From the manifest's shard entries ("skills": one a record) if it
        has them, else by reading the corpus once."""
        entries = self.corpus.manifest["shards"]
        known = {str(p): s for p, s in zip(self.corpus.shards, entries, strict=True)}
        firsts: list[str | None] = []
        for path, count in self._shards:
            listed = known[path].get("skills")
            if listed is None or len(listed) != count:
                logging.info("reading %s once for its records' skills", path)
                start = len(firsts)
                found = (self[start + i] for i in range(count))
                listed = [record and record.skills[0] for record in found]
            firsts += listed
        out: dict[str, list[int]] = {}
        for i, skill in enumerate(firsts):
            if skill is not None:
                out.setdefault(skill, []).append(i)
        return out


class Batches:
    """An iterator of batches that can be stopped and taken up again.

    `get_state` is a small JSON-able dict; `set_state` refuses one of another corpus or seed.
    """

    def __init__(
        self,
        datasets: dict[int, grain.IterDataset],
        rows: np.ndarray | None,
        corpus: Corpus,
        seed: int,
        skipped: Skipped,
    ):
        """datasets: the shards that are read here, in order; rows: which of the rows that these
        give together are kept, None for all."""
        self.corpus, self.skipped = corpus, skipped
        self.wait_s = 0.0  # spent waiting in __next__: the input's share of a step
        self.num_batches = 0  # since this object was made
        self.shards = list(datasets)
        self._rows = rows
        self._identity = {"corpus": corpus.hash, "seed": seed}
        self._iterators = [iter(dataset) for dataset in datasets.values()]
        # Its threads must end before the interpreter, when it exits, takes their modules away.
        self._close = weakref.finalize(self, _close_all, self._iterators)
        self._fill = 0.0

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        parts = [next(iterator) for iterator in self._iterators]
        batch = parts[0]
        if len(parts) > 1:
            batch = {k: np.concatenate([part[k] for part in parts]) for k in batch}
        if self._rows is not None:
            batch = {k: v[self._rows] for k, v in batch.items()}
        self.wait_s += time.perf_counter() - start
        self.num_batches += 1
        self._fill += fill_ratio(batch)
        return batch

    @property
    def fill(self) -> float:
        """Mean share of the positions that are no padding."""
        return self._fill / max(1, self.num_batches)

    def get_state(self) -> dict:
        """Where the shards that are read here have come to."""
        pairs = zip(self.shards, self._iterators, strict=True)
        return {**self._identity, "shards": {str(k): i.get_state() for k, i in pairs}}

    def set_state(self, state: dict) -> None:
        """Goes on from `get_state`, or from those of several hosts (`merge_states`)."""
        for key, mine in self._identity.items():
            if state.get(key) != mine:
                raise CorpusError(
                    f"the saved data position is of {key} {state.get(key)!r}; "
                    f"this run's is {mine!r}"
                )
        # Before there were shards there was one stream.
        places = state["shards"] if "shards" in state else {"0": state["grain"]}
        missing = [k for k in self.shards if str(k) not in places]
        if missing:
            raise CorpusError(
                f"the saved data position lacks shard {missing[0]}; it has {', '.join(places)}"
            )
        for k, iterator in zip(self.shards, self._iterators, strict=True):
            iterator.set_state(places[str(k)])

    def close(self) -> None:
        """Ends the threads that read ahead."""
        self._close()


def merge_states(states: Sequence[dict]) -> dict:
    """The state of all shards from those of hosts that read some each."""
    shards = {k: place for state in states for k, place in state["shards"].items()}
    return {**states[0], "shards": dict(sorted(shards.items(), key=lambda x: int(x[0])))}


def _close_all(iterators: list[grain.DatasetIterator]) -> None:
    while iterators:
        iterators.pop().close()


def train_batches(
    config: Config,
    seed: int | None = None,
    *,
    corpus: Corpus | None = None,
    tokenizer: TextEncoder | None = None,
    rows: Iterable[int] | None = None,
) -> Batches:
    """Endless batches of data.corpus.

    Args:
      rows: which rows of each batch are wanted here, in ascending order; None: all. Only the
        shards that they come from are read. Row b is of shard b // (batch_size / shards).

    Raises:
      CorpusError: the corpus or all of its records cannot be read, or a skill has no session.
    """
    d = config.data
    seed = d.seed if seed is None else seed
    wanted = np.arange(d.batch_size) if rows is None else np.asarray(list(rows))
    if not len(wanted) or wanted[0] < 0 or wanted[-1] >= d.batch_size or any(np.diff(wanted) < 1):
        raise ValueError(
            f"rows {wanted.tolist()}: ascending numbers below data.batch_size={d.batch_size} are "
            "accepted"
        )
    corpus = records.open_corpora(d.corpus) if corpus is None else corpus
    _check_clock(corpus, config)
    skipped = Skipped()
    sessions = Sessions(corpus, skipped)
    weights = {name: w for name, w in d.skill_weights if w > 0}
    make = _Features(config, sessions, tokenizer, vary=d.augment)
    parts = [
        make.dataset(indices, int(np.random.SeedSequence([seed, k]).generate_state(1)[0]), None)
        for k, indices in enumerate(_parts(sessions, list(weights)))
    ]
    per_shard = d.batch_size // d.shards
    shards = sorted({int(r) // per_shard for r in wanted})

    def stream(shard: int) -> grain.IterDataset:
        # Every shuffled epoch is dealt out, so each session is in one shard and a shard in turn
        # has all of them. Skills are dealt out one by one, or few shards might share a mixture.
        own = [part[shard :: d.shards] for part in parts] if d.shards > 1 else parts
        mixed = grain.MapDataset.mix(own, list(weights.values())) if weights else own[0]
        order = [seed, d.shards, shard]
        key = int(np.random.SeedSequence(order).generate_state(1)[0]) if d.shards > 1 else seed
        batches = _rows(mixed, config, key, len(shards)).batch(per_shard, drop_remainder=True)
        if d.num_threads:
            batches = grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=2)
        return batches

    given = np.concatenate([np.arange(per_shard) + k * per_shard for k in shards])
    kept = None if len(given) == len(wanted) else np.searchsorted(given, wanted)
    return Batches({k: stream(k) for k in shards}, kept, corpus, seed, skipped)


def _check_clock(corpus: Corpus, config: Config) -> None:
    own, given = corpus.microturn_seconds, config.microturn.seconds
    if own is not None and abs(own - given) > 1e-9:
        logging.warning(
            "%s was rendered for micro-turns of %g s and config.microturn.seconds is %g: answers "
            "may begin before what they answer is read. Render one with --microturn_seconds=%g",
            corpus.path, own, given, given,
        )  # fmt: skip


def dev_batches(
    config: Config,
    n: int,
    *,
    corpus: Corpus | None = None,
    tokenizer: TextEncoder | None = None,
    skipped: Skipped | None = None,
) -> list[Batch]:
    """The first `n` batches of data.dev_corpus, unvaried, in one fixed order; always the same.

    Fewer if the corpus holds fewer sessions; the last batch is filled up with empty rows. Only the
    skills that data.skill_weights draws are in it.
    """
    corpus = records.open_corpus(config.data.dev_corpus, "dev") if corpus is None else corpus
    sessions = Sessions(corpus, Skipped() if skipped is None else skipped)
    names = [name for name, w in config.data.skill_weights if w > 0]
    indices = sorted(i for part in _parts(sessions, names) for i in part)
    make = _Features(config, sessions, tokenizer, vary=False)
    rows: list[Row] = []
    size = config.data.batch_size
    iterator = iter(_rows(make.dataset(indices, 0, 1), config, 0))
    for row in iterator:
        rows.append(row)
        if len(rows) == n * size:
            break
    iterator.close()
    batches = []
    for start in range(0, len(rows), size):
        batch = empty_batch(config)
        for b, row in enumerate(rows[start : start + size]):
            for key, value in row.items():
                batch[key][b] = value
        batches.append(batch)
    return batches


class _Features:
    """Makes the datasets of session arrays that share a reader, a tokenizer and tables."""

    def __init__(
        self, config: Config, sessions: Sessions, tokenizer: TextEncoder | None, vary: bool
    ):
        if tokenizer is None:
            from tmi.media.text import Tokenizer

            t = config.text
            try:
                tokenizer = Tokenizer.load(t.tokenizer)
            except (OSError, ValueError) as e:
                raise ConfigError(f"config.text.tokenizer={t.tokenizer!r} cannot work: {e}") from e
            for field, size in (
                ("vocab_size", t.vocab_size),
                ("unpadded_vocab_size", t.unpadded_vocab_size or t.vocab_size),
            ):
                if size < tokenizer.vocab_size:
                    raise ConfigError(
                        f"config.text.{field}={size} cannot work: tokenizer {t.tokenizer!r} needs "
                        f"{tokenizer.vocab_size}"
                    )
        self._config, self._sessions, self._tokenizer = config, sessions, tokenizer
        self._vary = vary
        self._dmel = DMel(config.audio)
        self._skill = {name: k for k, name in enumerate(sessions.corpus.skills)}

    def dataset(self, indices: Sequence[int], seed: int, epochs: int | None) -> grain.MapDataset:
        """Session arrays of these records, reshuffled and varied anew each epoch; None: endless."""
        ds = grain.MapDataset.source(indices).seed(seed).random_map(self._arrays).shuffle()
        return ds.repeat(epochs)

    def _arrays(self, i: int, rng: np.random.Generator) -> Row | None:
        record = self._sessions[i]
        if record is None:
            return None
        try:
            vary = rng if self._vary else None
            turns = to_microturns(record, self._config, self._tokenizer, self._dmel, vary)
            seq = to_sequence(self._config, turns)
            if not len(seq):
                raise CorpusError("its first micro-turn does not fit a row")
        except Exception as e:
            self._sessions.skip(i, e)
            return None
        kept = int(seq.microturn[-1]) + 1
        if kept < len(turns):
            name = self._sessions.name(i)
            self._sessions.skipped.shorten(name, f"{kept} of {len(turns)} micro-turns kept")
        return session_arrays(self._config, seq, self._skill[record.skills[0]])


def _parts(sessions: Sessions, names: Sequence[str]) -> list[Sequence[int]]:
    """Indices of the records of each named skill; of all records if none is named."""
    if not names:
        return [range(len(sessions))]
    by_skill = sessions.by_skill()
    missing = [name for name in names if name not in by_skill]
    if missing:
        raise CorpusError(
            f"config.data.skill_weights names {missing[0]!r}, which begins no session of "
            f"{sessions.corpus.path}; accepted: {', '.join(sorted(by_skill))}"
        )
    return [by_skill[name] for name in names]


def _rows(
    sessions: grain.MapDataset, config: Config, seed: int, streams: int = 1
) -> grain.IterDataset:
    """Rows of the sessions; `streams` such share this host's threads."""
    d = config.data
    options = grain.ReadOptions(
        num_threads=-(-d.num_threads // streams),
        # A group is taken at once; the next one must be ready when its rows have gone.
        prefetch_buffer_size=max(d.prefetch, group_size(config)) if d.num_threads else 0,
    )
    return pack_dataset(sessions.to_iter_dataset(options), config, seed)
