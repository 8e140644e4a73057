"""When the model stops and when it answers, as Full-Duplex-Bench v1.5 (arXiv 2507.23159) has it.

A stop latency is the time for which user and model speak at once, a response latency the time from
a user's end to the next start of the model. Both are means over all such intervals, whatever the
model did: who talks through the whole overlap has its length as stop latency, so read them beside
the rates. `reference` takes both sides from silero over the trial's clip, as the public script does
(stops come out about 0.1 s late). In `strict` the user's side is the overlap alone, from the truth,
and the model's the energy of its output.
"""

from __future__ import annotations

from collections.abc import Sequence

from tmi.evals import onsets, vad
from tmi.evals.onsets import Segment
from tmi.evals.scoring import Metric
from tmi.evals.trace import SAMPLE_RATE, Trace

USER_GAP_S = 0.6  # pauses up to these lengths are within one utterance
MODEL_GAP_S = 0.5


def stops(user: Sequence[Segment], model: Sequence[Segment]) -> list[Segment]:
    """Where both speak; of several such intervals with the same end (to 1 ms) the shortest."""
    best: dict[int, Segment] = {}
    for user_start, user_end in user:
        for start, end in onsets.clip(list(model), user_start, user_end):
            key = round(1000 * end)
            if key not in best or start > best[key][0]:
                best[key] = (start, end)
    return sorted(best.values(), key=lambda x: x[1])


def responses(user: Sequence[Segment], model: Sequence[Segment]) -> list[Segment]:
    """From each user's end to the model's next start, strictly after it; of several that wait for
    the same start the shortest.
    """
    best: dict[float, float] = {}
    for _, user_end in user:
        after = [s for s, _ in model if s > user_end]
        if after:
            start = min(after)
            best[start] = max(user_end, best.get(start, user_end))
    return sorted((user_end, start) for start, user_end in best.items())


def timing(trace: Trace, region: Segment, overlap: Segment) -> dict[str, float]:
    """Seconds and counts of stops and responses in a trial's region, both modes. What does not
    occur has no value.
    """
    start, end = region
    model = onsets.merge(onsets.clip(trace.segments, start, end), MODEL_GAP_S)
    values = _sums("", [overlap], model)
    first, last = round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)
    user = onsets.merge(vad.speech(trace.user_audio[first:last]), USER_GAP_S)
    model = onsets.merge(vad.speech(trace.output_audio[first:last]), MODEL_GAP_S)
    return values | _sums("reference ", user, model)


def _sums(prefix: str, user: list[Segment], model: list[Segment]) -> dict[str, float]:
    out = {}
    for name, found in (("stop", stops(user, model)), ("response", responses(user, model))):
        if found:
            out[f"{prefix}{name} seconds"] = sum(e - s for s, e in found)
            out[f"{prefix}{name} count"] = float(len(found))
    return out


def metrics(categories: Sequence[str]) -> list[Metric]:
    """Mean latencies by category, in seconds."""
    return [
        Metric(
            " ".join(filter(None, (f"{name} latency", category, prefix))),
            f"{prefix} {name} seconds".strip(), per=f"{prefix} {name} count".strip(), scale=1.0,
            category=category, mode=prefix or "strict", asr="none", judge="none",
            lower_is_better=category == "user_interruption",
        )
        for prefix in ("", "reference")
        for name in ("stop", "response")
        for category in categories
    ]  # fmt: skip
