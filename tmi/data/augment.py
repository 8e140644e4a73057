"""On-line variation of the user's sound: band limit, equaliser, coloured noise, level; and of its
dMel bins: vocal-tract length, holes.

The generator in reach decides everything, so a session sounds the same whenever the same epoch of
the same seed is drawn again. Rooms and recorded noise belong to the corpus, whose splits own them.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft
import scipy.signal

from tmi.media.audio import mel_edges

LEVEL_DB = 6.0  # the level moves by at most this much either way, the equaliser aside
SNR_DB = (15.0, 40.0)  # of the added noise, against the loudest tenth of the session
NOISE_SHARE, LOW_PASS_SHARE, HIGH_PASS_SHARE = 0.5, 0.3, 0.3  # of the sessions
LOW_PASS_HZ = (3000.0, 7500.0)
HIGH_PASS_HZ = (50.0, 300.0)
EQUALISER_SHARE = 0.7  # of the sessions
EQUALISER_HZ, EQUALISER_DB, EQUALISER_PEAKS = (120.0, 5000.0), 9.0, 3
TILT_HZ, TILT_DB = (250.0, 1500.0), (-16.0, 8.0)  # engines and microphones differ by 12 dB
MAX_WARP = 0.15  # of the logarithm of the frequency
MAX_BEND = 0.05  # of its slope: formants of one mouth do not move alike to another's
MASK_SHARE = 0.5  # of the sessions
MASK_FRAMES = 40  # a stretch that has one mask of channels and one of frames
MASK_CHANNELS_OF, MASK_AT_MOST = 8, 2  # an eighth of the channels, and frames, at most
QUIET_RMS = 0.02  # stands for the speech level of a session without speech


def augment(wave: np.ndarray, rng: np.random.Generator, sample_rate: int = 16_000) -> np.ndarray:
    """A variant of `wave`, float32 [N] in [-1, 1], of the same length and, to 1 ms, timing."""
    if not len(wave):
        return wave
    wave = _band_limit(wave, rng, sample_rate)
    if rng.random() < EQUALISER_SHARE:
        wave = _equalise(wave, rng, sample_rate)
    if rng.random() < NOISE_SHARE:
        snr_db = rng.uniform(*SNR_DB)
        noise = coloured_noise(len(wave), rng, slope=rng.uniform(0.0, 2.0))
        wave = wave + noise * np.float32(speech_level(wave, sample_rate) * 10 ** (-snr_db / 20))
    gain = np.float32(10 ** (rng.uniform(-LEVEL_DB, LEVEL_DB) / 20))
    return np.clip(wave * gain, -1, 1)


def warp(bins: np.ndarray, rng: np.random.Generator, sample_rate: int = 16_000) -> np.ndarray:
    """dMel bins uint8 [T, C] as of a longer or shorter vocal tract (VTLP, Jaitly & Hinton 2013):
    frequencies are stretched by up to `MAX_WARP` either way and bent by up to `MAX_BEND` about
    1 kHz, the same for all of a session."""
    channels = bins.shape[1]
    hz = mel_edges(channels, 0.0, sample_rate / 2)[1:-1]  # where dMel's filters peak
    bend = rng.uniform(-MAX_BEND, MAX_BEND)
    moved = hz * math.exp(rng.uniform(-MAX_WARP, MAX_WARP)) * (hz / 1000) ** bend
    source = np.interp(moved, hz, np.arange(channels))
    low = np.minimum(source.astype(int), channels - 2)
    share = (source - low).astype(np.float32)
    mixed = bins[:, low] * (1 - share) + bins[:, low + 1] * share
    return np.rint(mixed).astype(np.uint8)


def mask(bins: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """dMel bins uint8 [T, C] with holes, as SpecAugment makes them (arXiv 1904.08779): in every two
    seconds of a session some neighbouring channels, and for 0.1 s at most all of them, are at the
    floor. Of one session in two; the others are returned as they are."""
    if rng.random() >= MASK_SHARE:
        return bins
    out = bins.copy()
    frames, channels = bins.shape
    for start in range(0, frames, MASK_FRAMES):
        width = int(rng.integers(channels // MASK_CHANNELS_OF + 1))
        low = int(rng.integers(channels - width + 1))
        out[start : start + MASK_FRAMES, low : low + width] = 0
        first = start + int(rng.integers(MASK_FRAMES))
        out[first : first + int(rng.integers(MASK_AT_MOST + 1))] = 0
    return out


def coloured_noise(num_samples: int, rng: np.random.Generator, slope: float) -> np.ndarray:
    """Noise of unit RMS whose power falls as 1 / f^slope (0 white, 1 pink, 2 brown), float32 [N].

    One period as long as the session: shorter noise, repeated, would be a clock to the listener.
    """
    n = int(scipy.fft.next_fast_len(num_samples, real=True) or num_samples)
    bins = n // 2 + 1
    spectrum = rng.standard_normal(2 * bins, np.float32).view(np.complex64)
    # Flat below 1/200 of the band, or nearly all power would lie under what anyone hears.
    f = np.maximum(np.arange(bins, dtype=np.float32), np.float32(bins / 200))
    noise = np.asarray(scipy.fft.irfft(spectrum * f ** np.float32(-slope / 2), n))[:num_samples]
    return noise / np.float32(max(1e-12, math.sqrt(np.mean(noise * noise))))


def speech_level(wave: np.ndarray, sample_rate: int) -> float:
    """RMS of the loudest tenth of the 100 ms blocks; `QUIET_RMS` if that is silence."""
    block = sample_rate // 10
    whole = wave[: len(wave) // block * block].reshape(-1, block)
    if not len(whole):
        return QUIET_RMS
    power = np.einsum("ij,ij->i", whole, whole) / block
    level = math.sqrt(float(np.quantile(power, 0.9)))
    return level if level > 1e-3 else QUIET_RMS


def _band_limit(wave: np.ndarray, rng: np.random.Generator, sample_rate: int) -> np.ndarray:
    if rng.random() < LOW_PASS_SHARE:
        wave = _filter(wave, "lowpass", 4, math.exp(rng.uniform(*np.log(LOW_PASS_HZ))), sample_rate)
    if rng.random() < HIGH_PASS_SHARE:
        wave = _filter(wave, "highpass", 2, rng.uniform(*HIGH_PASS_HZ), sample_rate)
    return wave


def _equalise(wave: np.ndarray, rng: np.random.Generator, sample_rate: int) -> np.ndarray:
    """Some broad peaks and dips and a tilt, as of another microphone or mouth (peaking filters and
    a high shelf of the Audio EQ Cookbook, W3C)."""
    sections = []
    for _ in range(EQUALISER_PEAKS):
        w = 2 * math.pi * math.exp(rng.uniform(*np.log(EQUALISER_HZ))) / sample_rate
        gain = 10 ** (rng.uniform(-EQUALISER_DB, EQUALISER_DB) / 40)
        alpha = math.sin(w) / (2 * rng.uniform(0.4, 1.2))
        b = (1 + alpha * gain, -2 * math.cos(w), 1 - alpha * gain)
        a = (1 + alpha / gain, -2 * math.cos(w), 1 - alpha / gain)
        sections.append([x / a[0] for x in b + a])
    tilt_hz = math.exp(rng.uniform(*np.log(TILT_HZ)))
    sections.append(_shelf(tilt_hz, rng.uniform(*TILT_DB), sample_rate))
    return np.asarray(scipy.signal.sosfilt(np.array(sections, np.float32), wave))


def _shelf(hz: float, gain_db: float, sample_rate: int, q: float = 0.5) -> list[float]:
    """A second-order section that changes what lies above `hz` by `gain_db`."""
    w, a = 2 * math.pi * hz / sample_rate, 10 ** (gain_db / 40)
    c, r = math.cos(w), math.sqrt(a) * math.sin(w) / q
    up, down = a + 1 + (a - 1) * c, a + 1 - (a - 1) * c
    b = (a * (up + r), -2 * a * (a - 1 + (a + 1) * c), a * (up - r))
    d = (down + r, 2 * (a - 1 - (a + 1) * c), down - r)
    return [x / d[0] for x in (*b, *d)]


def _filter(wave: np.ndarray, kind: str, order: int, hz: float, sample_rate: int) -> np.ndarray:
    sections = np.asarray(scipy.signal.butter(order, hz, kind, fs=sample_rate, output="sos"))
    return np.asarray(scipy.signal.sosfilt(sections.astype(np.float32), wave))
