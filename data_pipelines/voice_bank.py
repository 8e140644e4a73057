"""Voices from files: recordings of people or another engine, in place of the synthesiser."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
import soxr

from data_pipelines.alignment import SAMPLE_RATE, recorded_span

# What libsndfile says of a wav whose samples end before its header does, and the length that a
# header written before its samples has.
_CUT = re.compile(r"data : (\d+) \(should be (\d+)\)")
STREAMED = 2**31 - 1


class DamagedRecording(ValueError):
    """A file of a voice bank that cannot be used, `path`; the message says why."""

    def __init__(self, path: Path, why: object):
        super().__init__(f"{path}: {why}")
        self.path = path


def phrase_key(text: str) -> str:
    """Name of a phrase's file without its ending: sha1 of the UTF-8 text, with no newline."""
    return hashlib.sha1(text.encode()).hexdigest()


class VoiceBank:
    """`directory/<voice>/<phrase_key(text)>.wav`, of any sample rate and channel count."""

    def __init__(self, directory: str | Path):
        """Raises ValueError if `directory` is missing or holds no voice."""
        self.directory = Path(directory)
        if not self.directory.is_dir():
            raise ValueError(f"no voice bank at {self.directory}: it must be a folder")
        self.voices = tuple(
            sorted(p.name for p in self.directory.iterdir() if p.is_dir() and any(p.glob("*.wav")))
        )
        if not self.voices:
            raise ValueError(
                f"the voice bank {self.directory} holds no voice: a voice is a folder of files "
                "<sha1 of the text>.wav"
            )

    def path(self, voice: str, text: str) -> Path:
        """Where the recording of `text` by `voice` is, or belongs."""
        return self.directory / voice / f"{phrase_key(text)}.wav"

    def missing(self, texts: Iterable[str]) -> dict[str, list[str]]:
        """The texts each voice lacks, in order; voices that lack none are left out."""
        texts = list(dict.fromkeys(texts))
        lacking = {v: [t for t in texts if not self.path(v, t).is_file()] for v in self.voices}
        return {voice: lacks for voice, lacks in lacking.items() if lacks}

    def load(self, voice: str, text: str) -> np.ndarray:
        """The recording as float32 [N], 16 kHz mono, trimmed to its sound (10 ms before, 30 after),
        without offset and with a peak of 0.5.

        Raises:
          FileNotFoundError: the bank has no such recording; names the voice, text and file.
          DamagedRecording: the file is no sound, cut short, or silent.
        """
        path = self.path(voice, text)
        if not path.is_file():
            raise FileNotFoundError(f"voice {voice!r} of the bank lacks {text!r}: no file {path}")
        try:
            with soundfile.SoundFile(path) as file:
                wave, rate = file.read(dtype="float32", always_2d=True), file.samplerate
                cut = _CUT.search(file.extra_info)
        except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
            raise DamagedRecording(path, f"{text!r} is no readable wav: {error}") from error
        if cut and int(cut[2]) < int(cut[1]) < STREAMED:
            raise DamagedRecording(path, f"{text!r} is cut short: {cut[2]} of {cut[1]} bytes")
        mono = _one_channel(wave)
        if not np.isfinite(mono).all():
            raise DamagedRecording(path, f"{text!r} holds samples that are no numbers")
        if rate != SAMPLE_RATE and len(mono):
            mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
        start, end = recorded_span(mono)
        if end <= start:
            raise DamagedRecording(path, f"{text!r} is silent")
        mono = mono[max(0, start - 160) : end + 480]
        mono = mono - mono.mean()
        return np.ascontiguousarray(mono * np.float32(0.5 / np.abs(mono).max()))


def _one_channel(wave: np.ndarray) -> np.ndarray:
    """Of samples [N, channels] their mean; the loudest one where the others undo it."""
    mono = wave.mean(axis=1)
    if not len(wave):
        return mono
    power = np.square(wave).mean(axis=0)
    return wave[:, power.argmax()] if np.square(mono).mean() < 0.05 * power.max() else mono
