"""report.html: all rows with intervals and baselines, plots, sessions to see and hear. One file."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import soundfile

from tmi.data.records import SessionRecord
from tmi.evals.baselines import BASELINES
from tmi.evals.runner import MODEL, Result
from tmi.evals.scoring import Row
from tmi.evals.timeline import draw_timeline
from tmi.evals.trace import SAMPLE_RATE, Trace

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

FLOOR_NOTE = (
    "The clock has micro-turns of 0.2 s: input of [0.2 m, 0.2 (m+1)) s is answered over "
    "[0.2 (m+1), 0.2 (m+2)) s, so 0.2 s is the floor of every latency. Times are energy onsets in "
    "the output audio; right text with silent audio fails. All data is generated (-syn): no figure "
    "here may stand beside a published one."
)
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
    ("RepCount-syn", "OBO"),
    ("Charades-syn", "mIoU"),
    ("ProactiveVideoQA-syn", "PAUC"),
    ("Typed-syn", "accuracy"),
    ("Refusal-syn", "refusal"),
    ("Refusal-syn", "over-refusal"),
    ("FalseAlarms-syn", "alarms per minute"),
    ("Spoken-syn", "word accuracy"),
)
_COLOURS = {
    MODEL: "#cc6644", "oracle": "#228833", "timer": "#4477aa", "vad-half-duplex": "#aa3377",
    "never-yield": "#ccbb44", "always-talk": "#66ccee", "silent": "#999999",
}  # fmt: skip
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1500px; padding: 0 1em }
body { color: #222 }
table { border-collapse: collapse; font-size: 13px } th, td { padding: 3px 8px; text-align: right }
th { position: sticky; top: 0; background: #fff; border-bottom: 2px solid #888 }
td:nth-child(-n+2), th:nth-child(-n+2) { text-align: left } tr.head td { font-weight: 600 }
tr.first td { border-top: 1px solid #bbb }
small { color: #888; white-space: nowrap; font-weight: 400 }
td.model { background: #fbeee8 } img { max-width: 100% } audio { width: 100%; margin: .3em 0 2em }
.scroll { overflow-x: auto } .note { color: #555; max-width: 900px }
"""


def table(rows: Sequence[Row]) -> str:
    """The headline rows as text, systems side by side."""
    cells = {(r.suite, r.metric, r.system): r for r in rows}
    systems = _systems(rows)
    lines = [" " * 44 + "".join(f"{s[:17]:>18}" for s in systems)]
    for suite, metric in HEADLINES:
        found = [cells.get((suite, metric, s)) for s in systems]
        if any(found):
            lines.append(f"{suite} {metric:<{43 - len(suite)}}" + "".join(_cell(r) for r in found))
    return "\n".join(lines + ["", FLOOR_NOTE])


def write(
    out: str | pathlib.Path, result: Result, beside: Mapping[str, str | pathlib.Path] | None = None
) -> pathlib.Path:
    """Writes OUT/report.html and OUT/timelines/*.png; returns the report's path.

    beside: name -> a scores.json whose model is shown as a system of that name. Raises ValueError
    if one of them is no scores.json.
    """
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    rows = result.rows + [r for name, path in (beside or {}).items() for r in _other(name, path)]
    head = {k: v for k, v in result.scores.items() if k != "rows"}
    took = ", ".join(f"{name} {s:.0f} s" for name, s in result.seconds.items())
    parts = [
        "<h1>Evaluation</h1>",
        f'<p class="note">{html.escape(FLOOR_NOTE)}</p>',
        f"<p>{' · '.join(f'{k}: <b>{html.escape(str(v))}</b>' for k, v in head.items())}"
        f" · wall time: {html.escape(took)}{_wall(result)}</p>",
        f"<h2>Headlines</h2>{_image(_bars(rows))}",
        f"<h2>How exact in time</h2>{_image(_curves(rows))}",
        "<h2>All rows</h2><p class='note'>Value, 95 % bootstrap interval by session, and N. "
        "Bold: the suite's headline. Latencies are means over the trials with TOR = 1: read them "
        "beside the TOR and the pause TOR.</p>",
        f'<div class="scroll">{_table(rows)}</div>',
        "<h2>Sessions</h2><p class='note'>Left channel: the user; right: the model. "
        "Green: the truth; grey: speech is a false alarm; italics below a wave: typed.</p>",
    ]
    (out / "timelines").mkdir(exist_ok=True)
    for record, trace in result.examples:
        png = out / "timelines" / f"{trace.id}.png"
        draw_timeline(trace, record, png)
        parts.append(f"<h3>{html.escape(trace.id)} ({html.escape(trace.system)})</h3>")
        parts.append(_image(png.read_bytes()) + _audio(trace, record))
    path = out / "report.html"
    body = "\n".join(parts)
    path.write_text(
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Evaluation</title>"
        f"<style>{_STYLE}</style><body>{body}</body></html>"
    )
    return path


# Parts.


def _other(name: str, path: str | pathlib.Path) -> list[Row]:
    try:
        found = json.loads(pathlib.Path(path).read_text())["rows"]
        rows = [Row(**r | {"ci95": tuple(r["ci95"])}) for r in found if r["system"] == MODEL]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{path} is no scores.json: {e}") from e
    return [dataclasses.replace(r, system=name) for r in rows]


def _systems(rows: Sequence[Row]) -> list[str]:
    """The model first, then it without a sense, then others shown beside it, then the rest."""
    rest = [*BASELINES, "recordings", "mel", "chance"]

    def order(name: str) -> tuple[int, int]:
        kind = 0 if name == MODEL else 1 if name.startswith(MODEL) else 2
        return (3, rest.index(name)) if name in rest else (kind, 0)

    return sorted(dict.fromkeys(r.system for r in rows), key=order)


def _wall(result: Result) -> str:
    cost = [t.wall_ms for _, trace in result.examples for t in trace.turns if t.wall_ms > 0]
    if not cost:
        return ""
    p50, p99 = np.percentile(cost, [50, 99])
    return f" · wall clock of a micro-turn of all slots: median {p50:.1f} ms, p99 {p99:.1f} ms"


def _cell(r: Row | None) -> str:
    return f"{'-':>18}" if r is None or r.value is None else f"{r.value:>11.2f} n={r.n:<4}"


def _table(rows: Sequence[Row]) -> str:
    systems = _systems(rows)
    lines: dict[tuple[str, str], dict[str, Row]] = {}
    for r in rows:
        lines.setdefault((r.suite, r.metric), {})[r.system] = r
    head = "".join(f"<th>{html.escape(s)}</th>" for s in systems)
    out = [
        f"<table><tr><th>suite</th><th>metric</th>{head}<th>mode</th><th>asr</th><th>judge</th><th>clock</th></tr>"
    ]
    seen = set()
    for (suite, metric), found in lines.items():
        one = next(iter(found.values()))
        classes = [
            *(["head"] if (suite, metric) in HEADLINES else []),
            *(["first"] if suite not in seen else []),
        ]
        seen.add(suite)
        cells = "".join(
            f"<td{' class=model' if s == MODEL else ''}>{_html_cell(found.get(s))}</td>"
            for s in systems
        )
        notes = "".join(
            f"<td><small>{x}</small></td>" for x in (one.mode, one.asr, one.judge, one.clock)
        )
        out.append(
            f'<tr class="{" ".join(classes)}"><td>{html.escape(suite)}</td>'
            f"<td>{html.escape(metric)}</td>{cells}{notes}</tr>"
        )
    return "".join(out) + "</table>"


def _html_cell(r: Row | None) -> str:
    if r is None:
        return ""
    if r.value is None:
        return f"<small>none, N={r.n}</small>"
    low, high = r.ci95
    return f"{r.value:.2f}<br><small>{low:.2f}–{high:.2f}, N={r.n}</small>"


def _bars(rows: Sequence[Row]) -> bytes:
    """A panel for each headline with every system's value and interval."""
    cells = {(r.suite, r.metric, r.system): r for r in rows}
    shown = [h for h in HEADLINES if any((*h, s) in cells for s in {r.system for r in rows})]
    systems = _systems(rows)
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


def _curves(rows: Sequence[Row]) -> bytes:
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


def _png(fig) -> bytes:
    with io.BytesIO() as out:
        fig.savefig(out, format="png")
        plt.close(fig)
        return out.getvalue()


def _image(png: bytes) -> str:
    return f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def stereo(trace: Trace) -> np.ndarray:
    """float32 [N, 2]: the user left, the model right."""
    num = max(len(trace.user_audio), len(trace.output_audio))
    tracks = [np.pad(w, (0, num - len(w))) for w in (trace.user_audio, trace.output_audio)]
    return np.clip(np.stack(tracks, 1), -1, 1)


def _audio(trace: Trace, record: SessionRecord) -> str:
    with io.BytesIO() as out:
        soundfile.write(out, stereo(trace), SAMPLE_RATE, format="OGG", subtype="VORBIS")
        data = base64.b64encode(out.getvalue()).decode()
    return f'<audio controls preload="none" src="data:audio/ogg;base64,{data}"></audio>'
