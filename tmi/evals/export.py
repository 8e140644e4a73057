"""Our runs in the file layout of Full-Duplex-Bench v1, so that its unmodified scripts can score
them.

    ROOT/<task>/<id>/input.wav, output.wav    the same t = 0: the start of the trial's region
    ROOT/<task>/<id>/output.json              {"text", "chunks": [{"text", "timestamp": [s, e]}]}
    ROOT/<task>/<id>/turn_taking.json | pause.json | interrupt.json

As its asr.py does, the words of an interruption's output.json are those from its end on alone.
"""

from __future__ import annotations

import json
import pathlib

import soundfile

from tmi.evals.trace import SAMPLE_RATE, Trace

TASKS = {
    "turn_taking": "smooth_turn_taking",
    "pause": "pause_handling",
    "interrupt": "user_interruption",
}


def full_duplex_bench(trace: Trace, truth: dict, root: str | pathlib.Path) -> list[pathlib.Path]:
    """Writes a folder for each turn, each turn with pauses up to its end, each interruption."""
    out = []
    for i, trial in enumerate(truth["trials"]):
        name = f"{trace.id}-{i:02d}"
        if trial["suite"] == "TurnTaking":
            start, end = trial["region"]
            at = trial["user_end_s"]
            mark = [{"text": "", "timestamp": [at - start, at - start]}]
            out.append(_clip(trace, start, end, pathlib.Path(root), "turn_taking", name, mark))
            if trial["pauses"]:
                marks = [
                    {"text": "[PAUSE]", "timestamp": [a - start, b - start]}
                    for a, b in trial["pauses"]
                ]
                out.append(_clip(trace, start, at, pathlib.Path(root), "pause", name, marks))
        elif trial["suite"] == "Interruption":
            start, end = trial["region"]
            a, b = trial["interrupt"]
            mark = [{"context": "", "interrupt": "", "timestamp": [a - start, b - start]}]
            folder = pathlib.Path(root)
            out.append(_clip(trace, start, end, folder, "interrupt", name, mark, said_from=b))
    return out


def _clip(
    trace: Trace,
    start: float,
    end: float,
    root: pathlib.Path,
    kind: str,
    name: str,
    marks: list[dict],
    said_from: float = 0.0,
) -> pathlib.Path:
    """One folder. Of the words only those from `said_from` on are written."""
    folder = root / TASKS[kind] / name
    folder.mkdir(parents=True, exist_ok=True)
    first, last = round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)
    soundfile.write(folder / "input.wav", trace.user_audio[first:last], SAMPLE_RATE)
    soundfile.write(folder / "output.wav", trace.output_audio[first:last], SAMPLE_RATE)
    words = [(w, s, e) for w, s, e in trace.words() if max(start, said_from) <= s < end]
    chunks = [{"text": w, "timestamp": [_s(s - start), _s(e - start)]} for w, s, e in words]
    text = " ".join(w for w, _, _ in words)
    _write(folder / "output.json", {"text": text, "chunks": chunks})
    rounded = [m | {"timestamp": [_s(t) for t in m["timestamp"]]} for m in marks]
    _write(folder / f"{kind}.json", rounded)
    return folder


def _s(time_s: float) -> float:
    return round(time_s, 4)


def _write(path: pathlib.Path, body) -> None:
    path.write_text(json.dumps(body))
