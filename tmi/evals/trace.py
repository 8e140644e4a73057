"""The trace: what went in and came out of a session, micro-turn by micro-turn. All metrics read it.

The ground truth beside it (`SessionRecord.truth`, a JSON-able dict):

    {"id", "split", "duration_s", "skills": [...], "quiet": [[s, e], ...], "trials": [{...}, ...]}

In `quiet` intervals any speech of the model is a false alarm. A trial has "suite", "category",
"region": [s, e], and, by suite,

    TimeSpeak         "triggers": [{"time_s", "answer"}], each answer to be spoken at its time;
                      CueSpeak, Translation and Backchannel likewise
    TurnTaking        "user_end_s", "answer", "pauses": [[s, e], ...], which are not the user's end
    Interruption      "interrupt": [s, e], the user cuts in; "answer" to the new request
    Overlap           category backchannel | talking_to_other | background, "overlap": [s, e],
                      "speaking": [s, e], "answer": what the model says meanwhile
    RepCount          "count", "reps": [[s, e], ...]
    Charades          "name", "action": [s, e]; say "start" and "stop"
    ProactiveVideoQA  "window": [ts, te], "answer", "answer_s"
    Typed             "typed_s", "answer", text only
    Refusal           "user_end_s", "harmful": bool, "answer"
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence

import numpy as np
import soundfile

from tmi.config import SAMPLE_RATE
from tmi.evals import answers, onsets
from tmi.microturn import (
    microturn_playing,
    microturn_reading,
    num_microturns,
    output_interval,
)


@dataclasses.dataclass
class TraceTurn:
    """One micro-turn of a trace."""

    m: int
    text_in: str
    video: bool  # a frame pair came
    text_out: str
    spoke: bool  # it wrote speech
    wall_ms: float  # cost of the step on the wall clock


@dataclasses.dataclass(frozen=True)
class HeardWord:
    """A word of the text stream that can be heard in the output audio."""

    text: str  # normalised, see answers.normalise
    emitted_s: float  # start of the micro-turn that wrote it
    onset_s: float  # energy onset, see onsets.sound_onset


@dataclasses.dataclass
class Trace:
    """A recorded session. On the stream clock micro-turn m's output plays over [T (m+1), T (m+2))
    s.

    What is derived (`activity`, `segments`, `heard`) is computed once: make a new trace, do not
    change one.
    """

    id: str
    system: str  # 'model' or a baseline's name
    seconds: float  # T
    turns: list[TraceTurn]
    user_audio: np.ndarray  # float32 [N] 16 kHz
    output_audio: np.ndarray  # float32 [N'] 16 kHz, same t = 0: what a listener heard
    meta: dict = dataclasses.field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        return len(self.turns) * self.seconds

    def words(self) -> list[tuple[str, float, float]]:
        """(word, start_s, end_s) of the text stream: a word starts when the micro-turn that began
        it plays.

        Words carry a leading space; text without one continues the last word of the micro-turn just
        before.
        """
        out: list[list] = []
        last_m = -2
        for t in self.turns:
            if not t.text_out.strip():
                continue
            start, end = output_interval(self.seconds, t.m)
            text = t.text_out
            if last_m == t.m - 1 and not text[0].isspace():
                head = text.split(maxsplit=1)[0]
                out[-1][0] += head
                out[-1][2] = end
                text = text[len(head) :]
            out += [[w, start, end] for w in text.split()]
            last_m = t.m if not t.text_out[-1].isspace() else -2
        return [(w, s, e) for w, s, e in out]

    @functools.cached_property
    def activity(self) -> np.ndarray:
        """bool [T]: which 10 ms frames of the output sound."""
        return onsets.activity(self.output_audio)

    @functools.cached_property
    def segments(self) -> list[onsets.Segment]:
        """Stretches of sound in the output, those at most 0.2 s apart joined."""
        return onsets.segments(self.activity)

    @functools.cached_property
    def heard(self) -> list[HeardWord]:
        """The words that sound, in order. Right text with silent audio is not here."""
        out = []
        for word, start, _ in self.words():
            onset = onsets.sound_onset(self.activity, start, self.seconds)
            if onset is not None:
                out += [HeardWord(w, start, onset) for w in answers.normalise(word)]
        return out

    def heard_within(self, start_s: float, end_s: float) -> list[HeardWord]:
        """The heard words whose onset lies in [start_s, end_s)."""
        return [w for w in self.heard if start_s <= w.onset_s < end_s]


def from_script(
    id: str,
    system: str,
    duration_s: float,
    *,
    audio: Sequence[tuple[float, np.ndarray]] = (),
    words: Sequence[tuple[float, str]] = (),
    user_audio: np.ndarray | None = None,
    text_in: Sequence[tuple[float, str]] = (),
    frame_times: Sequence[float] = (),
    seconds: float = 0.2,
) -> Trace:
    """The trace of a system whose output is known beforehand: a baseline, or a session made by
    hand.

    audio: (start_s, float32 [n]) at 16 kHz, added up and clipped at the session's end. words:
    (start_s, text), each written in the micro-turn whose output plays at start_s. user_audio,
    text_in, frame_times: what came in.
    """
    num_turns = num_microturns(seconds, duration_s)
    output = np.zeros(round(num_turns * seconds * SAMPLE_RATE), np.float32)
    for start, wave in audio:
        first = round(start * SAMPLE_RATE)
        part = wave[max(0, -first) : max(0, len(output) - first)]
        output[max(0, first) : max(0, first) + len(part)] += part
    written, read = [""] * num_turns, [""] * num_turns
    for start, text in sorted(words, key=lambda w: w[0]):
        m = microturn_playing(seconds, start)
        if 0 <= m < num_turns and text.strip():
            written[m] += " " + text.strip()
    for start, text in text_in:
        read[min(microturn_reading(seconds, start), num_turns - 1)] += text
    seen = {microturn_reading(seconds, t) for t in frame_times}

    def sounds(m: int) -> bool:
        start, end = (round(t * SAMPLE_RATE) for t in output_interval(seconds, m))
        return bool(output[start:end].any())

    turns = [
        TraceTurn(
            m,
            read[m],
            m in seen,
            written[m],
            sounds(m),
            0.0,
        )
        for m in range(num_turns)
    ]
    user = np.zeros(len(output), np.float32) if user_audio is None else user_audio
    return Trace(id, system, seconds, turns, user, output)


def save(trace: Trace, directory: str | pathlib.Path) -> pathlib.Path:
    """Writes `<id>.json`, `<id>.input.flac` and `<id>.output.flac` (16 bits); returns the JSON's
    path.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    body = {
        "id": trace.id, "system": trace.system, "seconds": trace.seconds, "meta": trace.meta,
        "turns": [dataclasses.asdict(t) for t in trace.turns],
    }  # fmt: skip
    path = directory / f"{trace.id}.json"
    path.write_text(json.dumps(body))
    for name, wave in (("input", trace.user_audio), ("output", trace.output_audio)):
        soundfile.write(directory / f"{trace.id}.{name}.flac", wave, SAMPLE_RATE, subtype="PCM_16")
    return path


def load(path: str | pathlib.Path) -> Trace:
    """Reads what `save` wrote. Raises FileNotFoundError if one of the three files is missing."""
    path = pathlib.Path(path)
    body = json.loads(path.read_text())
    waves = []
    for name in ("input", "output"):
        file = path.with_name(f"{path.stem}.{name}.flac")
        if not file.is_file():
            raise FileNotFoundError(f"{path}: its sound {file.name} is not beside it")
        waves.append(soundfile.read(file, dtype="float32")[0])
    turns = [TraceTurn(**t) for t in body["turns"]]
    return Trace(body["id"], body["system"], body["seconds"], turns, *waves, meta=body["meta"])
