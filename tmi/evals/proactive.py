"""ProactiveVideoQA (arXiv 2507.09313): answer when the answer appears, unasked. PAUC in percent;
silence scores 25.

Replies (tau_p, s_p), s in {0, 1, 2}, inside [ts, te]; tau' = ts + (1 - w)(tau - ts), w = 0.5; PAUC
= [(tau'_1 - ts) 0.5 + sum_p (tau'_{p+1} - tau'_p) s_p + (te - tau'_P) s_P] / (2 (te - ts)). A wrong
answer can score below silence. Judge `oracle`: 2 if the reply holds the answer, 1 if it holds half
of its words in order, else 0. In `strict` a reply in which the answer comes late is two: what came
before it, and the answer, so that no list of guesses has the answer's score from its first word on.
"""

from __future__ import annotations

from collections.abc import Sequence

from tmi.evals.answers import contains, in_order, normalise, occurrences
from tmi.evals.attribution import own_words
from tmi.evals.scoring import Benchmark, Metric, Trial, trials_of
from tmi.evals.trace import HeardWord, Trace

OMEGA = 0.5
REPLY_GAP_S = 0.8  # words further apart belong to different replies


def pauc(
    window: tuple[float, float], replies: Sequence[tuple[float, int]], omega: float = OMEGA
) -> float:
    """PAUC in [0, 1] of replies (time_s, score 0..2), in order of time; those outside the window do
    not count.
    """
    ts, te = window
    inside = sorted((t, s) for t, s in replies if ts <= t <= te)
    times = [ts + (1 - omega) * (t - ts) for t, _ in inside]
    levels = [0.5] + [float(s) for _, s in inside]
    edges = [ts, *times, te]
    area = sum(level * (b - a) for level, a, b in zip(levels, edges, edges[1:], strict=False))
    return area / (2 * (te - ts))


def phrases(words: Sequence[HeardWord]) -> list[list[HeardWord]]:
    """`words` parted where the next begins more than REPLY_GAP_S later."""
    groups: list[list[HeardWord]] = []
    for word in words:
        if groups and word.onset_s - groups[-1][-1].onset_s <= REPLY_GAP_S:
            groups[-1].append(word)
        else:
            groups.append([word])
    return groups


def reference_replies(words: Sequence[HeardWord], answer: str) -> list[tuple[float, int]]:
    """(onset of its first word, score) of each reply among `words`, judged whole."""
    return [_judged(phrase, answer) for phrase in phrases(words)]


def replies(words: Sequence[HeardWord], answer: str) -> list[tuple[float, int]]:
    """As `reference_replies`, but what came before the answer is a reply of its own."""
    out = []
    for phrase in phrases(words):
        said = occurrences(phrase, answer)
        first = said[0][1].start if said else 0
        if first:
            out.append(_judged(phrase[:first], answer))
        out.append(_judged(phrase[first:], answer))
    return out


def _judged(phrase: Sequence[HeardWord], answer: str) -> tuple[float, int]:
    return phrase[0].onset_s, judge(" ".join(w.text for w in phrase), answer)


def judge(reply: str, answer: str) -> int:
    """2: the answer; 1: at least half of its words, in order; 0: neither."""
    if contains(reply, answer):
        return 2
    wanted = normalise(answer)
    return int(bool(wanted) and 2 * in_order(normalise(reply), wanted) >= len(wanted))


def score(trace: Trace, truth: dict) -> list[Trial]:
    out = []
    for trial in trials_of(truth, "ProactiveVideoQA"):
        ts, te = trial["window"]
        said = replies(own_words(trace, truth, trial, ts, te), trial["answer"])
        text = [HeardWord(w, s, s) for word, s, _ in trace.words() for w in normalise(word)]
        text = [w for w in text if ts <= w.onset_s <= te]
        right = [t for t, s in said if s == 2]
        values = {
            "PAUC": pauc((ts, te), said),
            "reference PAUC": pauc((ts, te), reference_replies(text, trial["answer"])),
            "right": float(bool(right)),
            "premature": float(bool(own_words(trace, truth, trial, trial["region"][0], ts))),
        }
        if right:
            values["delay"] = right[0] - trial.get("answer_s", ts)
        out.append(Trial(truth["id"], trial["category"], values))
    return out


PROACTIVE = Benchmark(
    "ProactiveVideoQA-syn",
    ("ProactiveVideoQA",),
    score,
    (
        Metric("PAUC", "PAUC"),
        Metric("PAUC reference", "reference PAUC", mode="reference"),
        Metric("PAUC warn", "PAUC", category="warn"),
        Metric("right", "right"),
        Metric("premature", "premature", lower_is_better=True),
        Metric("delay", "delay", scale=1.0, lower_is_better=True),
    ),
)
