"""Which sessions of a corpus are evaluated, recorded and drawn.

The choice looks at what sessions hold, never at what any system makes of them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from tmi.data.records import CorpusError, SessionRecord, Skipped
from tmi.evals.repcount import bucket
from tmi.evals.scoring import Benchmark

FIELDS = ("suite", "category", "region")  # of every trial
Row = tuple  # suite, whether the turn has pauses, whether the request is harmful


def whole(records: Iterable[SessionRecord], skipped: Skipped) -> Iterator[SessionRecord]:
    """The sessions whose trials say what they are; the others are named in `skipped`.

    Raises CorpusError if a session has no truth at all: then this is no evaluation corpus.
    """
    for record in records:
        if "trials" not in record.truth:
            raise CorpusError(f"session {record.id} has no trials: this is no evaluation corpus")
        missing = {f for t in record.truth["trials"] for f in FIELDS if f not in t}
        if missing:
            skipped.add(f"session {record.id}", f"a trial lacks {', '.join(sorted(missing))}")
        else:
            yield record


def choose(records: Iterable[SessionRecord], benchmarks: Sequence[Benchmark], n: int) -> list[str]:
    """Ids of sessions, as short in all as is easily found, that hold `n` trials a suite or, where
    there are fewer, all (n = 0: all).

    Turns with pauses and refusals of either kind are counted apart: rows of their own rest on them.
    Of each of them the categories (RepCount: the counts) are as frequent as in the corpus, which
    short sessions alone would not give: they hold few late triggers and small counts.
    """
    wanted = {s for b in benchmarks for s in b.trial_suites}
    anything = not benchmarks or any(not b.trial_suites for b in benchmarks)
    found: list[tuple[str, Counter, float]] = []
    for record in records:
        kinds = Counter(_kind(t) for t in record.truth["trials"] if t["suite"] in wanted)
        if kinds or anything:
            found.append((record.id, kinds, record.duration_s))
    if not n:
        return [id for id, _, _ in found]
    if not wanted:
        return [id for id, _, _ in found[:n]]
    total = sum((kinds for _, kinds, _ in found), Counter())
    in_row: Counter = Counter()
    for (row, _), count in total.items():
        in_row[row] += count
    left = {k: min(c, math.ceil(n * c / in_row[k[0]])) for k, c in total.items()}
    chosen: set[str] = set()
    while any(left.values()):
        # The most of what is still missing, rare kinds first, a second.
        best = max(
            (x for x in found if x[0] not in chosen),
            key=lambda x: sum(min(c, left[k]) / total[k] for k, c in x[1].items()) / x[2],
        )
        chosen.add(best[0])
        for k, c in best[1].items():
            left[k] = max(0, left[k] - c)
    return [id for id, _, _ in found if id in chosen]


def fewer(
    records: Iterable[SessionRecord], benchmarks: Sequence[Benchmark], n: int
) -> dict[str, int]:
    """What the corpus holds fewer trials of than the `n` that were asked for -> how many."""
    wanted = {s for b in benchmarks for s in b.trial_suites}
    held = Counter(
        _row(t) for record in records for t in record.truth["trials"] if t["suite"] in wanted
    )
    return {_name(row): count for row, count in sorted(held.items(), key=str) if count < n}


def examples(records: Iterable[SessionRecord], count: int) -> list[str]:
    """Ids that show as many suites as possible."""
    left = [(r.id, {t["suite"] for t in r.truth["trials"]}) for r in records]
    seen: dict[str, int] = defaultdict(int)
    ids: list[str] = []
    while left and len(ids) < count:
        id, suites = max(left, key=lambda x: sum(1 / (1 + 9 * seen[s]) for s in x[1]))
        left = [x for x in left if x[0] != id]
        ids.append(id)
        for s in suites:
            seen[s] += 1
    return ids


def _row(trial: dict) -> Row:
    return trial["suite"], bool(trial.get("pauses")), trial.get("harmful")


def _kind(trial: dict) -> tuple[Row, str]:
    """The row that a trial counts for, and what is to be as frequent in it as in the corpus."""
    if trial["suite"] == "RepCount":
        return _row(trial), bucket(trial["count"])
    return _row(trial), trial["category"]


def _name(row: Row) -> str:
    suite, pauses, harmful = row
    kind = {None: "", True: ", harmful", False: ", benign"}[harmful]
    return f"{suite}{kind}{', with pauses' if pauses else ''}"
