"""When each word of an utterance sounds.

espeak-ng and the model's voice tell the times themselves. A recording does not: it is aligned with
synthesised renderings of the same text by dynamic time warping over normalised log-mel frames
(Sakoe and Chiba, 1978), and inherits their word times.
"""

import functools
from collections.abc import Sequence

import numpy as np
import scipy.signal

SAMPLE_RATE = 16000
Word = tuple[str, float, float]  # word, start_s, end_s

_HOP = 160  # 10 ms
_WINDOW = 400  # 25 ms
_MELS = 26


def tokens(text: str) -> list[tuple[str, int]]:
    """The words of a text: [(word without punctuation at its edges, its token's first character)].

    A token of punctuation alone is no word.
    """
    found, position = [], 0
    for token in text.split():
        position = text.index(token, position)
        word = token.strip(".,;:!?\"()[]…-–—'")
        if word:
            found.append((word, position))
        position += len(token)
    return found


def loudness(wave: np.ndarray, frame: int = 80) -> np.ndarray:
    """RMS [N // frame] of consecutive frames, 5 ms each by default."""
    count = len(wave) // frame
    squares = np.square(wave[: count * frame].astype(np.float32)).reshape(count, frame)
    return np.sqrt(squares.mean(axis=1))


def sounding_span(wave: np.ndarray, floor_db: float = -36.0) -> tuple[int, int]:
    """(first, end) samples of the sound in a wave, to 5 ms; (0, 0) if it is silent.

    A frame sounds when it is louder than `floor_db` below the loud frames and well above the wave's
    own noise, so that hiss before the first word does not count.
    """
    rms = loudness(wave)
    if not rms.size or rms.max() < 1e-4:
        return 0, 0
    loud, noise = _quantiles(rms, 0.95, 0.03)
    threshold = max(loud * 10 ** (floor_db / 20), min(2.5 * noise, 0.1 * loud), 5e-5)
    frames = np.flatnonzero(rms > threshold)
    return int(frames[0]) * 80, min((int(frames[-1]) + 1) * 80, len(wave))


def recorded_span(wave: np.ndarray) -> tuple[int, int]:
    """As `sounding_span`, of a recording: hum, steady noise and clicks apart do not count. Between
    the words a recording is as loud as its room, which a synthesiser's output is not.
    """
    if len(wave) < 80:
        return 0, 0
    rms = loudness(np.asarray(scipy.signal.sosfilt(_rumble(), wave - wave.mean())))
    if rms.max() < 2e-5:
        return 0, 0
    loud, low, noise = _quantiles(rms, 0.95, 0.2, 0.03)
    threshold = max(loud * 10 ** (-36 / 20), min(2.5 * noise, 0.1 * loud))
    if low < 2 * noise:  # a fifth of it is alike: noise around and between the words
        threshold = max(threshold, min(2 * low, 0.5 * loud))
    frames = np.flatnonzero(rms > threshold)
    runs = np.split(frames, np.flatnonzero(np.diff(frames) > 50) + 1)  # 250 ms apart
    runs = [r for r in runs if len(r) >= 8] or runs  # what is under 40 ms is a click
    return int(runs[0][0]) * 80, min((int(runs[-1][-1]) + 1) * 80, len(wave))


@functools.cache
def _rumble() -> np.ndarray:
    sections = scipy.signal.butter(2, 80, "highpass", fs=SAMPLE_RATE, output="sos")
    return np.asarray(sections, np.float32)


def _quantiles(values: np.ndarray, *shares: float) -> list[float]:
    """Much faster than np.quantile for arrays this small."""
    ordered = np.sort(values)
    return [float(ordered[int(share * (len(ordered) - 1))]) for share in shares]


def words_from_onsets(
    wave: np.ndarray, names: Sequence[str], onsets_s: Sequence[float]
) -> tuple[Word, ...]:
    """Words with ends: each ends with its last sound before the next one's onset.

    Args:
      wave: [N] at 16 kHz.
      names: the words. onsets_s: their starts, in order, seconds.

    Returns:
      Words with strictly ordered starts, inside the wave.
    """
    duration = len(wave) / SAMPLE_RATE
    rms = loudness(wave)
    quiet = _quantiles(rms, 0.95)[0] * 10 ** (-32 / 20) if rms.size else 0.0
    least = min(0.02, duration / (2 * len(names) + 1)) if names else 0.0
    starts: list[float] = []
    for i, onset in enumerate(onsets_s):
        low = starts[-1] + least if starts else 0.0
        starts.append(float(min(max(onset, low), duration - least * (len(names) - i))))
    words = []
    for i, name in enumerate(names):
        start = starts[i]
        end = starts[i + 1] if i + 1 < len(names) else duration
        inside = rms[int(start * 200) : int(np.ceil(end * 200))]
        sounding = np.flatnonzero(inside > quiet)
        if sounding.size:
            last = (int(start * 200) + int(sounding[-1]) + 1) / 200
            end = min(end, max(last, start + least))
        words.append((name, start, float(end)))
    return tuple(words)


def align(
    wave: np.ndarray, references: Sequence[tuple[np.ndarray, Sequence[Word]]]
) -> tuple[Word, ...]:
    """Finds the words of a recording by renderings of the same text whose word times are known.

    Args:
      wave: [N] at 16 kHz, trimmed to its sound.
      references: (wave, words) of one or more renderings, trimmed alike; the one that fits best
        gives the times.

    Returns:
      The reference's words with the recording's times.

    Raises:
      ValueError: no reference, or one without sound.
    """
    if not references:
        raise ValueError("align needs at least one rendering of the text")
    target = _features(wave)
    best_cost, onsets, names = np.inf, [], []
    for reference, words in references:
        cost, path = _warp(_features(reference), target)
        if cost < best_cost:
            at_reference, at_target = path
            best_cost, names = cost, [word for word, _, _ in words]
            onsets = [
                float(np.interp(start * SAMPLE_RATE / _HOP, at_reference, at_target))
                for _, start, _ in words
            ]
    return words_from_onsets(wave, names, [frame * _HOP / SAMPLE_RATE for frame in onsets])


@functools.cache
def _mel_filters() -> np.ndarray:
    """Triangles [_WINDOW bins, _MELS] between 100 and 7000 Hz, evenly spaced in mels (HTK's)."""
    mel = lambda hz: 2595 * np.log10(1 + hz / 700)  # noqa: E731
    edges = 700 * (10 ** (np.linspace(mel(100), mel(7000), _MELS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(512, 1 / SAMPLE_RATE)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    return np.maximum(0, np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)))


def _features(wave: np.ndarray) -> np.ndarray:
    """Log-mels and their slopes [frames, 2 * _MELS], each bin normalised over the utterance."""
    if len(wave) < _WINDOW:
        wave = np.pad(wave, (0, _WINDOW - len(wave)))
    padded = np.pad(wave, _WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(_WINDOW), 512)) ** 2
    mels = power @ _mel_filters()
    logs = np.log(mels + 1e-4 * np.percentile(mels, 95) + 1e-12)
    logs = (logs - logs.mean(axis=0)) / (logs.std() + 1e-6)
    slopes = np.gradient(logs, axis=0) if len(logs) > 1 else np.zeros_like(logs)
    return np.concatenate([logs, 2.0 * slopes], axis=1).astype(np.float32)


def _warp(a: np.ndarray, b: np.ndarray) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
    """Dynamic time warping, one anti-diagonal of the table at a time.

    Returns:
      (mean distance along the best path, (frames of a, mean frame of b at each)), a's ascending.
    """
    distance = np.sqrt(np.maximum(0, (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T))
    rows, columns = distance.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    # A step along one axis alone costs a little more, so that silence does not swallow a word.
    side = 1.15
    for diagonal in range(rows + columns - 1):
        i = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        j = diagonal - i
        d = distance[i, j]
        total[i + 1, j + 1] = np.minimum(
            total[i, j] + 1.4 * d, side * d + np.minimum(total[i, j + 1], total[i + 1, j])
        )
    i, j = rows, columns
    sums, counts = np.zeros(rows), np.zeros(rows)
    steps = 0
    while i > 0 and j > 0:
        sums[i - 1] += j - 1
        counts[i - 1] += 1
        steps += 1
        choice = int(np.argmin((total[i - 1, j - 1], total[i - 1, j], total[i, j - 1])))
        i, j = (i - 1, j - 1) if choice == 0 else (i - 1, j) if choice == 1 else (i, j - 1)
    hit = np.flatnonzero(counts)
    return float(total[rows, columns] / (rows + columns)), (hit, sums[hit] / counts[hit])
