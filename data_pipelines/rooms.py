"""Rooms and background noise, made from seeds: each split has its own and no file is needed.

A room is an impulse response: the direct sound at delay 0, early reflections, and a decaying
diffuse tail (Moorer, 1979). Noises are loops of 8 s: coloured noise, hum, clicks, music-like tones,
and babble of the split's own voices.
"""

import functools
import hashlib

import numpy as np
import scipy.fft
import scipy.signal

from data_pipelines.alignment import SAMPLE_RATE, loudness
from data_pipelines.voices import check_split, sample_voice

ROOMS = 40  # of each split
LOOP_S = 8.0
# Kinds of noise and how many loops of each a split has.
_KINDS = {"coloured": 8, "hum": 4, "clicks": 4, "tones": 6, "babble": 6}
NOISES = tuple((kind, i) for kind, count in _KINDS.items() for i in range(count))

# What the babble says. Nothing of it is a phrase of a session.
_BABBLE = {
    "train": (
        "they moved the old piano over to the garden wall last autumn",
        "most of the bread was sold before the rain began",
        "my cousin keeps bees somewhere behind the railway",
        "nobody remembered who had painted the little boat",
    ),
    "dev": (
        "the ferry was late because the harbour had frozen over",
        "we bought two kettles and a broom from the market",
        "her uncle used to mend clocks in a cellar",
    ),
    "eval": (
        "a letter came from the mountains with no stamp on it",
        "the baker lent us his van for the whole weekend",
        "grass had grown between the stones of the bridge",
    ),
}


def _rng(split: str, what: str, index: int) -> np.random.Generator:
    check_split(split)
    digest = hashlib.sha256(f"{split}:{what}:{index}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


@functools.cache
def room(split: str, index: int) -> np.ndarray:
    """Impulse response, float32 [N], 16 kHz, of unit energy; its first sample is the direct sound.

    Reverberation times run from 0.12 to 0.45 s. Raises ValueError for an unknown split.
    """
    rng = _rng(split, "room", index)
    reverberation_s = float(np.exp(rng.uniform(np.log(0.12), np.log(0.45))))
    length = int(min(0.7 * reverberation_s, 0.25) * SAMPLE_RATE)
    time_s = np.arange(length) / SAMPLE_RATE
    decay = 10 ** (-3 * time_s / reverberation_s)
    tail = rng.normal(size=length) * decay * np.minimum(1, time_s / 0.02)
    # Walls and air absorb the high frequencies first.
    cutoff = rng.uniform(2000, 6000)
    low_pass = scipy.signal.butter(1, cutoff, fs=SAMPLE_RATE, output="sos")
    tail = np.asarray(scipy.signal.sosfilt(low_pass, tail))
    early = np.zeros(length)
    for _ in range(int(rng.integers(5, 15))):
        delay_s = rng.uniform(0.001, 0.035)
        sample = min(int(delay_s * SAMPLE_RATE), length - 1)
        early[sample] += rng.choice((-1, 1)) * rng.uniform(0.2, 0.8) / (1 + delay_s * 150)
    direct_to_rest_db = rng.uniform(2.0, 16.0)
    rest = early / np.linalg.norm(early) + rng.uniform(0.5, 1.2) * tail / np.linalg.norm(tail)
    rest *= 10 ** (-direct_to_rest_db / 20) / np.linalg.norm(rest)
    rest[0] += 1.0
    response = (rest / np.linalg.norm(rest)).astype(np.float32)
    response.flags.writeable = False
    return response


@functools.cache
def noise_loop(split: str, index: int) -> np.ndarray:
    """Noise number `index` of `NOISES`: float32 [LOOP_S * 16000] of RMS 1, ends joined smoothly.

    Raises ValueError for an unknown split.
    """
    kind, number = NOISES[index]
    rng = _rng(split, kind, number)
    overlap = SAMPLE_RATE // 4
    length = int(LOOP_S * SAMPLE_RATE) + overlap
    wave = _babble(rng, split, length) if kind == "babble" else _MAKERS[kind](rng, length)
    fade = np.sin(np.linspace(0, np.pi / 2, overlap))
    wave[:overlap] = wave[:overlap] * fade + wave[-overlap:] * fade[::-1]
    loop = wave[:-overlap]
    loop = (loop / np.sqrt(np.mean(loop**2))).astype(np.float32)
    loop.flags.writeable = False
    return loop


def pool_hashes(split: str) -> frozenset[str]:
    """sha256 of the content of every room and noise of a split."""
    rooms = [room(split, i) for i in range(ROOMS)]
    noises = [noise_loop(split, i) for i in range(len(NOISES))]
    return frozenset(hashlib.sha256(wave.tobytes()).hexdigest() for wave in rooms + noises)


def augment(
    wave: np.ndarray,
    rng: np.random.Generator,
    split: str,
    *,
    use_room: bool = True,
    use_noise: bool = True,
    snr_db: tuple[float, float] = (12.0, 36.0),
) -> np.ndarray:
    """What a microphone hears of a user: often a room, mostly noise, a gain of -6 to 6 dB.

    Args:
      wave: float [N], 16 kHz, speech with silences between.
      rng: draws room, noise, signal-to-noise ratio and gain.
      split: whose rooms and noises to use.
      use_room: draw a room for 60 % of calls. use_noise: draw a noise for 85 %.
      snr_db: range of the ratio between the sounding speech and the noise; babble gets 4 dB more.

    Returns:
      float32 [N], peaks at most 0.99; sounds start when they did.
    """
    check_split(split)
    chance = rng.random(2)  # drawn first, so that switches do not move the later draws' order
    wave = np.asarray(wave, np.float32)
    level = _speech_level(wave)
    if use_room and chance[0] < 0.6:
        wave = _reverberate(wave, room(split, int(rng.integers(ROOMS))))
    if use_noise and chance[1] < 0.85:
        index = int(rng.integers(len(NOISES)))
        ratio_db = rng.uniform(*snr_db) + (4.0 if NOISES[index][0] == "babble" else 0.0)
        loop = noise_loop(split, index)
        offset = int(rng.integers(len(loop)))
        repeats = -(-(offset + len(wave)) // len(loop))
        noise = np.tile(loop, repeats)[offset : offset + len(wave)]
        wave = wave + np.float32(level * 10 ** (-ratio_db / 20)) * noise
    wave = wave * np.float32(10 ** (rng.uniform(-6.0, 6.0) / 20))
    peak = float(np.abs(wave).max(initial=0.0))
    return wave * np.float32(0.99 / peak) if peak > 0.99 else wave


def _reverberate(wave: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolution cut to the wave's length, by overlap-add that skips blocks of pure silence."""
    size = 16384
    hop = size - len(response) + 1
    blocks = np.pad(wave, (0, -len(wave) % hop)).reshape(-1, hop)
    sounding = np.flatnonzero(blocks.any(axis=1))
    spectra = np.asarray(scipy.fft.rfft(blocks[sounding], size, axis=1))
    spectra *= np.asarray(scipy.fft.rfft(response, size))
    out = np.zeros(len(blocks) * hop + size, np.float32)
    parts = np.asarray(scipy.fft.irfft(spectra, size, axis=1))
    for block, part in zip(sounding, parts, strict=True):
        out[block * hop : block * hop + size] += part
    return out[: len(wave)]


def _speech_level(wave: np.ndarray) -> float:
    """RMS of the sounding 20 ms frames; of quiet speech (0.03) where nothing sounds."""
    rms = loudness(wave, 320)
    if not rms.size or rms.max() < 1e-4:
        return 0.03
    sounding = rms[rms > 0.1 * rms.max()]
    return float(np.sqrt(np.mean(sounding**2)))


def _coloured(rng: np.random.Generator, length: int) -> np.ndarray:
    """Noise whose power falls as 1 / f^colour (0 white, 1 pink, 2 brown), with a resonance."""
    colour = rng.uniform(0.0, 2.0)
    hz = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    gain = np.maximum(hz, 40.0) ** (-colour / 2)
    centre, width = rng.uniform(150, 4000), rng.uniform(0.3, 1.0)
    bump = np.exp(-((np.log(np.maximum(hz, 1) / centre) / width) ** 2))
    gain *= 1 + rng.uniform(0, 3) * bump
    wave = np.fft.irfft(np.fft.rfft(rng.normal(size=length)) * gain, length)
    swell = 1 + rng.uniform(0, 0.5) * np.sin(
        2 * np.pi * rng.integers(1, 5) * np.arange(length) / length
    )
    return wave * swell


def _hum(rng: np.random.Generator, length: int) -> np.ndarray:
    """Mains or a motor: a few harmonics over a little hiss."""
    time_s = np.arange(length) / SAMPLE_RATE
    hz = rng.choice((50.0, 60.0)) if rng.random() < 0.5 else rng.uniform(70, 190)
    wave = 0.05 * rng.normal(size=length)
    for harmonic in range(1, 16):
        strength = rng.random() / harmonic ** rng.uniform(0.5, 1.5)
        wave += strength * np.sin(2 * np.pi * (hz * harmonic * time_s + rng.random()))
    return wave


def _clicks(rng: np.random.Generator, length: int) -> np.ndarray:
    """Keys, cutlery, drops: short decaying resonances at random times."""
    wave = 0.02 * rng.normal(size=length)
    for start in rng.integers(0, length, int(rng.uniform(2, 7) * length / SAMPLE_RATE)):
        count = int(rng.uniform(0.005, 0.06) * SAMPLE_RATE)
        time_s = np.arange(count) / SAMPLE_RATE
        ring = np.sin(2 * np.pi * rng.uniform(300, 5000) * time_s) + 0.5 * rng.normal(size=count)
        click = rng.uniform(0.2, 1.0) * ring * np.exp(-6 * np.arange(count) / count)
        room_left = min(count, length - int(start))
        wave[start : start + room_left] += click[:room_left]
    return wave


def _tones(rng: np.random.Generator, length: int) -> np.ndarray:
    """Something like music: notes of a scale over chords, with harmonics and a beat."""
    wave = np.zeros(length)
    beat = int(rng.uniform(0.18, 0.5) * SAMPLE_RATE)
    root = rng.uniform(90, 220)
    scale = np.array(
        (0, 2, 4, 7, 9, 12, 14, 16) if rng.random() < 0.5 else (0, 3, 5, 7, 10, 12, 15)
    )
    brightness = rng.uniform(0.3, 0.8)
    for start in range(0, length, beat):
        notes = rng.choice(scale, int(rng.integers(1, 4)), replace=False)
        count = min(int(beat * rng.choice((1, 2, 3))), length - start)
        time_s = np.arange(count) / SAMPLE_RATE
        envelope = np.minimum(1, time_s / 0.01) * np.exp(-time_s * rng.uniform(1, 6))
        for note in notes:
            hz = root * 2 ** (note / 12)
            for harmonic in range(1, 6):
                wave[start : start + count] += (
                    envelope * brightness**harmonic * np.sin(2 * np.pi * hz * harmonic * time_s)
                )
    return wave + 1e-3 * rng.normal(size=length)


def _babble(rng: np.random.Generator, split: str, length: int) -> np.ndarray:
    """Three to five of the split's voices at once, through a room."""
    from data_pipelines.speech import render_user

    wave = np.zeros(length, np.float32)
    for _ in range(int(rng.integers(3, 6))):
        voice = sample_voice(rng, split)
        position = -int(rng.integers(SAMPLE_RATE))
        while position < length:
            said = render_user(str(rng.choice(_BABBLE[split])), voice).wave
            low, high = max(position, 0), min(position + len(said), length)
            if high > low:
                wave[low:high] += said[low - position : high - position]
            position += len(said) + int(rng.uniform(0.1, 0.8) * SAMPLE_RATE)
    return _reverberate(wave, room(split, int(rng.integers(ROOMS)))).astype(np.float64)


_MAKERS = {"coloured": _coloured, "hum": _hum, "clicks": _clicks, "tones": _tones}
