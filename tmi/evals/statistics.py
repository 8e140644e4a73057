"""Corpus statistics of two-party speech (dGSLM, Nguyen et al. 2023, arXiv 2203.16502).

An inter-pausal unit (IPU) is speech delimited by more than 200 ms of silence. Joint silence between
IPUs is a pause if the same party spoke before and after, else a gap. Speech of both is an overlap:
`within` if the one who began first also ends last, else `between` (a floor transfer). The
floor-transfer offset is a gap's length, or minus a between- overlap's. pympi-ling's
`get_gaps_and_overlaps2` is the independent check in the tests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from tmi.evals.onsets import Segment
from tmi.evals.scoring import Benchmark, Metric, Trial
from tmi.evals.trace import Trace

KINDS = ("ipu", "pause", "gap", "overlap", "within overlap")


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Intervals of each of KINDS, and the floor-transfer offsets in seconds."""

    intervals: dict[str, list[Segment]]
    offsets: list[float]


def dialogue(a: Sequence[Segment], b: Sequence[Segment]) -> Statistics:
    """The events between two parties, whose speech is given as inter-pausal units."""
    units = [(s, e, 0) for s, e in a]
    units += [(s, e, 1) for s, e in b]
    units.sort()
    found: dict[str, list[Segment]] = {k: [] for k in KINDS}
    found["ipu"] = [(s, e) for s, e, _ in units]
    offsets: list[float] = []
    last_end, holder = None, None  # of the speech so far: when it ends and who ends it
    for start, end, who in units:
        if last_end is not None:
            if start >= last_end:
                if start > last_end:
                    found["pause" if who == holder else "gap"].append((last_end, start))
                if who != holder:
                    offsets.append(start - last_end)
            elif end <= last_end:
                found["within overlap"].append((start, end))
            else:
                found["overlap"].append((start, last_end))
                offsets.append(start - last_end)
        if last_end is None or end > last_end:
            last_end, holder = end, who
    return Statistics(found, offsets)


def durations(found: Iterable[Statistics]) -> dict[str, list[float]]:
    """Seconds of every interval by KINDS, over several dialogues, and every offset as `offset`."""
    out: dict[str, list[float]] = {k: [] for k in (*KINDS, "offset")}
    for stats in found:
        for kind, intervals in stats.intervals.items():
            out[kind] += [e - s for s, e in intervals]
        out["offset"] += stats.offsets
    return out


def score(trace: Trace, truth: dict) -> list[Trial]:
    """The user's side is what the runner noted in `trace.meta['user_speech']`; without it, the
    model's alone.
    """
    stats = dialogue(trace.meta.get("user_speech", ()), trace.segments)
    values = {"minutes": trace.duration_s / 60}
    for kind, found in stats.intervals.items():
        values[f"{kind} count"] = float(len(found))
        values[f"{kind} seconds"] = sum(e - s for s, e in found)
    if stats.offsets:
        values["offset"] = sum(stats.offsets)
        values["transfers"] = float(len(stats.offsets))
    return [Trial(truth["id"], "dialogue", values)]


def _metric(kind: str, unit: str) -> Metric:
    name, per = f"{kind} {unit} per minute", "minutes"
    return Metric(name, f"{kind} {unit}", per=per, scale=1.0, asr="none", judge="none")


STATISTICS = Benchmark(
    "dGSLM-syn",
    (),
    score,
    (
        *(_metric(kind, unit) for kind in KINDS for unit in ("count", "seconds")),
        Metric(
            "floor transfer offset", "offset", per="transfers", scale=1.0, asr="none", judge="none"
        ),
    ),
)
