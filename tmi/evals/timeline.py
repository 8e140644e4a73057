"""One session as a picture: what came in, what was shown, what the model said when, and the truth
about it.
"""

from __future__ import annotations

import pathlib

import matplotlib
import numpy as np

from tmi.data.records import SessionRecord
from tmi.evals.trace import SAMPLE_RATE, Trace
from tmi.media.video import ImageError, decode_image

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

ROW_S = 20.0  # seconds of a session side by side; longer ones take several rows
USER, MODEL, TRUTH, QUIET = "#4477aa", "#cc6644", "#228833", "#eeeeee"
_SPANS = ("pauses", "reps")
_INTERVALS = ("interrupt", "overlap", "action", "window")


def draw_timeline(
    trace: Trace,
    record: SessionRecord,
    path: str | pathlib.Path | None = None,
    row_s: float = ROW_S,
):
    """Draws a session; writes a PNG to `path` if given. Returns the matplotlib figure.

    From top to bottom: the user's words and wave, the video's frames, typed text, the model's wave
    with its words where their sound starts, and the truth: times at which something is to be said
    (lines), intervals (bars) and where any speech is a false alarm (grey).
    """
    duration = max(trace.duration_s, record.duration_s)
    count = max(1, int(np.ceil(duration / row_s - 1e-6)))
    ratios = [1.0, 0.7, 1.0, 0.8] if record.frames else [1.0, 1.0, 0.8]
    fig = plt.figure(figsize=(17, 1.25 * (sum(ratios) + 0.4) * count), dpi=80)
    outer = fig.add_gridspec(count, 1, hspace=0.16)
    for i in range(count):
        start, end = i * row_s, (i + 1) * row_s
        inner = outer[i].subgridspec(len(ratios), 1, height_ratios=ratios, hspace=0.08)
        rows = [fig.add_subplot(inner[k]) for k in range(len(ratios))]
        if not i:
            suites = ", ".join(sorted({t["suite"] for t in record.truth.get("trials", ())}))
            rows[0].set_title(f"{record.id} · {trace.system} · {suites}", fontsize=10, loc="left")
        for ax in rows:
            ax.set_xlim(start, end)
            ax.set_yticks([])
            ax.set_xticks([])
        _user(rows.pop(0), trace, record, start, end)
        if record.frames:
            _video(rows.pop(0), record, start, end)
        _model(rows.pop(0), trace, start, end)
        _truth(rows.pop(0), record.truth, start, end)
    fig.supxlabel("seconds on the stream clock", fontsize=9, y=0.005)
    fig.subplots_adjust(
        left=0.06, right=0.995, top=1 - 0.35 / fig.get_figheight(), bottom=0.4 / fig.get_figheight()
    )
    if path is not None:
        fig.savefig(path)
        plt.close(fig)
    return fig


def _user(ax: Axes, trace: Trace, record: SessionRecord, start: float, end: float) -> None:
    _wave(ax, trace.user_audio, start, end, USER)
    _label(ax, "user")
    _words(ax, [(s, w) for w, s, _ in record.user_words if start <= s < end], USER)
    for time, text in record.text_in:
        if start <= time < end:
            ax.text(
                time, -0.95, f"[types] {text}", fontsize=7, color=USER, va="bottom", style="italic"
            )


def _model(ax: Axes, trace: Trace, start: float, end: float) -> None:
    _wave(ax, trace.output_audio, start, end, MODEL)
    _label(ax, "model")
    heard = [(w.onset_s, w.text) for w in trace.heard]
    _words(ax, [(t, w) for t, w in heard if start <= t < end], MODEL)
    sounding = {round(w.emitted_s, 3) for w in trace.heard}
    silent = [(s, w) for w, s, _ in trace.words() if round(s, 3) not in sounding]
    for time, word in silent:
        if start <= time < end:
            ax.text(time, -0.95, word, fontsize=7, color="black", va="bottom", style="italic")


def _video(ax: Axes, record: SessionRecord, start: float, end: float) -> None:
    _label(ax, "video")
    ax.set_ylim(0, 1)
    box = ax.get_position()
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    inches = figure.get_size_inches()
    width = (end - start) * box.height * inches[1] / (box.width * inches[0])  # seconds of a square
    time = start
    for pts, data in record.frames:
        if not (start <= pts < end) or pts < time:
            continue
        try:
            image = decode_image(data)
        except ImageError:
            continue
        ax.imshow(image, extent=(pts, pts + width, 0, 1), aspect="auto", interpolation="bilinear")
        time = pts + width
    ax.set_xlim(start, end)


def _truth(ax: Axes, truth: dict, start: float, end: float) -> None:
    _label(ax, "truth")
    ax.set_ylim(0, 1)
    ax.set_xticks(np.arange(start, end + 1, 1.0), minor=True)
    ax.set_xticks(np.arange(start, end + 1, 5.0))
    ax.tick_params(labelsize=7)
    for s, e in truth.get("quiet", ()):
        ax.axvspan(s, e, color=QUIET, lw=0)
    for i, trial in enumerate(truth.get("trials", ())):
        level = 0.75 - 0.5 * (i % 2)
        s, e = trial["region"]
        if s < end and e > start:
            ax.plot([s, e], [level - 0.2] * 2, color="0.6", lw=0.8)
            label = f"{trial['suite']}: {trial.get('answer') or trial['category']}"
            ax.text(max(s, start), level - 0.18, label[:60], fontsize=6.5, color="0.3", va="bottom")
        for name in _SPANS:
            for a, b in trial.get(name, ()):
                _bar(ax, a, b, level + 0.1)
        for name in _INTERVALS:
            if name in trial:
                a, b = trial[name]
                _bar(ax, a, b, level + 0.1)
        for time, text in _due(trial):
            ax.plot([time] * 2, [level - 0.2, level + 0.22], color=TRUTH, lw=1.5)
            if start <= time < end:
                ax.text(
                    time, level + 0.2, f" {text}", fontsize=7, color=TRUTH, va="top", clip_on=True
                )


def _due(trial: dict) -> list[tuple[float, str]]:
    if "triggers" in trial:
        return [(t["time_s"], t["answer"]) for t in trial["triggers"]]
    if trial["suite"] == "Charades":
        return list(zip(trial["action"], ("start", "stop"), strict=True))
    if trial["suite"] == "RepCount":
        return [(e, str(i + 1)) for i, (_, e) in enumerate(trial["reps"])]
    keys = ("user_end_s", "typed_s", "answer_s")
    return [(trial[k], trial["answer"]) for k in keys if k in trial]


def _bar(ax: Axes, start: float, end: float, level: float) -> None:
    ax.plot([start, end], [level] * 2, color=TRUTH, lw=4, alpha=0.45, solid_capstyle="butt")


def _wave(ax: Axes, wave: np.ndarray, start: float, end: float, colour: str) -> None:
    """The wave's envelope in steps of 20 ms, scaled to the row's loudest."""
    ax.set_ylim(-1, 1.35)
    part = wave[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    hop = SAMPLE_RATE // 50
    part = np.abs(part[: len(part) // hop * hop].reshape(-1, hop)).max(1)
    time = start + (np.arange(len(part)) + 0.5) / 50
    peak = max(0.05, float(np.abs(wave).max(initial=0)))
    ax.fill_between(time, -0.9 * part / peak, 0.9 * part / peak, color=colour, alpha=0.6, lw=0)


def _words(ax: Axes, words: list[tuple[float, str]], colour: str) -> None:
    """Words above their onsets, in three tiers where they are dense."""
    start, end = ax.get_xlim()
    letter = 0.0037 * (end - start)  # seconds that a letter takes in the picture
    free = [-1e9] * 3
    for time, word in words:
        tier = next((k for k in range(3) if free[k] <= time), free.index(min(free)))
        free[tier] = time + letter * (len(word) + 0.5)
        ax.text(time, 1.32 - 0.28 * tier, word, fontsize=7.5, color=colour, va="top", clip_on=True)


def _label(ax: Axes, text: str) -> None:
    ax.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=9)
