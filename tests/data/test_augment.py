"""Variation keeps length and timing, and depends on the generator alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.signal

from tests.data.sessions import RATE
from tmi.data import augment as variation
from tmi.data.augment import (
    LEVEL_DB,
    augment,
    coloured_noise,
    speech_level,
    warp,
)
from tmi.media.audio import mel_edges


def burst() -> np.ndarray:
    """A second of silence, half a second of tone, a second and a half of silence."""
    wave = np.zeros(3 * RATE, np.float32)
    t = np.arange(RATE // 2) / RATE
    wave[RATE : RATE + RATE // 2] = 0.2 * np.sin(2 * np.pi * 500 * t)
    return wave


@pytest.mark.parametrize("seed", range(20))
def test_length_range_and_onset_are_kept(seed):
    wave = burst()
    out = augment(wave, np.random.default_rng(seed), RATE)
    assert out.shape == wave.shape and out.dtype == np.float32
    assert np.isfinite(out).all() and np.abs(out).max() <= 1
    power = (out**2).reshape(-1, 80).mean(1)  # of 5 ms
    onset = int(np.argmax(power > power.max() / 4)) * 80
    assert abs(onset - RATE) <= 160


def test_the_generator_decides_everything():
    wave = burst()
    a, b, c = (augment(wave, np.random.default_rng(s), RATE) for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_the_input_is_not_written_to():
    wave = burst()
    before = wave.copy()
    augment(wave, np.random.default_rng(3), RATE)
    np.testing.assert_array_equal(wave, before)


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_noise_has_unit_power_and_its_colour(slope):
    noise = coloured_noise(4 * RATE, np.random.default_rng(0), slope)
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(1, rel=1e-3)
    power = np.abs(np.fft.rfft(noise)) ** 2
    low, high = (power[f * 4 : f * 8].mean() for f in (500, 4000))  # an octave each
    assert np.log2(low / high) / 3 == pytest.approx(slope, abs=0.1)


def test_level_stays_within_its_bounds(monkeypatch):
    monkeypatch.setattr(variation, "EQUALISER_SHARE", 0.0)
    wave = burst()
    change = [
        20 * np.log10(speech_level(augment(wave, np.random.default_rng(s), RATE), RATE) / 0.1414)
        for s in range(40)
    ]
    assert -LEVEL_DB - 1 < min(change) < -2 and 2 < max(change) < LEVEL_DB + 1


@pytest.mark.parametrize("seed", range(5))
def test_the_equaliser_bends_the_spectrum_within_its_bounds(seed):
    wave = np.zeros(RATE, np.float32)
    wave[100] = 1.0
    out = variation._equalise(wave, np.random.default_rng(seed), RATE)
    gain = 20 * np.log10(np.abs(np.fft.rfft(out))[:-1])
    most = variation.EQUALISER_DB * variation.EQUALISER_PEAKS + max(map(abs, variation.TILT_DB))
    assert np.abs(gain).max() <= most and np.ptp(gain) > 3
    assert (np.abs(np.diff(gain)) < 0.5).all()  # broad: a hertz from another hardly differs


def test_silence_and_nothing_are_fine():
    for n in (0, 1, 100, RATE):
        out = augment(np.zeros(n, np.float32), np.random.default_rng(0), RATE)
        assert out.shape == (n,) and np.isfinite(out).all()


@pytest.mark.parametrize("seed", range(10))
def test_a_warp_moves_a_formant_along_the_channels_and_nothing_in_time(seed):
    bins = np.zeros((20, 80), np.uint8)
    bins[5:9, 30:34] = 12
    out = warp(bins, np.random.default_rng(seed))
    assert out.dtype == np.uint8 and out.shape == bins.shape and out.max() <= 12
    assert (out[:5] == 0).all() and (out[9:] == 0).all()
    heard = np.flatnonzero(out[6])
    assert len(heard) and abs(heard.mean() - 31.5) <= (math.exp(variation.MAX_WARP) - 1) * 31.5 + 1


class Most:
    """A generator that draws the upper bound."""

    def uniform(self, low, high):
        return high


@pytest.mark.parametrize("hz", [500, 1500, 3500])
def test_a_warp_moves_all_frequencies_by_one_factor(hz, monkeypatch):
    monkeypatch.setattr(variation, "MAX_BEND", 0.0)
    centres = mel_edges(80, 0.0, RATE / 2)[1:-1]
    bins = np.zeros((1, 80), np.uint8)
    at = np.abs(centres - hz).argmin()
    bins[0, at] = 15
    (out,) = warp(bins, Most())
    want = np.abs(centres - centres[at] / math.exp(variation.MAX_WARP)).argmin()
    assert abs(int(out.argmax()) - want) <= 1 < abs(int(at) - want)


def test_a_tilt_is_low_below_and_high_above():
    wave = np.zeros(RATE, np.float32)
    wave[0] = 1.0
    section = np.array([variation._shelf(700.0, -12.0, RATE)])
    gain = 20 * np.log10(np.abs(np.fft.rfft(scipy.signal.sosfilt(section, wave))))
    assert gain[20] == pytest.approx(0, abs=0.2) and gain[7500] == pytest.approx(-12, abs=0.2)
    assert gain[700] == pytest.approx(-6, abs=0.2) and (np.diff(gain) < 1e-6).all()


def test_masks_are_few_small_holes_in_every_other_session():
    bins = np.full((300, 80), 7, np.uint8)
    masked = [variation.mask(bins, np.random.default_rng(seed)) for seed in range(60)]
    touched = [m for m in masked if (m != bins).any()]
    assert 15 < len(touched) < 45 and (bins == 7).all()
    for m in touched:
        assert set(np.unique(m)) == {0, 7}
        whole = (m == 0).all(axis=1)
        assert whole.mean() < 0.1 and (m == 0).mean() < 0.25
        # What is masked beside whole frames is one band of channels in a stretch.
        for start in range(0, 300, variation.MASK_FRAMES):
            stretch = m[start : start + variation.MASK_FRAMES]
            band = np.flatnonzero((stretch[~whole[start : start + len(stretch)]] == 0).all(axis=0))
            assert len(band) <= 80 // variation.MASK_CHANNELS_OF
            assert not len(band) or band[-1] - band[0] == len(band) - 1
