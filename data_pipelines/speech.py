"""Text to speech for both sides of a session: many user voices, one model voice, word times."""

import bisect
import dataclasses
import functools
import hashlib
import json
import math
import os
import re
import tempfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import numpy as np
import scipy.signal
import soxr

from data_pipelines import espeak, flite, model_voice
from data_pipelines.alignment import (
    SAMPLE_RATE,
    Word,
    align,
    loudness,
    sounding_span,
    tokens,
    words_from_onsets,
)
from data_pipelines.voice_bank import DamagedRecording, VoiceBank
from data_pipelines.voices import (
    FLITE,
    FLITE_PITCH_STEP,
    FLITE_WORDS_A_MINUTE,
    UserVoice,
    sample_bank_voice,
    sample_flite_voice,
    sample_voice,
)

MODEL_LEVEL_DB = -23.0
# Said apart from what follows them. In one rendering the melody of "the answer is" tells which one
# will come: a model learns to read its answer off its own voice, and live it has nothing to read.
OPENINGS = ("the answer is", "the opposite is", "the word is", "ask", "mix", "use")
LENGTH_SCALE = 0.9  # the fastest at which no test word suffered
_USER_MEMORY = 64  # a session's worth: the next one draws another voice
# Voices a recording is aligned with; the better fit of the two gives the word times.
_REFERENCES = (UserVoice(variant="m3", level_db=-23.0), UserVoice(variant="f2", level_db=-23.0))


@dataclasses.dataclass(frozen=True)
class Utterance:
    """Something said.

    Attributes:
      wave: float32 [N], 16 kHz mono, read-only; sound starts within 20 ms and ends within 50 ms of
        the end.
      words: (word, start_s, end_s), one for each token of the text, in order and inside the wave;
        punctuation at a word's edges is dropped.
      text: what was asked for.
    """

    wave: np.ndarray
    words: tuple[Word, ...]
    text: str

    @property
    def duration_s(self) -> float:
        """Length of the wave."""
        return len(self.wave) / SAMPLE_RATE


class _Recent:
    """The utterances used last, by key."""

    def __init__(self, limit: int):
        self._limit = limit
        self._items: OrderedDict[Hashable, Utterance] = OrderedDict()

    def get(self, key: Hashable, render: Callable[[], Utterance]) -> Utterance:
        if key not in self._items:
            utterance = render()
            utterance.wave.flags.writeable = False  # shared by all who ask for it
            self._items[key] = utterance
            if len(self._items) > self._limit:
                self._items.popitem(last=False)
        self._items.move_to_end(key)
        return self._items[key]


class Speech:
    """Renders utterances; the same arguments give the same bits, whatever was rendered before.

    Recent utterances stay in memory. The model's are kept on disk too, since piper is slow;
    processes may share that folder.
    """

    def __init__(
        self,
        cache_dir: str | Path | None = None,
        length_scale: float = LENGTH_SCALE,
        bank: VoiceBank | None = None,
        memory_items: int = 1024,
        flite_share: float = 0.0,
    ):
        """Opens nothing yet: engines load when they are first used.

        Args:
          cache_dir: for the model's utterances; $TMI_CACHE, else ~/.cache/tmi/speech, by default.
          length_scale: of the model's durations; below 1 is faster.
          bank: replaces the synthesiser of the users' voices.
          memory_items: how many of the model's utterances stay in memory.
          flite_share: of the train split's voices, how many are flite's.
        """
        default = os.environ.get("TMI_CACHE") or Path.home() / ".cache" / "tmi" / "speech"
        tag = f"joe-{model_voice.VERSION}-{length_scale:g}"
        self.cache_dir = Path(cache_dir if cache_dir is not None else default) / tag
        self.length_scale = length_scale
        self.bank, self.flite_share = bank, flite_share
        self._starts: dict[tuple[str, str], list[float]] = {}  # of words, of a bank's recordings
        self._model_memory = _Recent(memory_items)
        self._user_memory = _Recent(_USER_MEMORY)

    def sample_voice(self, rng: np.random.Generator, split: str) -> UserVoice:
        """A user voice: one of the bank's if there is a bank, else of the split's pool."""
        if self.bank is not None:
            return sample_bank_voice(rng, self.bank.voices)
        if self.flite_share and rng.random() < self.flite_share:
            return sample_flite_voice(rng)
        return sample_voice(rng, split)

    def user(self, text: str, voice: UserVoice) -> Utterance:
        """`text` said by a user.

        Raises:
          ValueError: nothing to say; a voice of the synthesiser where a bank replaces it, or the
            reverse.
          DamagedRecording: the bank's file cannot be used. FileNotFoundError: it lacks the text.
        """
        if bool(voice.bank) != (self.bank is not None):
            raise ValueError(
                f"voice {voice.name!r} does not fit: draw voices by Speech.sample_voice, which "
                "knows whether a bank replaces the synthesiser"
            )
        _check(text)
        return self._user_memory.get((text, voice), lambda: self._render_user(text, voice))

    def model(self, text: str) -> Utterance:
        """`text` said by the model, at `MODEL_LEVEL_DB`.

        Raises:
          ValueError: nothing to say.
        """
        _check(text)
        return self._model_memory.get(text, lambda: _joined(text, self._cached_model))

    def _render_user(self, text: str, voice: UserVoice) -> Utterance:
        if self.bank is None:
            return render_user(text, voice)
        wave = self.bank.load(voice.bank, text)
        try:
            if (voice.bank, text) not in self._starts:  # by far the most work
                found = align(wave, _references(text))
                self._starts[voice.bank, text] = [start for _, start, _ in found]
            starts = self._starts[voice.bank, text]
            wave, words = _trim(_band_limit(wave, voice.band_hz), text, starts)
        except ValueError as e:  # it sounds, but nothing that passes a telephone
            raise DamagedRecording(self.bank.path(voice.bank, text), e) from e
        return Utterance(_at_level(wave, voice.level_db), words, text)

    def _cached_model(self, text: str) -> Utterance:
        name = hashlib.sha1(text.encode()).hexdigest()
        path = self.cache_dir / name[:2] / f"{name}.npz"
        try:
            with np.load(path) as saved:
                wave = saved["wave"].astype(np.float32) / 32767
                words = tuple(
                    (w, float(s), float(e)) for w, s, e in json.loads(str(saved["words"]))
                )
            return Utterance(wave, words, text)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass  # not there, or cut short by a crash: render it
        wave = model_voice.synthesise(text, self.length_scale)
        # Piper's own phoneme durations lag what is heard by 58 ms, the alignment is within 17 ms
        # (medians against pocketsphinx's forced alignment).
        wave, _ = _cut(wave, text)
        words = align(wave, _references(text))
        # Through int16, so that the first rendering has the bits of the cached ones.
        samples = np.round(_at_level(wave, MODEL_LEVEL_DB) * 32767).astype(np.int16)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            np.savez(file, wave=samples, words=np.array(json.dumps(words)))
        os.replace(file.name, path)
        return Utterance(samples.astype(np.float32) / 32767, words, text)


def _joined(text: str, render: Callable[[str], Utterance]) -> Utterance:
    """`text`, its opening (if it has one of `OPENINGS`) and the rest rendered by themselves."""
    opening = next((o for o in OPENINGS if text.startswith(f"{o} ")), "")
    if not opening:
        return render(text)
    first, rest = render(opening), render(text[len(opening) + 1 :])
    late = first.duration_s
    words = first.words + tuple((w, late + s, late + e) for w, s, e in rest.words)
    return Utterance(np.concatenate([first.wave, rest.wave]), words, text)


def render_user(text: str, voice: UserVoice) -> Utterance:
    """`text` by the synthesiser, without cache or bank.

    Raises:
      ValueError: unknown accent or variant, or nothing that sounds.
    """
    wave, words = _synthesised(text, voice)
    return Utterance(_at_level(wave, voice.level_db), words, text)


def _references(text: str) -> list[tuple[np.ndarray, tuple[Word, ...]]]:
    return [_synthesised(text, voice) for voice in _REFERENCES]


def _check(text: str) -> None:
    if not tokens(text):
        raise ValueError(f"nothing to say in {text!r}: it needs at least one word")


def _synthesised(text: str, voice: UserVoice) -> tuple[np.ndarray, tuple[Word, ...]]:
    """Trimmed wave and words; the warp is a change of the rate the samples are taken to have."""
    if voice.accent == FLITE:
        wave, events = flite.synthesise(
            text,
            voice.variant,
            stretch=FLITE_WORDS_A_MINUTE * voice.warp / voice.rate,
            pitch=FLITE_PITCH_STEP ** ((voice.pitch - 50) / 50) / voice.warp,
            seed=voice.seed,
        )
        rate = flite.SAMPLE_RATE * voice.warp
    else:
        words_a_minute = _tempo(voice.rate / voice.warp)
        said, source = _uneven(text, voice, words_a_minute)
        wave, events = espeak.synthesise(
            said,
            voice.accent,
            voice.variant,
            rate=words_a_minute,
            pitch=voice.pitch,
            pitch_range=voice.pitch_range,
            seed=voice.seed,
        )
        events = [(sample, source[character]) for sample, character in events]
        rate = espeak.SAMPLE_RATE * voice.warp
    wave = soxr.resample(wave.astype(np.float32) / 32768, rate, SAMPLE_RATE, quality="MQ")
    starts = _starts(text, [(s / rate, c) for s, c in events], len(wave))
    # Trimmed after the filter, which may take a last hiss away.
    return _trim(_band_limit(wave, voice.band_hz), text, starts)


def _tempo(words_a_minute: float) -> int:
    return int(np.clip(round(words_a_minute), 80, 450))  # what espeak-ng accepts


def _uneven(text: str, voice: UserVoice, words_a_minute: int) -> tuple[str, Sequence[int]]:
    """`text` with espeak-ng's commands (docs of espeak-ng, "Markup") for a tempo and a pitch of
    every word, and which character of `text` each of its characters stands for."""
    if not voice.uneven:
        return text, range(len(text) + 1)
    rng = np.random.default_rng([voice.seed, zlib.crc32(text.encode())])
    said, source = "", []
    for word in re.finditer(r"\S+", text):
        tempo = _tempo(words_a_minute * math.exp(voice.uneven * rng.standard_normal()))
        pitch = np.clip(round(voice.pitch + 30 * voice.uneven * rng.standard_normal()), 0, 99)
        command = f"\x01{tempo}S\x01{pitch}P"
        said += command + word[0] + " "
        source += [word.start()] * len(command) + [*range(word.start(), word.end() + 1)]
    return said.rstrip(), source


def _starts(text: str, events: list[tuple[float, int]], samples: int) -> list[float]:
    """Start of each word of `text` by an engine's events, (time in s, character).

    An engine may split a token ("twenty-one") or merge some ("of the"): a word without an event
    shares its neighbours' time by the letters between them.
    """
    words = tokens(text)
    edges = [character for _, character in words]
    onsets: dict[int, float] = {}
    for time_s, character in events:
        onsets.setdefault(max(bisect.bisect_right(edges, character) - 1, 0), time_s)
    known = sorted(onsets) or [0]
    positions = [edges[i] for i in known] + [edges[-1] + len(words[-1][0]) + 1]
    times = [onsets.get(i, 0.0) for i in known] + [samples / SAMPLE_RATE]
    return np.interp(edges, positions, times).tolist()


def _trim(
    wave: np.ndarray, text: str, starts_s: list[float]
) -> tuple[np.ndarray, tuple[Word, ...]]:
    """The wave cut to its sound, and its words, whose starts are given in the uncut wave."""
    wave, first = _cut(wave, text)
    starts_s = [max(start - first / SAMPLE_RATE, 0.0) for start in starts_s]
    return wave, words_from_onsets(wave, [word for word, _ in tokens(text)], starts_s)


def _cut(wave: np.ndarray, text: str) -> tuple[np.ndarray, int]:
    """The wave less the silence at its ends (10 ms stay before, 30 ms after), and its start."""
    start, end = sounding_span(wave)
    if end <= start:
        raise ValueError(f"{text!r} came out silent: it may hold nothing that can be said")
    start = max(0, start - 160)
    return np.ascontiguousarray(wave[start : end + 480]), start


@functools.lru_cache(maxsize=512)
def _band_filter(low: float, high: float) -> np.ndarray:
    if low > 0 and high < SAMPLE_RATE / 2:
        edges, kind = (low, high), "bandpass"
    else:
        edges, kind = (low, "highpass") if low > 0 else (high, "lowpass")
    return np.asarray(scipy.signal.butter(3, edges, kind, fs=SAMPLE_RATE, output="sos"))


def _band_limit(wave: np.ndarray, band_hz: tuple[float, float]) -> np.ndarray:
    low, high = band_hz
    if low <= 0 and high >= SAMPLE_RATE / 2:
        return wave
    sections = _band_filter(round(low, -1), round(high, -2)).astype(np.float32)
    return np.asarray(scipy.signal.sosfilt(sections, wave))


def _at_level(wave: np.ndarray, level_db: float) -> np.ndarray:
    """Scales the sounding frames' RMS to `level_db` below full scale, peaks to at most 0.95."""
    rms = loudness(wave)
    sounding = rms[rms > 0.1 * rms.max()]
    gain = 10 ** (level_db / 20) / float(np.sqrt(np.mean(sounding**2)))
    gain = min(gain, 0.95 / float(np.abs(wave).max()))
    return (wave * gain).astype(np.float32)
