"""espeak-ng through ctypes: text to a wave with the time of every word.

The wheel `espeakng-loader` brings the library and its data, so no system package is needed.

espeak-ng carries state from one utterance to the next (the phase of its pitch flutter, its
resonators, its noise), so that a wave would depend on everything said before it. Here the library
is loaded afresh for every utterance, which costs about 0.5 ms and makes a wave a function of its
text and settings alone. Two measures make the fresh load cheap: the synchronous mode, in which the
library starts no thread, and a private data folder with lower-case language files, which espeak-ng
opens directly where it would otherwise read every voice of every language.
"""

import ctypes
import functools
import multiprocessing.util
import os
import shutil
import tempfile
import threading
from pathlib import Path

import numpy as np

from data_pipelines import timbres

SAMPLE_RATE = 22050  # Hz, what the library renders at

_SYNCHRONOUS = 2
_BUFFER_MS = 1000  # of sound in one callback
_DONT_EXIT = 0x8000  # return an error instead of ending the process
_UTF8 = 1
_RATE, _VOLUME, _PITCH, _RANGE, _WORD_GAP = 1, 2, 3, 4, 7
_WORD_EVENT = 1
_LOCK = threading.Lock()


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


def _loader():
    try:
        import espeakng_loader
    except ImportError as error:
        raise ImportError(
            "the users' voices need espeakng-loader: pip install -e '.[data]'"
        ) from error
    return espeakng_loader


@functools.cache
def _data_path() -> str:
    """A folder with the English data only; short, since espeak-ng cuts paths at 160 characters."""
    source = Path(_loader().get_data_path())
    root = Path(tempfile.mkdtemp(prefix="espeak-"))
    # Unlike atexit this runs in worker processes too, and only in the process that made the folder.
    multiprocessing.util.Finalize(None, shutil.rmtree, (root, True), exitpriority=0)
    data = root / "espeak-ng-data"
    (data / "lang" / "gmw").mkdir(parents=True)
    for name in ("phontab", "phonindex", "phondata", "intonations", "en_dict"):
        shutil.copy(source / name, data / name)
    for language in (source / "lang" / "gmw").glob("en*"):
        shutil.copy(language, data / "lang" / "gmw" / language.name.lower())
    shutil.copytree(source / "voices" / "!v", data / "voices" / "!v")
    return str(data)


@functools.cache
def variants() -> frozenset[str]:
    """Names of the voice variants the library brings (its `voices/!v` folder)."""
    return frozenset(p.name for p in (Path(_data_path()) / "voices" / "!v").iterdir())


@functools.cache
def _has_variant(name: str) -> bool:
    """Whether the library finds variant `name`; a drawn timbre is written down on its first use."""
    definition = timbres.definition(name)
    if definition is not None:
        (Path(_data_path()) / "voices" / "!v" / name).write_text(definition)
    return definition is not None or name in variants()


def synthesise(
    text: str, accent: str, variant: str, *, rate: int, pitch: int, pitch_range: int, seed: int = 0
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Renders `text`.

    Args:
      text: what to say; must hold at least one letter or digit to sound.
      accent: an English language file of espeak-ng, e.g. "en-us" or "en-gb-scotland".
      variant: a name from `variants()` or `timbres.names()`.
      rate: words a minute, 80 to 450.
      pitch: 0 to 99, 50 is the variant's own.
      pitch_range: 0 (monotone) to 99, 50 is the variant's own.
      seed: of the breath noise.

    Returns:
      (int16 [N] at `SAMPLE_RATE`, [(first sample, character offset in text)] of espeak-ng's words).

    Raises:
      ValueError: unknown accent or variant. RuntimeError: the library does not start.
    """
    waves: list[bytes] = []
    words: list[tuple[int, int]] = []

    def receive(wave, count, events) -> int:
        if count > 0:
            waves.append(ctypes.string_at(wave, 2 * count))
        i = 0
        while events[i].type:
            if events[i].type == _WORD_EVENT:
                words.append((events[i].sample, events[i].text_position - 1))
            i += 1
        return 0

    callback = _Callback(receive)
    name = f"gmw/{accent}+{variant}".encode()
    encoded = text.encode()
    with _LOCK:
        library = ctypes.CDLL(_loader().get_library_path())
        try:
            path = _data_path().encode()
            if library.espeak_Initialize(_SYNCHRONOUS, _BUFFER_MS, path, _DONT_EXIT) != SAMPLE_RATE:
                raise RuntimeError(f"espeak-ng does not start with its data at {path.decode()}")
            library.espeak_SetSynthCallback(callback)
            if not _has_variant(variant) or library.espeak_SetVoiceByName(name) != 0:
                raise ValueError(f"espeak-ng has no voice {accent!r} with variant {variant!r}")
            # Two sources of noise: espeak-ng's own and, for some variants, the C library's.
            library.espeak_ng_SetRandSeed(ctypes.c_long(seed + 1))
            if c_library := _c_library():
                c_library.srand(ctypes.c_uint(seed + 1))
            for parameter, value in (
                (_RATE, rate),
                (_VOLUME, 100),
                (_PITCH, pitch),
                (_RANGE, pitch_range),
                (_WORD_GAP, 0),
            ):
                library.espeak_SetParameter(parameter, value, 0)
            library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, _UTF8, None, None)
            library.espeak_Terminate()
        finally:
            _unload(library)
    return np.frombuffer(b"".join(waves), np.int16), words


@functools.cache
def _c_library() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if os.name == "posix" else None


def _unload(library: ctypes.CDLL) -> None:
    import _ctypes

    close = _ctypes.dlclose if os.name == "posix" else _ctypes.FreeLibrary
    close(library._handle)
