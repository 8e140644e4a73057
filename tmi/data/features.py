"""A session record as micro-turns: the features that a config asks for, on tmi/microturn's clock:

user audio   -> dMel bins of the micro-turn that reads them
user words   -> tokens to be known one micro-turn after the one that reads their end; of a number
                of two words, typed or spoken, both words' at the second's
             -> the letters that sounded, to be known a micro-turn after they were read
triggers     -> the micro-turn in which an answer is due, to be known once it has been asked for
seen words   -> tokens to be known in each micro-turn in which a frame of them came
frames       -> one pair of 40x40 patches, in the micro-turns in which frames came
typed text   -> tokens in the micro-turn that reads it
model words  -> tokens in the micro-turn that plays their start
model audio  -> log-mel patches in each micro-turn that plays a part of it
typed answer -> tokens (no speech) in the micro-turn that shows it at its time
events       -> what their stream's file (tmi/streams) makes of those that a micro-turn reads
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from tmi import streams
from tmi.config import Config
from tmi.data.augment import augment, mask, warp
from tmi.data.batch import room
from tmi.data.lateness import delay_replies
from tmi.data.records import CorpusError, SessionRecord, model_sound
from tmi.media import audio, video
from tmi.microturn import Layout, Microturn, SessionSequence, cut, lay_out, layout, spill_text

MAX_SESSION_S = 3600.0
# A second is named by one number: its last word alone tells a tenth of the times.
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
ONES = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DUE_TURNS = 4  # micro-turns, after a request, in which the time it names is asked for
SLACK_S = 30.0  # what the model says may outlast the user's track by this much


class TextEncoder(Protocol):
    """What is needed of tmi.media.text.Tokenizer."""

    def encode(self, text: str) -> list[int]: ...

    def encode_word(self, word: str) -> list[int]: ...


def to_microturns(
    record: SessionRecord,
    config: Config,
    tokenizer: TextEncoder,
    dmel: audio.DMel,
    rng: np.random.Generator | None = None,
) -> list[Microturn]:
    """The micro-turns of a session; every one has audio (silence after the user's track ends).

    With `rng` the user's sound is varied (tmi/data/augment.py), and replies to triggers may come
    late (tmi/data/lateness.py). The session is extended until all that the model writes and says is
    out. Video and speech are left out where rows have no slots
    for them (data.video_slots, data.speech_slots = 0), events of streams that config.streams does
    not name too. Raises CorpusError if the record's times cannot be or an event cannot be read.
    """
    _check(record)
    lay = layout(config)
    if rng is not None:
        record = delay_replies(record, rng, lay)
    text_in, text_out = _text(record, lay, tokenizer)
    speaking = _speaking(record, lay) if config.data.speech_slots else []
    last = max([*text_in, *text_out, *speaking, lay.num_microturns(record.duration_s) - 1])
    turns = spill_text(
        lay, [Microturn(text_in=text_in[m], text_out=text_out[m]) for m in range(last + 1)]
    )
    bins = _heard(record, lay, len(turns), dmel, rng)
    understood, in_view = _understood(record, lay, tokenizer), _in_view(record, lay, tokenizer)
    for m, tokens in _numbers_read(turns, tokenizer).items():
        understood[m] += tokens
    due = _due(record, lay)
    spelled = _spelled(record, lay)
    pairs = _seen(record, config, lay, len(turns))
    speech = _spoken(record, config, lay, speaking)
    sensed = _sensed(record, lay)
    for m, turn in enumerate(turns):
        turn.audio = bins[m]
        turn.heard = understood.get(m, [])
        turn.video = pairs.get(m)
        turn.seen = in_view.get(m, [])
        turn.due = due.get(m, -1)
        turn.spelled = spelled.get(m, 0)
        turn.speech = speech.get(m)
        turn.sensed = sensed.get(m, {})
        start, end = lay.output_interval(m)
        turn.taught = not any(s < end and start < e for s, e in record.mistakes)
    return turns


def to_sequence(config: Config, turns: Sequence[Microturn]) -> SessionSequence:
    """Their positions, cut after the last micro-turn that fits a training row."""
    return cut(lay_out(layout(config), turns), config.data.row_length, room(config))


def _check(record: SessionRecord) -> None:
    d = record.duration_s
    if not (math.isfinite(d) and 0 < d <= MAX_SESSION_S):
        raise CorpusError(f"duration_s={d}: sessions last more than 0 and up to {MAX_SESSION_S} s")
    times = [t for t, _ in record.model_audio + record.text_in + record.text_out]
    times += [t for _, t, _ in record.model_words]
    for t in times:
        if not (math.isfinite(t) and 0 <= t <= d + SLACK_S):
            raise CorpusError(f"an event at {t} s in a session of {d} s")


def _text(
    record: SessionRecord, lay: Layout, tokenizer: TextEncoder
) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Micro-turn -> tokens read, tokens written. Several texts of a micro-turn keep their order."""
    text_in: dict[int, list[int]] = collections.defaultdict(list)
    text_out: dict[int, list[int]] = collections.defaultdict(list)
    for time_s, text in sorted(record.text_in, key=lambda x: x[0]):
        text_in[lay.microturn_reading(time_s)] += tokenizer.encode(text)
    # As before a spoken word, a space parts a typed answer from what was written before.
    written = [
        (max(0, lay.microturn_playing(t)), t, tokenizer.encode(" " + text))
        for t, text in record.text_out
        if text.strip()
    ]
    for word, start, _ in record.model_words:
        m = max(0, lay.microturn_playing(start))
        written.append((m, start, tokenizer.encode_word(word)))
    for m, _, tokens in sorted(written, key=lambda x: x[:2]):
        text_out[m] += tokens
    return text_in, text_out


def _heard(
    record: SessionRecord,
    lay: Layout,
    count: int,
    dmel: audio.DMel,
    rng: np.random.Generator | None,
) -> np.ndarray:
    """dMel bins uint8 [count, frames of a micro-turn, mels]."""
    samples = round(record.duration_s * lay.sample_rate)
    wave = audio.from_int16(record.user_audio[:samples])
    if rng is not None:
        wave = augment(wave, rng, lay.sample_rate)
    wave = np.pad(wave, (0, max(0, count * lay.samples - len(wave))))[: count * lay.samples]
    bins = dmel.bins(wave)
    if rng is not None:
        bins = mask(warp(bins, rng), rng)
    return bins.reshape(count, lay.audio_positions * lay.audio_frames, lay.audio_mels)


def _understood(record: SessionRecord, lay: Layout, tokenizer: TextEncoder) -> dict[int, list[int]]:
    """Micro-turn -> tokens of the words whose end was read in the one before."""
    out: dict[int, list[int]] = collections.defaultdict(list)
    before = ""
    for word, _, end in record.user_words:
        if before in TENS and word in ONES:
            word = f"{before} {word}"
        for part in word.split():
            out[lay.microturn_reading(end) + 1] += tokenizer.encode_word(part)
        before = word
    return out


def _spelled(record: SessionRecord, lay: Layout) -> dict[int, int]:
    """Micro-turn -> the letters of words that sounded in the one before, a bit each.

    A word's letters sound at equal distances: English is not that regular, nor need it be.
    """
    out: dict[int, int] = collections.defaultdict(int)
    for word, start, end in record.user_words:
        letters = [c for c in word.lower() if "a" <= c <= "z"]
        for i, letter in enumerate(letters):
            middle = start + (end - start) * (i + 0.5) / len(letters)
            out[lay.microturn_reading(middle) + 1] |= 1 << (ord(letter) - ord("a"))
    return out


def _numbers_read(turns: Sequence[Microturn], tokenizer: TextEncoder) -> dict[int, list[int]]:
    """Micro-turn -> tokens of the typed numbers of two words that ended in the one before."""
    out: dict[int, list[int]] = collections.defaultdict(list)
    typed = [(m, token) for m, turn in enumerate(turns) for token in turn.text_in]
    if not typed:
        return out
    tens, ones = ([tokenizer.encode_word(w) for w in words] for words in (TENS, ONES))
    tokens = [token for _, token in typed]
    for end, (m, last) in enumerate(typed, start=1):
        for second in (w for w in ones if w[-1] == last and tokens[end - len(w) : end] == w):
            begun = end - len(second)
            for first in tens:
                if tokens[max(0, begun - len(first)) : begun] == first and m + 1 < len(turns):
                    out[m + 1] += first + second
    return out


def _in_view(record: SessionRecord, lay: Layout, tokenizer: TextEncoder) -> dict[int, list[int]]:
    """Micro-turn -> tokens of what its last frame shows."""
    last = {lay.microturn_reading(pts): pts for pts, _ in sorted(record.frames, key=lambda f: f[0])}
    out: dict[int, list[int]] = collections.defaultdict(list)
    for m, pts in last.items():
        for words, start, end in record.seen_words:
            if start <= pts < end:
                for word in words.split():
                    out[m] += tokenizer.encode_word(word)
    return out


def _due(record: SessionRecord, lay: Layout) -> dict[int, int]:
    """Micro-turn -> the micro-turn in which the next answer of a trial is due: behind a request
    (`asked_s`: its end) the first, behind each answer the one after."""
    out: dict[int, int] = {}
    for trial in record.truth.get("trials", ()):
        if "asked_s" not in trial:
            continue
        # What has been heard is known a micro-turn after its end was read, and so is what was said.
        known = lay.microturn_reading(trial["asked_s"]) + 1
        for trigger in trial["triggers"]:
            due = lay.microturn_playing(trigger["time_s"])
            out |= {m: due for m in range(known, min(known + DUE_TURNS, due))}
            known = due + 2
    return out


def _seen(record: SessionRecord, config: Config, lay: Layout, count: int) -> dict[int, np.ndarray]:
    """Micro-turn -> patches uint8 [g, 2, patch, patch, 3]."""
    if not record.frames or not config.data.video_slots:
        return {}
    slices = [lay.input_interval(m) for m in range(count)]
    pairs = video.frame_pairs(config.video, record.frames, slices)
    return {
        m: video.patches(pair, config.video) for m, pair in enumerate(pairs) if pair is not None
    }


def _sensed(record: SessionRecord, lay: Layout) -> dict[int, dict[str, np.ndarray]]:
    """Micro-turn -> contents of further streams by name."""
    if not lay.streams:
        return {}
    states, out = streams.init(lay), {}
    try:
        for m, events in enumerate(streams.slices(lay, record.events, record.duration_s)):
            states, out[m] = streams.step(lay, states, events, m)
    except ValueError as e:
        raise CorpusError(str(e)) from e
    return out


def _segments(
    sounds: Iterable[tuple[float, np.ndarray]], lay: Layout
) -> list[tuple[int, np.ndarray]]:
    """(first sample, samples) of each stretch of model audio; nothing can be heard before T."""
    out = []
    for start_s, wave in sounds:
        start = round(start_s * lay.sample_rate)
        early = max(0, lay.samples - start)
        if len(wave) > early:
            out.append((start + early, wave[early:]))
    return out


def _speaking(record: SessionRecord, lay: Layout) -> list[int]:
    """The micro-turns in whose output interval the model is heard, in order."""
    turns: set[int] = set()
    for start, wave in _segments(model_sound(record), lay):
        end = start + len(wave)
        turns.update(range(start // lay.samples - 1, -(-end // lay.samples) - 1))
    return sorted(turns)


def _spoken(
    record: SessionRecord, config: Config, lay: Layout, speaking: list[int]
) -> dict[int, np.ndarray]:
    """Micro-turn -> normalised log mel float32 [frames of a micro-turn, mels].

    Windows look ahead of their frame. What begins in the next micro-turn is silence to them: to say
    it is decided there, and what was said before must not tell.
    """
    if not speaking:
        return {}
    segments = _segments(record.model_audio, lay)
    frames, window = lay.speech_positions * lay.speech_frames, config.speech.window

    def mel(first: int, last: int, said: list[tuple[int, np.ndarray]]) -> np.ndarray:
        start, stop = (first + 1) * lay.samples, (last + 2) * lay.samples
        track = _track(said, start, stop + window)
        out = audio.speech_mel(track, config.speech)
        return out[: (last - first + 1) * frames].reshape(-1, frames, lay.speech_mels)

    out = {}
    breaks = np.flatnonzero(np.diff(speaking) > 1) + 1
    for run in np.split(np.array(speaking), breaks):
        out.update(zip(run.tolist(), mel(int(run[0]), int(run[-1]), segments), strict=True))
    for m in speaking:
        end = (m + 2) * lay.samples
        if any(end <= start < end + window for start, _ in segments):
            out[m] = mel(m, m, [s for s in segments if s[0] < end])[0]
    return out


def _track(segments: list[tuple[int, np.ndarray]], start: int, stop: int) -> np.ndarray:
    """Samples start..stop of the sum of segments, float32."""
    out = np.zeros(stop - start, np.float32)
    for first, wave in segments:
        low, high = max(first, start), min(first + len(wave), stop)
        if low < high:
            out[low - start : high - start] += audio.from_int16(wave[low - first : high - first])
    return out
