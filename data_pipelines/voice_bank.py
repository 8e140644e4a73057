"""Voices from files: recordings of people or another engine, in place of the synthesiser."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
import soxr

from data_pipelines.alignment import SAMPLE_RATE, sounding_span


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
        """The recording as float32 [N], 16 kHz mono, trimmed to its sound (10 ms before, 30 after).

        Raises:
          FileNotFoundError: the bank has no such recording; names the voice, text and file.
          DamagedRecording: the file is no sound, or silent.
        """
        path = self.path(voice, text)
        if not path.is_file():
            raise FileNotFoundError(f"voice {voice!r} of the bank lacks {text!r}: no file {path}")
        try:
            wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
            raise DamagedRecording(path, f"{text!r} is no readable wav: {error}") from error
        mono = wave.mean(axis=1)
        if not np.isfinite(mono).all():
            raise DamagedRecording(path, f"{text!r} holds samples that are no numbers")
        if rate != SAMPLE_RATE and len(mono):
            mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
        start, end = sounding_span(mono)
        if end <= start:
            raise DamagedRecording(path, f"{text!r} is silent")
        return np.ascontiguousarray(mono[max(0, start - 160) : end + 480])
