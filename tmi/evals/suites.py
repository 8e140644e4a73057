"""Every benchmark, in the order of the report. A new one is one file and one line here."""

from __future__ import annotations

from tmi.evals.alarms import ALARMS
from tmi.evals.backchannel import FDB_BACKCHANNEL
from tmi.evals.charades import CHARADES
from tmi.evals.fdb1 import INTERRUPTION, PAUSE, TURN_TAKING
from tmi.evals.overlap import OVERLAP
from tmi.evals.proactive import PROACTIVE
from tmi.evals.refusal import REFUSAL
from tmi.evals.repcount import REPCOUNT
from tmi.evals.scoring import Benchmark
from tmi.evals.statistics import STATISTICS
from tmi.evals.timespeak import BACKCHANNEL, CUESPEAK, TIMESPEAK, TRANSLATION
from tmi.evals.typed import TYPED

BENCHMARKS: tuple[Benchmark, ...] = (
    TIMESPEAK,
    CUESPEAK,
    TRANSLATION,
    TURN_TAKING,
    PAUSE,
    INTERRUPTION,
    OVERLAP,
    FDB_BACKCHANNEL,
    BACKCHANNEL,
    REPCOUNT,
    CHARADES,
    PROACTIVE,
    TYPED,
    REFUSAL,
    ALARMS,
    STATISTICS,
)


def select(names: str | None) -> list[Benchmark]:
    """The benchmarks of a comma list such as 'TimeSpeak-syn,RepCount' ('-syn' may be left out);
    None means all.

    Raises ValueError naming what is accepted.
    """
    if names is None:
        return list(BENCHMARKS)
    by_name = {b.suite.removesuffix("-syn").lower(): b for b in BENCHMARKS}
    given = [n.strip().removesuffix("-syn").lower() for n in names.split(",") if n.strip()]
    wanted = list(dict.fromkeys(given))
    unknown = [n for n in wanted if n not in by_name and n != "spoken"]
    if unknown or not wanted:
        accepted = ", ".join([b.suite for b in BENCHMARKS] + ["Spoken-syn"])
        raise ValueError(f"no suite {(unknown or [names])[0]!r}; accepted: {accepted}")
    return [by_name[n] for n in wanted if n in by_name]
