"""The composer of a duplex session: two sides on one timeline, with the truth about it.

A scene (see `data_pipelines/skills`) places what the user says, types and shows, and what the
model says and types, and records its trials. Every utterance of the model goes through
`Session.speak`, which alone snaps to the play grid of `tmi.microturn`. A scene that does not fit
raises `Conflict` and leaves no trace.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from data_pipelines import splits
from data_pipelines.phrases import Carriers
from data_pipelines.voice_bank import DamagedRecording
from tmi.data.records import CUT_TAIL_S, SAMPLE_RATE, SessionRecord, model_sound
from tmi.microturn import Layout

EARLY_S = 0.05  # a timed utterance may start this much before its trigger
HEARD_S = 0.15  # of an interruption, before the model falls silent
LATE_YIELDS = (0,) * 6 + (1, 1, 2, 3)  # micro-turns
PAUSE_S = 0.5  # silences within a turn from this length on count as pauses
GRACE_S = 1.0  # after an expected utterance, until speech is a false alarm
MARGIN_S = 0.25  # kept free between utterances of the model that belong to different tasks
EPSILON = 1e-6


class Conflict(Exception):
    """A scene does not fit where it was put: it would meet another, or the session's end."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """What the user said in one go: `words` (word, start_s, end_s) and the `pauses` in it."""

    start: float
    end: float
    words: tuple[tuple[str, float, float], ...]
    pauses: tuple[tuple[float, float], ...]

    def word_end(self, text: str) -> float:
        """When the last word equal to the last word of `text` ends."""
        last = text.split()[-1]
        return next(end for word, _, end in reversed(self.words) if word.lower() == last.lower())


@dataclasses.dataclass(frozen=True)
class Spoken:
    """An utterance of the model as placed."""

    text: str
    start: float
    end: float
    wave: np.ndarray
    words: tuple[tuple[str, float, float], ...]


class Session:
    """Composes one session. Times in seconds from its opening; see the module's docstring.

    `cursor` is the time from which on a scene may begin; a scene moves it on.
    """

    def __init__(
        self, rng: np.random.Generator, split: str, lay: Layout, speech, voices, limit_s: float,
        least_s: float = 0.0,
    ):  # fmt: skip
        self.rng, self.split, self.lay, self.speech = rng, split, lay, speech
        self.voice, self.other_voice = voices
        self.limit_s, self.least_s = limit_s, least_s
        self.cursor = float(rng.uniform(0.3, 1.2))
        self.skills: list[str] = []
        self.combinations: list[str] = []
        self.carriers: list[str] = []
        self.looks: list[str] = []
        self.layers: list[tuple[float, np.ndarray, float]] = []  # user's track: start, wave, gain
        self.user_words: list[tuple[str, float, float]] = []
        self.seen_words: list[tuple[str, float, float]] = []
        self.busy: list[tuple[float, float]] = []  # when the user speaks to the model
        self.spoken: list[Spoken] = []
        self.typed: list[tuple[float, str]] = []
        self.answers: list[tuple[float, str]] = []
        self.frames: list[tuple[float, bytes]] = []
        self.sensed: list[tuple[str, float, bytes]] = []  # of further streams: name, time, event
        self.trials: list[dict] = []
        self.expected: list[tuple[float, float]] = []
        self.mistakes: list[tuple[float, float]] = []
        self.cuts: list[float] = []
        self.damaged: dict[str, str] = {}  # files of a voice bank that it met, and what is wrong

    # -- transactions --------------------------------------------------------------------------

    _LISTS = (
        "skills", "combinations", "carriers", "looks", "layers", "user_words", "seen_words", "busy",
        "spoken", "typed", "answers", "frames", "sensed", "trials", "expected", "mistakes",
        "cuts",
    )  # fmt: skip

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Undoes all that was placed within if Conflict is raised, and raises it on."""
        saved = {name: list(getattr(self, name)) for name in self._LISTS}
        cursor = self.cursor
        try:
            yield
        except Conflict:
            self.__dict__.update(saved)
            self.cursor = cursor
            raise

    # -- chance --------------------------------------------------------------------------------

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def integer(self, low: int, high: int) -> int:
        """Of low..high, both included."""
        return int(self.rng.integers(low, high + 1))

    def choice(self, options: Sequence):
        return options[int(self.rng.integers(len(options)))]

    def draw(self, make) -> tuple:
        """A combination of slots that this split may use (`splits.draw`), put on record."""
        try:
            combination = splits.draw(self.rng, self.split, make)
        except ValueError as e:  # none of the few that the moment leaves
            raise Conflict(str(e)) from e
        self.combinations.append(splits.key(*combination))
        return combination

    def clauses(self, carriers: Carriers, **values: str) -> list[str]:
        """A random carrier of this split, filled."""
        carrier = carriers.pick(self.rng, self.split)
        self.carriers.append(carrier)
        return carriers.fill(carrier, **values)

    # -- the clock -----------------------------------------------------------------------------

    def grid(self, time_s: float) -> float:
        """The first time >= `time_s` at which output of a micro-turn begins to play."""
        m = max(0, math.ceil(time_s / self.lay.seconds - EPSILON) - 1)
        return self.lay.output_interval(m)[0]

    def reply_time(self, heard_s: float) -> float:
        """When an answer to what ends at `heard_s` starts: one micro-turn after its reader's."""
        return self.lay.output_interval(self.lay.microturn_reading(heard_s) + 1)[0]

    def yield_time(self, interrupted_s: float) -> float:
        """When the model falls silent: the first output that follows HEARD_S of an interruption.

        In training often later: a model that missed the moment has to know how to stop still. What
        it says until then is on record as a mistake, to be seen and not to be imitated.
        """
        in_time = self.grid(interrupted_s + HEARD_S)
        late = self.choice(LATE_YIELDS) if self.split == "train" else 0
        time = self.grid(interrupted_s + HEARD_S + late * self.lay.seconds)
        if late:
            self.mistakes.append((round(in_time, 4), round(time, 4)))
        return time

    # -- the user's side -----------------------------------------------------------------------

    def say(
        self,
        clauses: Sequence[str],
        at: float,
        *,
        gaps: Sequence[float] | None = None,
        voice=None,
        gain: float = 1.0,
        to_model: bool = True,
    ) -> Turn:
        """The user (or `voice`) says `clauses` from `at` on. `gaps` are the silences between them.

        `to_model` speech raises Conflict if it would overlap other such speech.
        """
        if gaps is None:
            gaps = [self.uniform(0.02, 0.18) for _ in clauses[1:]]
        time, words, pauses = at, [], []
        for i, clause in enumerate(clauses):
            if i:
                gap = gaps[i - 1]
                if gap >= PAUSE_S:
                    pauses.append((round(time, 4), round(time + gap, 4)))
                time += gap
            utterance = self._utterance(clause, voice)
            self.layers.append((time, utterance.wave, gain))
            words += [(w, round(time + s, 4), round(time + e, 4)) for w, s, e in utterance.words]
            time += len(utterance.wave) / SAMPLE_RATE
        end = words[-1][2]
        if end + 0.2 > self.limit_s:
            raise Conflict(f"user speech until {end:.1f} s in a session of {self.limit_s:.1f} s")
        if to_model:
            if any(s < end + 0.1 and at < e + 0.1 for s, e in self.busy):
                raise Conflict("two utterances of the user at once")
            self.busy.append((at, end))
            self.user_words += words
        return Turn(at, end, tuple(words), tuple(pauses))

    def length(self, clauses: Sequence[str], voice=None) -> float:
        """Seconds that `say` would take at most, with gaps of its own choice."""
        durations = [self._utterance(c, voice).duration_s for c in clauses]
        return sum(durations) + 0.18 * (len(clauses) - 1)

    def _utterance(self, clause: str, voice):
        try:
            return self.speech.user(clause, voice or self.voice)
        except FileNotFoundError as e:  # a voice bank without it
            raise Conflict(str(e)) from e
        except DamagedRecording as e:
            self.damaged[str(e.path)] = str(e)
            raise Conflict(str(e)) from e

    def type(self, text: str, at: float) -> float:
        """The user types `text`; returns the time at which it has been read, long text over several
        micro-turns (a token has at least two letters in the long run)."""
        self.typed.append((round(at, 4), text))
        late = math.ceil(len(text) / 2 / self.lay.max_text_in) - 1
        read = at + late * self.lay.seconds
        if read + 1.0 > self.limit_s:
            raise Conflict("typed after the session's end")
        return read

    def fits(self, end_s: float) -> None:
        """Raises Conflict if `end_s` is after the session's end; ask before costly drawing."""
        if end_s > self.limit_s - 0.4:
            raise Conflict(f"until {end_s:.1f} s in a session of {self.limit_s:.1f} s")

    def show(self, clip, at: float) -> None:
        """Puts a video clip's frames on the timeline. Raises Conflict if others are shown then."""
        end = at + clip.duration_s
        self.fits(end)
        if any(at - 0.5 < pts < end + 0.5 for pts, _ in self.frames):
            raise Conflict("two videos at once")
        self.frames += [(round(at + pts, 4), data) for pts, data in clip.frames]
        self.looks += clip.looks
        self.seen_words += [
            (text, round(at + s, 4), round(at + e, 4)) for text, s, e in clip.captions
        ]

    def sense(self, stream: str, at: float, data: bytes) -> None:
        """An event of a further input stream: `data` as tmi/streams/<stream>.py reads it."""
        self.fits(at)
        self.sensed.append((stream, round(at, 4), data))

    # -- the model's side ----------------------------------------------------------------------

    def speak(self, text: str, at: float, *, margin: float = MARGIN_S) -> Spoken:
        """The model says `text` from the play grid's first point at or after `at`.

        Raises Conflict if it would meet another utterance of the model or the end of the session.
        """
        utterance = self.speech.model(text)
        start = self.grid(at)
        end = start + len(utterance.wave) / SAMPLE_RATE
        if end + 0.2 > self.limit_s:
            raise Conflict(f"model speech until {end:.1f} s in a session of {self.limit_s:.1f} s")
        if any(start < s.end + margin and s.start < end + margin for s in self.spoken):
            raise Conflict("two utterances of the model at once")
        words = tuple(
            (w, round(start if i == 0 else start + s, 4), round(start + e, 4))
            for i, (w, s, e) in enumerate(utterance.words)
        )
        spoken = Spoken(text, start, end, utterance.wave, words)
        self.spoken.append(spoken)
        self.expected.append((start - 0.3, end + GRACE_S))
        return spoken

    def reply(self, text: str, heard_s: float) -> Spoken:
        """Speaks at the time of an answer to what ended at `heard_s`."""
        spoken = self.speak(text, self.reply_time(heard_s))
        self.expected.append((heard_s, spoken.start))
        return spoken

    def speak_on_time(self, text: str, trigger_s: float) -> Spoken:
        """Speaks at a time that the user named."""
        return self.speak(text, trigger_s - EARLY_S)

    def speak_list(self, texts: Sequence[str], at: float) -> list[Spoken]:
        """Speaks single words one after the other, each at the next grid point that is free."""
        out: list[Spoken] = []
        for text in texts:
            out.append(self.speak(text, at, margin=0.0))
            at = out[-1].end + 0.02
        self.expected.append((out[0].start, out[-1].end + GRACE_S))
        return out

    def silence_from(self, time_s: float, said: Sequence[Spoken]) -> None:
        """Takes back what `said` holds from `time_s` on. The wave of a word that then plays goes on
        for a moment, unheard (SessionRecord.cuts)."""
        keep = []
        for s in self.spoken:
            if all(s is not x for x in said) or s.end <= time_s:
                keep.append(s)
            elif s.start < time_s:
                keep.append(_cut(s, time_s))
                self.cuts.append(round(time_s, 4))
        self.spoken = keep
        self.expected = [
            (a, min(b, time_s + 0.3)) if any(a <= s.start <= b for s in said) else (a, b)
            for a, b in self.expected
        ]
        self.expected = [(a, b) for a, b in self.expected if a < b]

    def write(self, text: str, heard_s: float) -> float:
        """The model types `text` in answer to what was read by `heard_s`; returns its time."""
        at = self.reply_time(heard_s)
        room = math.ceil(len(text) / 2 / max(1, self.lay.max_text_out - 1)) * self.lay.seconds
        if at + room + 0.4 > self.limit_s:
            raise Conflict("typed answer after the session's end")
        self.answers.append((round(at, 4), text))
        return at

    def keep_silent(self, start: float, end: float, besides: Sequence[Spoken] = ()) -> None:
        """Raises Conflict if the model speaks within, `besides` left out."""
        others = [s for s in self.spoken if all(s is not x for x in besides)]
        if any(s.start < end and start < s.end for s in others):
            raise Conflict("another task speaks where silence is judged")

    # -- the truth -----------------------------------------------------------------------------

    def trial(self, suite: str, category: str, region: tuple[float, float], **fields) -> None:
        """Records a trial. The region's end is cut to the session's when that is known."""
        times = [round(max(0.0, region[0]), 4), round(region[1], 4)]
        self.trials.append({"suite": suite, "category": category, "region": times, **fields})

    def expect(self, start: float, end: float) -> None:
        """Speech of the model within is no false alarm."""
        self.expected.append((start, end))

    def finish(self, id: str, render) -> SessionRecord:
        """The record. `render(dry) -> wave` puts the user's track [N] into a room with noise."""
        seconds = self.lay.seconds
        tail = self.uniform(0.6, 2.0)
        last = max([self.cursor, *(s.end for s in self.spoken), *(e for _, e in self.busy)])
        last = max([last, *(pts for pts, _ in self.frames[-1:]), *(t for _, t, _ in self.sensed)])
        turns = math.ceil(max(last + tail, self.least_s) / seconds - EPSILON)
        turns = min(turns, math.floor(self.limit_s / seconds + EPSILON))
        duration = turns * seconds
        num = round(duration * SAMPLE_RATE)
        dry = np.zeros(num, np.float32)
        for start, wave, gain in self.layers:
            i = round(start * SAMPLE_RATE)
            piece = wave[: max(0, num - i)]
            dry[i : i + len(piece)] += gain * piece
        for t in self.trials:
            t["region"][1] = min(t["region"][1], round(duration, 4))
        spoken = sorted(self.spoken, key=lambda s: s.start)
        events: dict[str, list[tuple[float, bytes]]] = {}
        for stream, time, data in sorted(self.sensed, key=lambda e: e[1]):
            events.setdefault(stream, []).append((time, data))
        record = SessionRecord(
            id=id,
            skills=list(dict.fromkeys(self.skills)),
            duration_s=round(duration, 4),
            user_audio=_int16(render(dry)),
            model_audio=[(round(s.start, 4), _int16(s.wave)) for s in spoken],
            model_words=[w for s in spoken for w in s.words],
            user_words=sorted(self.user_words, key=lambda w: w[1]),
            seen_words=sorted(self.seen_words, key=lambda w: w[1]),
            text_in=sorted(self.typed),
            text_out=sorted(self.answers),
            frames=sorted(self.frames, key=lambda f: f[0]),
            events=events,
            mistakes=sorted(self.mistakes),
            cuts=sorted(self.cuts),
            truth={
                "id": id,
                "split": self.split,
                "duration_s": round(duration, 4),
                "skills": sorted(set(self.skills)),
                "trials": sorted(self.trials, key=lambda t: t["region"][0]),
                "quiet": quiet(self.expected, duration),
            },
        )
        check(record)
        return record


def quiet(expected: Sequence[tuple[float, float]], duration: float) -> list[list[float]]:
    """The complement of `expected` intervals in [0, duration], pieces of >= 0.5 s."""
    out, time = [], 0.0
    for start, end in [*sorted(expected), (duration, duration)]:
        if start - time >= 0.5:
            out.append([round(time, 4), round(min(start, duration), 4)])
        time = max(time, end)
    return out


def check(record: SessionRecord) -> None:
    """Raises AssertionError, naming the session, if the record contradicts itself."""
    name, end = record.id, record.duration_s + EPSILON
    assert len(record.user_audio) == round(record.duration_s * SAMPLE_RATE), name
    free = 0.0
    for start, wave in record.model_audio:
        assert start >= free - EPSILON, f"{name}: model speech overlaps itself at {start} s"
        free = start + len(wave) / SAMPLE_RATE
        assert free <= end, f"{name}: model speech after the end"
    for word, s, e in [*record.model_words, *record.user_words]:
        assert 0 <= s <= e <= end, f"{name}: word {word!r} at {s}-{e} s"
    for time, text in [*record.text_in, *record.text_out]:
        assert text and 0 <= time < end, f"{name}: text {text!r} at {time} s"
    for stream, events in record.events.items():
        for time, _ in events:
            assert 0 <= time < end, f"{name}: {stream} event at {time} s"
    for s, e in record.truth["quiet"]:
        for start, wave in model_sound(record):
            assert start >= e or start + len(wave) / SAMPLE_RATE <= s, f"{name}: speech in quiet"
    for t in record.truth["trials"]:
        assert 0 <= t["region"][0] < t["region"][1] <= end, f"{name}: region {t}"


def _cut(s: Spoken, time_s: float) -> Spoken:
    wave = s.wave[: round((time_s - s.start + CUT_TAIL_S) * SAMPLE_RATE)]
    words = tuple((w, a, min(b, round(time_s, 4))) for w, a, b in s.words if a < time_s)
    return Spoken(s.text, s.start, time_s, wave, words)


def _int16(wave: np.ndarray) -> np.ndarray:
    return np.round(np.clip(wave, -1.0, 1.0) * 32767).astype(np.int16)
