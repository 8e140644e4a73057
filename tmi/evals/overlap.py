"""Full-Duplex-Bench v1.5 (arXiv 2507.23159): what the model does when others sound while it speaks.

It should go on (RESUME) through backchannels, side talk and background speech, and take up
(RESPOND) a real interruption. A model that never yields scores 75 in the average of the four, so
the four rates and their harmonic mean are printed beside it. Times: see overlap_timing.py.
"""

from __future__ import annotations

from tmi.evals import onsets, overlap_timing
from tmi.evals.answers import in_order, normalise, takes_turn
from tmi.evals.attribution import own_words
from tmi.evals.fdb1 import score_interruptions
from tmi.evals.scoring import Benchmark, Metric, Trial, trials_of
from tmi.evals.trace import Trace

STOP_GAP_S = 0.5  # the public scorer joins the model's speech over gaps up to this long
ENOUGH = 0.75  # share of the rest of the answer that must be said
CATEGORIES = ("backchannel", "talking_to_other", "background")
INTERRUPTION = "user_interruption"


def behaviour(trace: Trace, truth: dict, trial: dict) -> str:
    """RESUME, RESPOND, UNCERTAIN or UNKNOWN (no speech).

    RESUME: it was speaking, never stops longer than STOP_GAP_S until its answer is said, and says
    the rest of the answer. RESPOND: it says something else, as if spoken to.
    """
    start, speaking_end = trial["overlap"][0], trial["speaking"][1]
    region_start, region_end = trial["region"]
    if not onsets.sounding_s(trace.activity, start, region_end):
        return "UNKNOWN"
    answer = normalise(trial["answer"])
    before = [w.text for w in trace.heard_within(region_start, start)]
    after = takes_turn(own_words(trace, truth, trial, start, region_end))
    rest = answer[in_order(before, answer) :]
    kept = in_order([w.text for w in after], rest)
    speaking = onsets.sounding_s(trace.activity, start - STOP_GAP_S, start) > 0
    joined = onsets.merge(trace.segments, STOP_GAP_S)
    on = any(s < start and e >= min(speaking_end, trace.duration_s) - STOP_GAP_S for s, e in joined)
    if speaking and on and kept >= ENOUGH * len(rest):
        return "RESUME"
    return "RESPOND" if len(after) - kept > 1 else "UNCERTAIN"


def score(trace: Trace, truth: dict) -> list[Trial]:
    out = []
    for trial in trials_of(truth, "Overlap"):
        did = behaviour(trace, truth, trial)
        values = {"right": float(did == "RESUME"), "continues": float(did == "RESUME")}
        values |= overlap_timing.timing(trace, trial["region"], trial["overlap"])
        out.append(Trial(truth["id"], trial["category"], values))
    interruptions = trials_of(truth, "Interruption")
    for trial, done in zip(interruptions, score_interruptions(trace, truth), strict=True):
        values = {"right": done.values["RESPOND"]}
        values |= overlap_timing.timing(trace, trial["region"], trial["interrupt"])
        out.append(Trial(done.scenario, INTERRUPTION, values))
    return out


OVERLAP = Benchmark(
    "FDB1.5-overlap-syn",
    ("Overlap", "Interruption"),
    score,
    (
        Metric("continues", "continues"),
        *(Metric(f"RESUME {c}", "right", category=c) for c in CATEGORIES),
        Metric(f"RESPOND {INTERRUPTION}", "right", category=INTERRUPTION),
        Metric("average", "right", combine="mean of categories"),
        Metric("harmonic", "right", combine="harmonic mean of categories"),
        *overlap_timing.metrics((*CATEGORIES, INTERRUPTION)),
    ),
)
