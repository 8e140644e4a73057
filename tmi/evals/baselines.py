"""What the scorers say of systems that do not listen, or listen badly. All give traces, so the same
scorers run.

silent           says nothing
always-talk      talks without a pause: the commonest answers of `dev`, one after another
timer            knows when a task began and what `dev` does on average: mean times, commonest
                 answers, mean rate of counting
vad-half-duplex  silero-vad with 0.5 s of hang-over: says the right words whenever it thinks that
                 the user has ended, stops when it hears the user. Right words, never the timing.
never-yield      the same harness, but deaf while it talks
oracle           plays the session's own recording: the ceiling
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tmi.data.records import SessionRecord, model_sound
from tmi.evals import vad
from tmi.evals.answers import normalise, number_words
from tmi.evals.onsets import SEGMENT_GAP_S, Segment, activity, merge, segments
from tmi.evals.trace import SAMPLE_RATE, Trace, from_script

HANG_OVER_S = 0.5
HEARD_S = 0.1  # until the harness notices that the user talks
LIST_GAP_S = 0.02  # at least, between the utterances of one answer


@dataclasses.dataclass(frozen=True)
class Utterance:
    """Words with their sound: float32 [n], words at seconds from its start."""

    start_s: float
    wave: np.ndarray
    words: tuple[tuple[float, str], ...]

    @property
    def seconds(self) -> float:
        return len(self.wave) / SAMPLE_RATE


@dataclasses.dataclass(frozen=True)
class Prior:
    """What a timer can know from `dev`, by suite, and how words sound.

    times: seconds from the trial's start. answer: the commonest.
    """

    times: dict[str, tuple[float, ...]]
    answer: dict[str, str]
    sounds: dict[str, np.ndarray]

    def say(self, text: str, at: float) -> Utterance:
        """`text` word by word; a word nobody said in `dev` sounds like a hum."""
        parts, words, time = [], [], 0.0
        for word in normalise(text):
            wave = self.sounds.get(word, _HUM)
            words.append((time, word))
            parts.append(wave)
            time += len(wave) / SAMPLE_RATE
        return Utterance(at, np.concatenate([*parts, np.zeros(0, np.float32)]), tuple(words))


_t = np.arange(round(0.3 * SAMPLE_RATE)) / SAMPLE_RATE
_HUM = (0.1 * np.sin(2 * np.pi * 160 * _t) * np.hanning(len(_t)) ** 0.25).astype(np.float32)


def user_speech(record: SessionRecord) -> list[Segment]:
    """When the user speaks to the model, by its words; those at most 0.2 s apart joined."""
    return merge([(s, e) for _, s, e in record.user_words], SEGMENT_GAP_S)


def model_speech(record: SessionRecord) -> list[Segment]:
    """When the record's own model side sounds: the ground truth beside `Trace.segments`."""
    found: list[Segment] = []
    for start, samples in model_sound(record):
        mask = activity(samples.astype(np.float32) / 32768)
        found += [(start + s, start + e) for s, e in segments(mask)]
    return merge(found, SEGMENT_GAP_S)


def note_truth(trace: Trace, record: SessionRecord) -> None:
    """Leaves in `trace.meta` what scorers need of the record and its `truth` lacks: the speech of
    both sides in seconds, `user_speech` and `model_speech`.
    """
    trace.meta["user_speech"] = user_speech(record)
    trace.meta["model_speech"] = model_speech(record)


def utterances(record: SessionRecord) -> list[Utterance]:
    """The model's side of a record."""
    out = []
    for start, samples in model_sound(record):
        wave = samples.astype(np.float32) / 32768
        end = start + len(wave) / SAMPLE_RATE
        words = [(s - start, w) for w, s, _ in record.model_words if start - 0.05 <= s < end - 1e-6]
        out.append(Utterance(start, wave, tuple(words)))
    return out


def learn(records: Iterable[SessionRecord]) -> Prior:
    """The prior of some sessions: means of times, commonest answers, one recording a word."""
    times: dict[str, list[tuple[float, ...]]] = {}
    answers: dict[str, Counter] = {}
    sounds: dict[str, np.ndarray] = {}
    for record in records:
        for trial in record.truth["trials"]:
            start = trial["region"][0]
            when, said = _due(trial)
            times.setdefault(trial["suite"], []).append(tuple(t - start for t in when))
            answers.setdefault(trial["suite"], Counter()).update(said)
        for u in utterances(record):
            for (s, word), (e, _) in zip(u.words, [*u.words[1:], (u.seconds, "")], strict=True):
                for text in normalise(word)[:1]:
                    sounds.setdefault(text, u.wave[round(s * SAMPLE_RATE) : round(e * SAMPLE_RATE)])
    return Prior(
        {suite: _typical(found) for suite, found in times.items()},
        {suite: c.most_common(1)[0][0] if c else "" for suite, c in answers.items()},
        sounds,
    )


def _due(trial: dict) -> tuple[list[float], list[str]]:
    """When something is to be said in a trial, and what."""
    if "triggers" in trial:
        return [t["time_s"] for t in trial["triggers"]], [t["answer"] for t in trial["triggers"]]
    if trial["suite"] == "RepCount":
        return [e for _, e in trial["reps"]], []
    if trial["suite"] == "Charades":
        return list(trial["action"]), []
    for key in ("user_end_s", "typed_s", "answer_s"):
        if key in trial:
            return [trial[key]], [trial["answer"]]
    at = trial["interrupt"][1] if "interrupt" in trial else trial["speaking"][0]
    return [at], [trial["answer"]]


def _typical(found: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """Mean first time, then mean intervals, as many as are usual."""
    found = [f for f in found if f]
    if not found:
        return ()
    first = float(np.mean([f[0] for f in found]))
    steps = [b - a for f in found for a, b in zip(f, f[1:], strict=False)]
    count = round(np.mean([len(f) for f in found]))
    step = float(np.mean(steps)) if steps else 1.0
    return tuple(first + i * step for i in range(count))


# The systems.


def silent(record: SessionRecord, prior: Prior) -> Trace:
    return _trace("silent", record, [])


def always_talk(record: SessionRecord, prior: Prior) -> Trace:
    phrases = sorted({a for a in prior.answer.values() if a} | {"one", "start", "stop"})
    said, time, i = [], 0.2, zlib.crc32(record.id.encode())
    while time < record.duration_s:
        said.append(prior.say(phrases[i % len(phrases)], time))
        time += said[-1].seconds
        i += 1
    return _trace("always-talk", record, said)


def timer(record: SessionRecord, prior: Prior) -> Trace:
    said, typed = [], []
    for trial in record.truth["trials"]:
        suite, (start, end) = trial["suite"], trial["region"]
        times = [start + t for t in prior.times.get(suite, ())]
        if suite == "RepCount" and len(times) > 1:
            step = times[1] - times[0]
            count = min(99, max(0, int((end - times[0]) / step) + 1))
            texts = [" ".join(number_words(i + 1)) for i in range(count)]
            times = [times[0] + i * step for i in range(count)]
        elif suite == "Charades":
            texts = ["start", "stop"][: len(times)]
        else:
            texts = [prior.answer.get(suite, "")] * len(times)
        for time, text in zip(times, texts, strict=True):
            if suite == "Typed":
                typed.append((_grid(time), text))
            else:
                said.append(prior.say(text, _grid(time)))
    return _trace("timer", record, _one_at_a_time(said), typed)


def vad_half_duplex(record: SessionRecord, prior: Prior) -> Trace:
    return _harness("vad-half-duplex", record, stops=True)


def never_yield(record: SessionRecord, prior: Prior) -> Trace:
    return _harness("never-yield", record, stops=False)


def _harness(system: str, record: SessionRecord, stops: bool) -> Trace:
    """Answers HANG_OVER_S after voice activity; `stops`: user speech ends what it is saying.

    Typed requests pass it by, as they make no sound.
    """
    runs = merge(vad.speech(_user(record)), HANG_OVER_S - 1e-6)
    own = utterances(record)
    said: list[Utterance] = []
    free = 0.0
    for i, (run_start, run_end) in enumerate(runs):
        at = _grid(run_end + HANG_OVER_S)
        stop = runs[i + 1][0] + HEARD_S if stops and i + 1 < len(runs) else math.inf
        if at < free:
            continue  # still talking, so it did not listen
        for u in _due_after(record, own, run_start, run_end):
            if at + 0.05 >= stop:
                break
            said.append(_cut(dataclasses.replace(u, start_s=at), stop))
            free = at + u.seconds
            at = _grid(free + LIST_GAP_S)
        free = min(free, stop)
    return _trace(system, record, _one_at_a_time(said))


def _due_after(
    record: SessionRecord, own: Sequence[Utterance], start: float, end: float
) -> list[Utterance]:
    """The right words for a request in [start, end]: all that its task will ever call for.

    What the record breaks off at an interruption goes on here, by saying it again and again.
    """
    trials = [t for t in record.truth["trials"] if t["region"][0] - 0.5 <= end <= t["region"][1]]
    if not trials:
        return []
    trial = trials[-1]
    if "interrupt" in trial and end < trial["interrupt"][1] - 0.3:
        cut, cut_end = trial["interrupt"]
        broken_off = [u for u in own if start <= u.start_s < cut]
        length = sum(u.seconds + LIST_GAP_S for u in broken_off)
        return broken_off * (1 + math.ceil((cut_end - end) / length)) if broken_off else []
    return [u for u in own if start <= u.start_s < trial["region"][1]]


def oracle(record: SessionRecord, prior: Prior) -> Trace:
    return _trace("oracle", record, utterances(record), record.text_out)


BASELINES: dict[str, Callable[[SessionRecord, Prior], Trace]] = {
    "silent": silent,
    "always-talk": always_talk,
    "timer": timer,
    "vad-half-duplex": vad_half_duplex,
    "never-yield": never_yield,
    "oracle": oracle,
}


# Parts.


def _trace(
    system: str,
    record: SessionRecord,
    said: Sequence[Utterance],
    typed: Sequence[tuple[float, str]] = (),
) -> Trace:
    words = [(u.start_s + s, w) for u in said for s, w in u.words]
    trace = from_script(
        record.id,
        system,
        record.duration_s,
        audio=[(u.start_s, u.wave) for u in said],
        words=[*words, *typed],
        user_audio=_user(record),
        text_in=record.text_in,
        frame_times=[t for t, _ in record.frames],
    )
    note_truth(trace, record)
    return trace


def _user(record: SessionRecord) -> np.ndarray:
    return record.user_audio.astype(np.float32) / 32768


def _grid(time_s: float, step: float = 0.2) -> float:
    return math.ceil(time_s / step - 1e-6) * step


def _cut(u: Utterance, stop_s: float) -> Utterance:
    left = max(0.0, stop_s - u.start_s)
    if left >= u.seconds:
        return u
    words = tuple((s, w) for s, w in u.words if s < left)
    return dataclasses.replace(u, wave=u.wave[: round(left * SAMPLE_RATE)], words=words)


def _one_at_a_time(said: Sequence[Utterance]) -> list[Utterance]:
    """Each utterance is cut when the next begins."""
    said = sorted(said, key=lambda u: u.start_s)
    after = [*(u.start_s for u in said[1:]), math.inf]
    return [_cut(u, stop) for u, stop in zip(said, after, strict=False)]
