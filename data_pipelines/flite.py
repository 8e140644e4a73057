"""flite through ctypes: text to a wave with the time of every word.

A second engine for users' voices (Black & Lenzo 2001): of diphones and of statistics over recorded
people, where espeak-ng's are made of formants. A model that has heard one engine alone knows that
engine: docs/LOG.md. Optional: Debian's package `flite` (libflite1) brings library and voices.
"""

import ctypes
import functools
import threading

import numpy as np

SAMPLE_RATE = 16000
VOICES = ("kal16", "awb", "rms", "slt")
# One woman's voice is kept out of all corpora but those of a bank, so that it can tell how people
# who were never heard, in an engine that was, are understood.
TRAIN_VOICES = VOICES[:3]

_LOCK = threading.Lock()
_POINTER = ctypes.c_void_p
# Of a token: where the sound before its first word's first segment ends.
_START = b"daughter1.R:SylStructure.daughter1.daughter1.R:Segment.p.end"


class _Wave(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    ]


class _Voice(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("features", _POINTER)]


@functools.cache
def _library() -> ctypes.CDLL:
    """Raises ImportError where flite is not installed."""
    try:
        library = ctypes.CDLL("libflite.so.1", mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise ImportError(
            "flite's voices need its library: on Debian and Ubuntu, apt install flite"
        ) from error
    for name in ("flite_synth_text", "utt_relation", "relation_head", "item_next", "utt_wave"):
        getattr(library, name).restype = _POINTER
    library.item_feat_string.restype = ctypes.c_char_p
    library.ffeature_float.restype = ctypes.c_float
    library.flite_init()
    return library


@functools.cache
def _voice(name: str):
    _library()
    register = getattr(ctypes.CDLL(f"libflite_cmu_us_{name}.so.1"), f"register_cmu_us_{name}")
    register.restype = ctypes.POINTER(_Voice)
    return register(None)


def check() -> None:
    """Raises ImportError where flite cannot be had."""
    for name in VOICES:
        try:
            _voice(name)
        except OSError as error:
            raise ImportError(f"flite is here without its voice {name}: {error}") from error


def synthesise(
    text: str, voice: str, *, stretch: float, pitch: float, seed: int = 0
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Renders `text`.

    Args:
      text: what to say.
      voice: one of `VOICES`.
      stretch: factor on all durations.
      pitch: factor on the voice's pitch.
      seed: of the noise that excites the statistical voices.

    Returns:
      (int16 [N] at `SAMPLE_RATE`, [(first sample, character offset in text)] of its tokens).

    Raises:
      ValueError: no such voice. ImportError: flite is not installed.
    """
    if voice not in VOICES:
        raise ValueError(f"flite has no voice {voice!r}; accepted: {', '.join(VOICES)}")
    with _LOCK:
        library, spoken = _library(), _voice(voice)
        features = _POINTER(spoken.contents.features)
        for name, value in (
            (b"duration_stretch", stretch),
            (b"f0_shift", pitch),  # of the statistical voices
            (b"int_f0_target_mean", 105.0 * pitch),  # of the diphones
        ):
            library.feat_set_float(features, name, ctypes.c_float(value))
        ctypes.CDLL(None).srand(ctypes.c_uint(seed + 1))
        utterance = _POINTER(library.flite_synth_text(text.encode(), spoken))
        try:
            wave = ctypes.cast(library.utt_wave(utterance), ctypes.POINTER(_Wave)).contents
            samples = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).copy()
            words, position = [], 0
            item = library.relation_head(_POINTER(library.utt_relation(utterance, b"Token")))
            while item:
                token = library.item_feat_string(_POINTER(item), b"name").decode()
                found = text.find(token, position)
                if found >= 0:
                    start = library.ffeature_float(_POINTER(item), _START)
                    words.append((round(start * wave.sample_rate), found))
                    position = found + len(token)
                item = library.item_next(_POINTER(item))
        finally:
            library.delete_utterance(utterance)
    return samples, words
