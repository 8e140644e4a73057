"""Writes goldens_audio.npz: mel filters and dMel bins by librosa in float64.

Run from a checkout with the [eval] extra: python tests/media/make_goldens.py
"""

import pathlib

import librosa
import numpy as np


def synthetic_samples() -> np.ndarray:
    """1.5 s at 16 kHz, 16 bits: a gliding voice, noise bursts, a click, digital silence."""
    rng = np.random.default_rng(0)
    time = np.arange(24000) / 16000
    phase = 2 * np.pi * np.cumsum(110 + 60 * time) / 16000
    wave = sum(np.sin(k * phase) / k for k in range(1, 30)) * 0.2 * (np.sin(3 * time) ** 2)
    wave += rng.standard_normal(len(time)) * 0.1 * (np.sin(9 * time) > 0.7)
    wave[15000] = 1.0
    wave[16000:20000] = 0.0
    return np.rint(np.clip(wave, -1, 1) * 32767).astype(np.int16)


def main() -> None:
    samples = synthetic_samples()
    wave = samples / 32768.0
    dmel_filters = librosa.filters.mel(sr=16000, n_fft=1600, n_mels=80, fmin=0, fmax=8000)
    speech_filters = librosa.filters.mel(sr=16000, n_fft=1024, n_mels=80, fmin=0, fmax=8000)
    magnitude = np.abs(
        librosa.stft(
            np.pad(wave, (800, 0)),
            n_fft=1600,
            hop_length=800,
            window="hann",
            center=False,
        )
    )
    filters64 = librosa.filters.mel(
        sr=16000, n_fft=1600, n_mels=80, fmin=0, fmax=8000, dtype=np.float64
    )
    mel = (filters64 @ magnitude).T
    log_mel = np.clip(np.log10(np.maximum(mel, 1e-30)), -7, 2)
    levels = np.linspace(-7, 2, 16)
    bins = np.abs(log_mel[:, :, None] - levels).argmin(axis=-1).astype(np.uint8)
    np.savez_compressed(
        pathlib.Path(__file__).with_name("goldens_audio.npz"),
        samples=samples,
        dmel_filters=dmel_filters.astype(np.float32),
        speech_filters=speech_filters.astype(np.float32),
        bins=bins,
    )


if __name__ == "__main__":
    main()
