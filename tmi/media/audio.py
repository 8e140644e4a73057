"""Sound to numbers: files, dMel bins (what the model hears), speech mel (what it speaks).

Everything here is numpy in float32 and runs on line in the input pipeline, thousands of times
faster than real time on one core. Waves are float32 in [-1, 1], mono, at the config's rate.

Frames are always analysed in tiles of exactly `TILE` rows, with code in which each row goes
through the same sequence of roundings wherever it stands. So the bits of a frame do not depend on
its neighbours, and a wave gives the same bins in chunks as in one piece.
"""

import dataclasses
import functools
import math
import pathlib
from typing import cast

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.sparse
import soundfile
import soxr
from absl import logging

from tmi.config import AudioConfig, SpeechConfig
from tmi.media.soundtrack import read_soundtrack

# Vector units hold 4, 8 or 16 floats: with 16 rows a batched FFT has no odd rows left over.
TILE = 16


# Files.


@dataclasses.dataclass(frozen=True)
class Recording:
    """A decoded file: mono `wave` float32 [N] in [-1, 1], and what was wrong with it."""

    wave: np.ndarray
    sample_rate: int
    num_nonfinite: int
    num_clipped: int


def read_audio(path: str | pathlib.Path, sample_rate: int = 16000) -> Recording:
    """Decodes an audio file of any rate and channel count to mono at `sample_rate`.

    WAV, FLAC, OGG and MP3 are libsndfile's; what it does not know, such as the sound of a video, is
    FFmpeg's. NaN and infinite samples become 0, samples beyond full scale are clipped; both are
    counted.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is empty, holds no samples, or cannot be decoded.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such audio file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty (0 bytes); expected sound")
    try:
        samples, file_rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        try:
            samples, file_rate = read_soundtrack(path)
        except ValueError as other:
            raise ValueError(
                f"{path}: cannot be decoded ({error}; {other}); expected WAV, FLAC, OGG, MP3 or a "
                "file with sound that FFmpeg reads"
            ) from error
        samples = samples[:, None]
    if not samples.size:
        raise ValueError(f"{path}: a valid header but no samples (truncated?)")
    samples, num_nonfinite = _zero_nonfinite(samples)
    wave = resample(samples.mean(axis=1), file_rate, sample_rate)
    if not wave.size:
        raise ValueError(f"{path}: {len(samples)} samples at {file_rate} Hz are less than one")
    # Resampling overshoots full scale by itself; only what the file holds counts as clipped.
    num_clipped = int(np.count_nonzero(np.abs(samples) > 1))
    return Recording(np.clip(wave, -1, 1), sample_rate, num_nonfinite, num_clipped)


def load_wav(path: str | pathlib.Path, sample_rate: int = 16000) -> np.ndarray:
    """The wave of `read_audio`, float32 [N]; flaws that were repaired are logged."""
    recording = read_audio(path, sample_rate)
    if recording.num_nonfinite or recording.num_clipped:
        logging.warning(
            "%s: %d NaN or infinite samples set to 0, %d samples clipped",
            path,
            recording.num_nonfinite,
            recording.num_clipped,
        )
    return recording.wave


def resample(wave: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Mono float32 [N] at `from_rate` Hz to float32 [~N to_rate / from_rate] at `to_rate` Hz."""
    if from_rate <= 0 or to_rate <= 0:
        raise ValueError(f"sample rates must be positive, got {from_rate} and {to_rate} Hz")
    wave = np.ascontiguousarray(wave, np.float32)
    return wave if from_rate == to_rate else soxr.resample(wave, from_rate, to_rate)


def from_int16(samples: np.ndarray) -> np.ndarray:
    """16-bit samples to float32 in [-1, 1)."""
    return samples.astype(np.float32) / np.float32(32768)


def to_int16(wave: np.ndarray) -> np.ndarray:
    """float32 in [-1, 1] to 16-bit samples, clipped; NaN and infinities become 0."""
    wave, _ = _zero_nonfinite(np.asarray(wave, np.float32))
    return np.rint(np.clip(wave * 32768, -32768, 32767)).astype(np.int16)


def _zero_nonfinite(samples: np.ndarray) -> tuple[np.ndarray, int]:
    finite = np.isfinite(samples)
    num_nonfinite = int(samples.size - np.count_nonzero(finite))
    return (np.where(finite, samples, np.float32(0)) if num_nonfinite else samples), num_nonfinite


# Mel analysis, shared by both directions.


def mel_filters(
    sample_rate: int, n_fft: int, num_mels: int, fmin: float, fmax: float
) -> np.ndarray:
    """Slaney's triangular filters of unit area, float32 [num_mels, n_fft // 2 + 1].

    Linear below 1 kHz, logarithmic above (Slaney, Auditory Toolbox, 1998), as librosa's default.
    """
    if not 0 <= fmin < fmax <= sample_rate / 2:
        raise ValueError(
            f"mel range must satisfy 0 <= fmin < fmax <= {sample_rate / 2:g} Hz (half the sample "
            f"rate), got {fmin:g} to {fmax:g} Hz"
        )
    edges = mel_edges(num_mels, fmin, fmax)
    bins = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    slopes = bins[None, :] - edges[:, None]
    widths = np.diff(edges)
    rising = slopes[:-2] / widths[:-1, None]
    falling = -slopes[2:] / widths[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


def mel_edges(num_mels: int, fmin: float, fmax: float) -> np.ndarray:
    """Where the filters begin, peak and end, Hz [num_mels + 2]: filter i peaks at [i + 1]."""
    return _mel_to_hz(np.linspace(_hz_to_mel(fmin), _hz_to_mel(fmax), num_mels + 2))


_LINEAR_HZ_PER_MEL = 200 / 3
_KNEE_HZ = 1000.0
_KNEE_MEL = _KNEE_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = math.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
    if hz < _KNEE_HZ:
        return hz / _LINEAR_HZ_PER_MEL
    return _KNEE_MEL + math.log(hz / _KNEE_HZ) / _LOG_STEP


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    linear = mel * _LINEAR_HZ_PER_MEL
    return np.where(mel < _KNEE_MEL, linear, _KNEE_HZ * np.exp(_LOG_STEP * (mel - _KNEE_MEL)))


def hann(window: int) -> np.ndarray:
    """Periodic Hann window, float32 [window]."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)).astype(np.float32)


class MelAnalysis:
    """Frames of samples to mel magnitudes; a frame's bits do not depend on the other frames."""

    def __init__(
        self, sample_rate: int, window: int, n_fft: int, num_mels: int, fmin: float, fmax: float,
        power_floor: float = 0.0,
    ):  # fmt: skip
        self.window = hann(window)
        self.n_fft = n_fft
        self.num_mels = num_mels
        self.power_floor = np.float32(power_floor)
        # Sparse: the product adds a filter's bins in order, one frame like another, which a
        # library's dense product (blocked by the number of rows) does not promise.
        self._filters = scipy.sparse.csr_array(
            mel_filters(sample_rate, n_fft, num_mels, fmin, fmax)
        )

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """float32 [T, window] (a strided view is fine) to mel magnitudes, float32 [T, C]."""
        mels = np.empty((len(frames), self.num_mels), np.float32)
        tile = np.zeros((TILE, self.n_fft), np.float32)
        for start in range(0, len(frames), TILE):
            rows = frames[start : start + TILE]
            windowed = tile[:, : len(self.window)]
            np.multiply(rows, self.window, out=windowed[: len(rows)])
            windowed[len(rows) :] = 0
            spectrum = cast(npt.NDArray[np.complex64], scipy.fft.rfft(tile))
            # Not np.abs: its vector and scalar forms may round apart.
            power = spectrum.real**2 + spectrum.imag**2
            if self.power_floor:
                power = np.maximum(power, self.power_floor)
            magnitude = np.sqrt(power)
            mels[start : start + TILE] = (self._filters @ magnitude.T).T[: len(rows)]
        return mels


def _frames(samples: np.ndarray, window: int, hop: int) -> np.ndarray:
    """View of `samples` [N] as whole frames [T, window]."""
    if len(samples) < window:
        return np.empty((0, window), np.float32)
    return np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]


def _as_wave(samples: np.ndarray) -> np.ndarray:
    samples = np.asarray(samples)
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise ValueError(
            "a wave must be one-dimensional float samples in [-1, 1], got "
            f"{samples.dtype} {samples.shape}; convert 16-bit samples with from_int16"
        )
    return samples.astype(np.float32, copy=False)


# What the model hears.


class DMel:
    """dMel: log mel magnitudes in 16 levels (Bai et al. 2024, arXiv:2407.15835), causal.

    Frame j sees samples [hop (j + 1) - window, hop (j + 1)), zeros before the start: it is
    complete when its last hop is. A trailing partial hop gives no frame.
    """

    def __init__(self, config: AudioConfig):
        self.config = config
        self.hop = round(config.hop_s * config.sample_rate)
        self.window = round(config.window_s * config.sample_rate)
        if not 0 < self.hop <= self.window:
            raise ValueError(
                f"audio.hop_s must be positive and at most audio.window_s = {config.window_s}, "
                f"got {config.hop_s}"
            )
        self._analysis = MelAnalysis(
            config.sample_rate,
            self.window,
            self.window,
            config.num_mels,
            0.0,
            config.sample_rate / 2,
            config.power_floor,
        )
        # Nearest level by its borders: exact comparisons in place of a rounded logarithm.
        step = (config.log_max - config.log_min) / (config.num_levels - 1)
        borders = config.log_min + step * (np.arange(config.num_levels - 1) + 0.5)
        self._borders = (10.0**borders).astype(np.float32)

    def bins(self, wave: np.ndarray) -> np.ndarray:
        """float32 [N] to level numbers, uint8 [N // hop, num_mels]."""
        _, bins = self.step(self.init(), wave)
        return bins

    def init(self) -> np.ndarray:
        """State of a stream that has heard nothing: the samples still needed, float32 [n]."""
        return np.zeros(self.window - self.hop, np.float32)

    def step(self, state: np.ndarray, chunk: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hears `chunk` float32 [n] (any n, also 0): the new state and bins, uint8 [T, num_mels].

        Bins come for the frames that `chunk` completes. NaN samples give level 0, not an error.
        """
        samples = np.concatenate([state, _as_wave(chunk)])
        mels = self._analysis(_frames(samples, self.window, self.hop))
        bins = np.zeros(mels.shape, np.uint8)
        for border in self._borders:
            bins += mels >= border
        return samples[len(bins) * self.hop :].copy(), bins


# What the model speaks.


class SpeechMel:
    """Normalised log mel of the model's own track, the target of the flow head.

    Frame j analyses samples [hop j, hop j + window), zeros after the end: the frames of a patch
    are all that is needed to overlap-add its samples (tmi/decode/vocode.py).
    """

    def __init__(self, config: SpeechConfig):
        self.config = config
        self._analysis = MelAnalysis(
            config.sample_rate,
            config.window,
            config.n_fft,
            config.num_mels,
            config.fmin,
            config.fmax,
        )

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """float32 [N] to float32 [ceil(N / hop), num_mels], about zero mean and unit variance."""
        config = self.config
        wave = _as_wave(wave)
        num_frames = -(-len(wave) // config.hop)
        end = max(0, num_frames - 1) * config.hop + config.window
        padded = np.pad(wave, (0, max(0, end - len(wave))))
        frames = _frames(padded, config.window, config.hop)[:num_frames]
        log_mel = np.log(np.maximum(self._analysis(frames), np.float32(config.floor)))
        return ((log_mel - config.mean) / config.std).astype(np.float32)


@functools.lru_cache(maxsize=8)
def _speech_mel(config: SpeechConfig) -> SpeechMel:
    return SpeechMel(config)


def speech_mel(wave: np.ndarray, config: SpeechConfig) -> np.ndarray:
    """`SpeechMel(config)(wave)`; the tables of a config are made once."""
    return _speech_mel(config)(wave)


def silent_mel(config: SpeechConfig) -> float:
    """The normalised value of a silent mel bin: the lowest there is."""
    return (math.log(config.floor) - config.mean) / config.std
