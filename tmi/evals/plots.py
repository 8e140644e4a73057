"""The report's pictures, as PNG: headlines, accuracy by window, the rhythm of the dialogue."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np

from tmi.evals.baselines import BASELINES
from tmi.evals.runner import MODEL, TRUTH
from tmi.evals.scoring import Row
from tmi.evals.statistics import Statistics, durations

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

HEADLINES = (
    ("TimeSpeak-syn", "accuracy@0.6s"),
    ("CueSpeak-syn", "accuracy@0.6s"),
    ("Translation-syn", "accuracy@0.6s"),
    ("FDB1-turn-taking-syn", "latency"),
    ("FDB1-turn-taking-syn", "TOR"),
    ("FDB1-pause-syn", "TOR"),
    ("FDB1-interruption-syn", "yielded<=0.4s"),
    ("FDB1-interruption-syn", "RESPOND"),
    ("FDB1.5-overlap-syn", "continues"),
    ("FDB1.5-overlap-syn", "RESUME backchannel"),
    ("FDB1.5-overlap-syn", "RESUME talking_to_other"),
    ("FDB1.5-overlap-syn", "RESUME background"),
    ("FDB1.5-overlap-syn", "RESPOND user_interruption"),
    ("FDB1.5-overlap-syn", "average"),
    ("FDB1.5-overlap-syn", "harmonic"),
    ("FDB1-backchannel-syn", "TOR"),
    ("FDB1-backchannel-syn", "JSD"),
    ("RepCount-syn", "OBO"),
    ("Charades-syn", "mIoU"),
    ("ProactiveVideoQA-syn", "PAUC"),
    ("Typed-syn", "accuracy"),
    ("Refusal-syn", "refusal"),
    ("Refusal-syn", "over-refusal"),
    ("FalseAlarms-syn", "alarms per minute"),
    ("Spoken-syn", "word accuracy"),
    ("Spoken-syn", "word error rate"),
)
_COLOURS = {
    MODEL: "#cc6644", "oracle": "#228833", "timer": "#4477aa", "vad-half-duplex": "#aa3377",
    "never-yield": "#ccbb44", "always-talk": "#66ccee", "silent": "#999999", TRUTH: "#228833",
}  # fmt: skip
_RHYTHM = (  # what is drawn of a dialogue: title, kinds, seconds shown
    ("floor-transfer offset", ("offset",), (-2.0, 4.0)),
    ("gap", ("gap",), (0.0, 4.0)),
    ("pause", ("pause",), (0.0, 4.0)),
    ("overlap", ("overlap", "within overlap"), (0.0, 4.0)),
)
_BIN_S = 0.1


def in_order(rows: Sequence[Row]) -> list[str]:
    """The model first, then it without a sense, then others shown beside it, then the rest."""
    rest = [*BASELINES, "recordings", "mel", "chance"]

    def order(name: str) -> tuple[int, int]:
        kind = 0 if name == MODEL else 1 if name.startswith(MODEL) else 2
        return (3, rest.index(name)) if name in rest else (kind, 0)

    return sorted(dict.fromkeys(r.system for r in rows), key=order)


def bars(rows: Sequence[Row]) -> bytes:
    """A panel for each headline with every system's value and interval."""
    cells = {(r.suite, r.metric, r.system): r for r in rows}
    shown = [h for h in HEADLINES if any((*h, s) in cells for s in {r.system for r in rows})]
    systems = in_order(rows)
    columns = 4
    height = -(-max(1, len(shown)) // columns)
    size = (16, (0.7 + 0.17 * len(systems)) * height + 0.4)
    fig, axes = plt.subplots(height, columns, figsize=size, squeeze=False, dpi=80)
    for ax in axes.flat[len(shown) :]:
        ax.axis("off")
    for ax, (suite, metric) in zip(axes.flat, shown, strict=False):
        found = [cells[suite, metric, s] for s in systems if (suite, metric, s) in cells]
        found = [r for r in found if r.value is not None]
        for i, r in enumerate(found):
            low, high = r.ci95
            colour = _COLOURS.get(r.system, "#cc9977" if r.system.startswith(MODEL) else "0.7")
            ax.barh(i, r.value, color=colour, height=0.7)
            ax.plot([low, high], [i, i], color="black", lw=1)
        ax.set_yticks(range(len(found)), [r.system for r in found], fontsize=7)
        ax.invert_yaxis()
        ax.tick_params(axis="x", labelsize=7)
        ax.set_title(f"{suite.removesuffix('-syn')} {metric}", fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    fig.tight_layout()
    return _png(fig)


def curves(rows: Sequence[Row]) -> bytes:
    """Accuracy against the window's length, for what is to be said at a time."""
    timed = [r for r in rows if r.metric.startswith("accuracy@") and r.metric.endswith("s")]
    suites = list(dict.fromkeys(r.suite for r in timed)) or ["TimeSpeak-syn"]
    fig, axes = plt.subplots(1, len(suites), figsize=(16, 3), dpi=80, sharey=True, squeeze=False)
    for ax, suite in zip(axes.flat, suites, strict=True):
        lines: dict[str, list[tuple[float, float]]] = {}
        for r in timed:
            window = float(r.metric.removeprefix("accuracy@").removesuffix("s"))
            if r.suite == suite:
                lines.setdefault(r.system, []).append((window, r.value or 0.0))
        for system, points in lines.items():
            colour = _COLOURS.get(system)  # matplotlib's own for ablations and others
            ax.plot(
                *zip(*sorted(points), strict=True), marker="o", ms=3, label=system, color=colour
            )
        ax.set_title(suite, fontsize=9)
        ax.set_xlabel("window after the trigger, s", fontsize=8)
        ax.set_ylim(-3, 103)
        ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel("accuracy, %")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if handles:
        axes[0, -1].legend(handles, labels, fontsize=7)
    fig.tight_layout()
    return _png(fig)


def rhythm(dialogues: Mapping[str, Sequence[Statistics]]) -> bytes:
    """Histograms by system of floor-transfer offsets (below 0: an overlap) and of the lengths of
    gaps, pauses and overlaps, as shares of their kind. The outermost bins hold what lies beyond.
    """
    fig, axes = plt.subplots(1, len(_RHYTHM), figsize=(16, 3), dpi=80)
    seconds = {system: durations(found) for system, found in dialogues.items()}
    for ax, (title, kinds, (low, high)) in zip(axes, _RHYTHM, strict=True):
        edges = np.linspace(low, high, round((high - low) / _BIN_S) + 1)
        for system, lengths in seconds.items():
            values = np.array([x for kind in kinds for x in lengths[kind]])
            label = f"{system}, n={len(values)}"
            if len(values):
                label += f", median {np.median(values):.2f} s"
            # Half a bin within, so that rounding keeps what is clipped in the outermost bin.
            inside = np.clip(values, low + _BIN_S / 2, high - _BIN_S / 2)
            share, _ = np.histogram(inside, edges)
            share = 100 * share / max(1, len(values))
            colour = _COLOURS.get(system, "0.5")
            ax.stairs(share, edges, fill=system == TRUTH, alpha=0.4 if system == TRUTH else 1,
                      color=colour, lw=1.5, label=label)  # fmt: skip
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("seconds", fontsize=8)
        ax.tick_params(labelsize=7)
        ax.margins(y=0.25)  # room for the legend
        ax.legend(fontsize=7, loc="upper right")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("share, %")
    fig.tight_layout()
    return _png(fig)


def _png(fig) -> bytes:
    with io.BytesIO() as out:
        fig.savefig(out, format="png")
        plt.close(fig)
        return out.getvalue()
