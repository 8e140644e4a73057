"""report.html: all rows with intervals and baselines, plots, sessions to see and hear. One file."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import soundfile

from tmi import paths
from tmi.data.records import SessionRecord
from tmi.evals import plots, wall
from tmi.evals.plots import HEADLINES, in_order
from tmi.evals.runner import MODEL, Result
from tmi.evals.scoring import Row
from tmi.evals.timeline import draw_timeline
from tmi.evals.trace import SAMPLE_RATE, Trace
from tmi.paths import PathLike

WALL = tuple((wall.SUITE, m) for m in (wall.MEDIAN, wall.P99, wall.FACTOR, wall.SLOTS))
_TIMES = ("latency", "delay", "yield time")  # metrics that the clock's resolution bounds
_LABEL = 48  # characters
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


def floor_note(microturn_s: float) -> str:
    """What the clock does to every figure."""
    t = f"{microturn_s:g}"
    return (
        f"The clock has micro-turns of {t} s: input of [{t} m, {t} (m+1)) s is answered over "
        f"[{t} (m+1), {t} (m+2)) s, so {t} s is the floor of every latency. Times are energy "
        "onsets in the output audio; right text with silent audio fails. All data is generated "
        "(-syn): no figure here may stand beside a published one."
    )


def notes(scores: Mapping) -> list[str]:
    """What whoever reads the rows must know of what they were measured on."""
    found = []
    if scores["split"] not in (None, "eval"):
        found.append(f"These sessions are of the split {scores['split']!r}: nothing is held out.")
    if scores["timer_learnt_from"] == scores["corpus_hash"]:
        found.append("The timer learnt from the evaluated sessions, to its advantage.")
    if scores["fewer"]:
        held = ", ".join(f"{name}: {n}" for name, n in scores["fewer"].items())
        found.append(f"The corpus holds fewer trials than the {scores['asked']} asked for: {held}.")
    if scores["skipped"]:
        named = "; ".join(f"{name}: {why}" for name, why in scores["skipped"].items())
        found.append(
            f"{len(scores['skipped'])} records or shards cannot be read and are in no row. {named}"
        )
    return found


def is_time(metric: str) -> bool:
    """Whether a metric is a latency, whose floor is one micro-turn."""
    return any(name in metric for name in _TIMES)


def table(rows: Sequence[Row], microturn_s: float = 0.2) -> str:
    """The headline rows and the decoder's cost as text, systems side by side."""
    cells = {(r.suite, r.metric, r.system): r for r in rows}
    systems = in_order(rows)
    lines = [" " * _LABEL + "".join(f"{s[:17]:>18}" for s in systems)]
    for suite, metric in (*HEADLINES, *WALL):
        found = [cells.get((suite, metric, s)) for s in systems]
        if any(found):
            floor = f" (floor {microturn_s:g} s)" if is_time(metric) else ""
            label = f"{suite} {metric}{floor}"
            lines.append(f"{label:<{_LABEL}}" + "".join(_cell(r) for r in found))
    return "\n".join([*lines, "", floor_note(microturn_s)])


def write(
    out: str | pathlib.Path, result: Result, beside: Mapping[str, PathLike] | None = None
) -> pathlib.Path:
    """Writes OUT/report.html and OUT/timelines/*.png; returns the report's path.

    beside: name -> a scores.json whose model is shown as a system of that name. Raises ValueError
    if one of them is no scores.json.
    """
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    rows = result.rows + others(beside or {})
    head = {k: result.scores[k] for k in ("corpus_hash", "checkpoint", "seed", "asked")}
    took = ", ".join(f"{name} {s:.0f} s" for name, s in result.seconds.items())
    parts = [
        "<h1>Evaluation</h1>",
        f'<p class="note">{html.escape(floor_note(result.microturn_s))}</p>',
        f"<p>{' · '.join(f'{k}: <b>{html.escape(str(v))}</b>' for k, v in head.items())}"
        f" · wall time: {html.escape(took)}</p>",
        *(f"<p>{html.escape(note)}</p>" for note in notes(result.scores)),
        f"<h2>Headlines</h2>{_image(plots.bars(rows))}",
        f"<h2>How exact in time</h2>{_image(plots.curves(rows))}",
        "<h2>Rhythm of the dialogue</h2><p class='note'>From the user's words and the energy of "
        "the other side: how long after one party the other begins (below 0: before it has ended), "
        "and how long silences and overlaps are.</p>",
        _image(plots.rhythm(result.dialogues)),
        "<h2>All rows</h2><p class='note'>Value, 95 % bootstrap interval by session, and N. "
        "Bold: the suite's headline. Latencies of FDB1 are means over the trials with TOR = 1: "
        "read them beside the TOR and the pause TOR. Times are on the stream clock; <i>wall</i> "
        "adds the median time that a micro-turn of all slots took on this machine, since its "
        "output cannot play before. The four rates of FDB1.5 stand beside their means, since never "
        "yielding alone averages 75.</p>",
        f'<div class="scroll">{_table(rows, result.microturn_s)}</div>',
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


def others(beside: Mapping[str, PathLike]) -> list[Row]:
    """The model's rows of each scores.json under its name. Raises ValueError if one is none."""
    rows: list[Row] = []
    for name, path in beside.items():
        try:
            found = json.loads(paths.at(path).read_text())["rows"]
            found = [Row(**r | {"ci95": tuple(r["ci95"])}) for r in found if r["system"] == MODEL]
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise ValueError(f"{path} is no scores.json: {e!r}") from e
        rows += [dataclasses.replace(r, system=name) for r in found]
    return rows


def _cell(r: Row | None) -> str:
    return f"{'-':>18}" if r is None or r.value is None else f"{r.value:>11.2f} n={r.n:<4}"


def _table(rows: Sequence[Row], microturn_s: float) -> str:
    systems = in_order(rows)
    cost = {r.system: r.value for r in rows if (r.suite, r.metric) == (wall.SUITE, wall.MEDIAN)}
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
        timed = is_time(metric)
        floor = f" <small>floor {microturn_s:g} s</small>" if timed else ""
        cells = "".join(
            f"<td{' class=model' if s == MODEL else ''}>"
            f"{_html_cell(found.get(s), cost.get(s) if timed else None)}</td>"
            for s in systems
        )
        notes = "".join(
            f"<td><small>{x}</small></td>" for x in (one.mode, one.asr, one.judge, one.clock)
        )
        out.append(
            f'<tr class="{" ".join(classes)}"><td>{html.escape(suite)}</td>'
            f"<td>{html.escape(metric)}{floor}</td>{cells}{notes}</tr>"
        )
    return "".join(out) + "</table>"


def _html_cell(r: Row | None, wall_ms: float | None = None) -> str:
    """wall_ms: of a micro-turn, if the row is a time that it adds to."""
    if r is None:
        return ""
    if r.value is None:
        return f"<small>none, N={r.n}</small>"
    low, high = r.ci95
    later = "" if wall_ms is None else f"<br><small>wall {r.value + wall_ms / 1000:.2f}</small>"
    return f"{r.value:.2f}<br><small>{low:.2f}–{high:.2f}, N={r.n}</small>{later}"


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
