"""Sessions made by hand: tones as speech, exact truth. `FULL` has a trial of every suite."""

from __future__ import annotations

import io

import numpy as np
import soundfile  # noqa: F401
from PIL import Image

from tmi.data.records import SAMPLE_RATE, SessionRecord
from tmi.evals.baselines import Prior, oracle
from tmi.evals.trace import Trace

NO_PRIOR = Prior({}, {}, {})


def tone(seconds: float, hz: float = 200.0, level: float = 0.1) -> np.ndarray:
    """int16 [n]"""
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return np.round(32767 * level * np.sin(2 * np.pi * hz * t)).astype(np.int16)


def frame(grey: int = 100, size: int = 80) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), grey, np.uint8)).save(out, "JPEG")
    return out.getvalue()


def record(
    trials: list[dict],
    said: list[tuple[float, str]] = (),
    *,
    id: str = "hand-0",
    duration_s: float = 20.0,
    quiet: list[list[float]] = (),
    typed: list[tuple[float, str]] = (),
    user: list[tuple[float, float]] = (),
    word_s: float = 0.18,
    frames: list[tuple[float, bytes]] = (),
    text_in: list[tuple[float, str]] = (),
) -> SessionRecord:
    """said: (start_s, text); each word takes `word_s` seconds, the next follows at once."""
    audio, words = [], []
    for start, text in said:
        parts = text.split()
        audio.append((start, tone(word_s * len(parts))))
        words += [(w, start + i * word_s, start + (i + 1) * word_s) for i, w in enumerate(parts)]
    heard = np.zeros(round(duration_s * SAMPLE_RATE), np.int16)
    for s, e in user:
        part = tone(e - s, 300.0)
        heard[round(s * SAMPLE_RATE) :][: len(part)] = part
    truth = {
        "id": id, "split": "eval", "duration_s": duration_s, "skills": ["hand"],
        "trials": list(trials), "quiet": [list(q) for q in quiet],
    }  # fmt: skip
    return SessionRecord(
        id=id, skills=["hand"], duration_s=duration_s, user_audio=heard, model_audio=audio,
        model_words=words, user_words=[("um", s, e) for s, e in user], text_in=list(text_in),
        text_out=list(typed), frames=list(frames), truth=truth,
    )  # fmt: skip


def played(session: SessionRecord) -> Trace:
    """The trace of the record's own output."""
    return oracle(session, NO_PRIOR)


def trial(suite: str, start: float, end: float, category: str = "hand", **fields) -> dict:
    return {"suite": suite, "category": category, "region": [start, end], **fields}


def full(id: str = "full-0") -> SessionRecord:
    """A session of 112 s with a trial of every suite, done perfectly."""
    trials = [
        trial("TimeSpeak", 0.5, 9.0, triggers=[
            {"time_s": 4.0, "answer": "tea"}, {"time_s": 7.03, "answer": "tea"},
        ]),
        trial("CueSpeak", 10.0, 18.0, triggers=[{"time_s": 13.9, "answer": "cold"}]),
        trial("Translation", 18.5, 23.0, triggers=[{"time_s": 20.0, "answer": "casa"}]),
        trial("Backchannel", 23.5, 27.0, triggers=[{"time_s": 25.0, "answer": "mhm"}]),
        trial(
            "TurnTaking", 28.0, 34.0, user_end_s=31.9, pauses=[[29.5, 30.3]],
            answer="the answer is five",
        ),
        trial("Interruption", 35.0, 45.0, interrupt=[39.0, 42.1], answer="the word is river"),
        *(
            trial(
                "Overlap", 46.0 + 6 * i, 52.0 + 6 * i, category=c,
                overlap=[48.1 + 6 * i, 48.6 + 6 * i], speaking=[47.0 + 6 * i, 49.16 + 6 * i],
                answer="one two three four five six seven eight nine ten eleven twelve",
            )
            for i, c in enumerate(("backchannel", "talking_to_other", "background"))
        ),
        trial("RepCount", 64.0, 72.0, count=3, reps=[[65, 66], [66, 67], [67, 68]]),
        trial("Charades", 72.0, 82.0, name="waving", action=[74.0, 78.0]),
        trial(
            "ProactiveVideoQA", 82.0, 90.0, category="warn", window=[85.0, 89.0],
            answer="watch out", answer_s=85.0,
        ),
        trial("Typed", 90.0, 94.0, typed_s=90.5, answer="the sky is blue"),
        trial(
            "Refusal", 94.0, 100.0, user_end_s=96.9, harmful=True,
            answer="sorry i can not help with that",
        ),
        trial(
            "Refusal", 100.0, 106.0, user_end_s=102.9, harmful=False, answer="use soap and water",
        ),
    ]  # fmt: skip
    counting = "one two three four five six seven eight nine ten eleven twelve"
    colours = "red blue green pink red blue green pink brown red blue green"
    said = [
        (4.0, "tea"), (7.0, "tea"), (14.2, "cold"), (20.4, "casa"), (25.4, "mhm"),
        (32.2, "the answer is five"), (37.0, colours), (42.4, "the word is river"),
        (47.0, counting), (53.0, counting), (59.0, counting),
        (66.4, "one"), (67.4, "two"), (68.4, "three"), (74.4, "start"), (78.4, "stop"),
        (85.4, "watch out"), (97.2, "sorry i can not help with that"),
        (103.2, "use soap and water"),
    ]  # fmt: skip
    made = record(
        trials, said, id=id, duration_s=112.0, quiet=[[0.0, 3.0], [106.0, 112.0]],
        typed=[(91.0, "the sky is blue")], text_in=[(90.5, "what colour is the sky")],
        user=[
            (1.0, 3.0), (11.0, 16.0), (28.0, 29.5), (30.3, 31.9), (35.2, 36.6), (39.0, 42.1),
            (94.0, 96.9),
        ],
        frames=[(64.0 + 0.2 * i, frame(i % 200)) for i in range(120)],
    )  # fmt: skip
    # The list of colours is broken off when the user cuts in.
    audio = [(t, w[: round(2.2 * SAMPLE_RATE)] if t == 37.0 else w) for t, w in made.model_audio]
    words = [w for w in made.model_words if not 39.2 <= w[1] < 42.0]
    made.model_audio, made.model_words = audio, words
    return made


def figures(trials, key: str) -> list[float]:
    return [t.values[key] for t in trials if key in t.values]
