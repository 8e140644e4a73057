"""moonshine tiny (moonshine-voice), a recogniser of open English text: the second judge of speech.

Unlike the closed grammar it may hear any word, so what it understands was really said. It knows no
Spanish and is weak on isolated words: read its figure beside the one of the voice's recordings. It
makes words of silence, so silence never reaches it.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import numpy as np

from tmi.config import SAMPLE_RATE
from tmi.evals import onsets
from tmi.evals.answers import normalise

NAME = "moonshine"


class UnavailableError(RuntimeError):
    """The recogniser cannot be loaded; the message says why and what would help."""


def open_recogniser() -> Callable[[np.ndarray], list[str]]:
    """From float32 [N] at 16 kHz to words, with half a second of silence on both sides.

    Raises UnavailableError if the package or its model files are missing.
    """
    try:
        import moonshine_voice

        model = pathlib.Path(moonshine_voice.__file__).parent / "assets" / "tiny-en"
        transcriber = moonshine_voice.Transcriber(str(model), moonshine_voice.ModelArch.TINY)
    except Exception as e:  # the package has errors of its own, which cannot be named without it
        raise UnavailableError(
            f"moonshine cannot be loaded ({type(e).__name__}: {e}); the [eval] extra brings it"
        ) from e

    def recognise(wave: np.ndarray) -> list[str]:
        padded = np.pad(wave, SAMPLE_RATE // 2)
        transcript = transcriber.transcribe_without_streaming(padded.tolist(), SAMPLE_RATE)
        return normalise(" ".join(line.text for line in transcript.lines))

    return recognise


def recognise(waves: Sequence[np.ndarray], pool: Executor) -> list[tuple[str, ...]]:
    """The words that are heard in each wave, none in silence. Raises UnavailableError."""
    return list(pool.map(_hear, waves, chunksize=4))


def _hear(wave: np.ndarray) -> tuple[str, ...]:
    recogniser = _recogniser()
    wave = np.nan_to_num(np.asarray(wave, np.float32))
    return tuple(recogniser(wave)) if onsets.activity(wave).any() else ()


_recogniser = functools.cache(open_recogniser)  # one a process
