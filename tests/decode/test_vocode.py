"""Laws of the waveform stage: silence, level, alignment, streams that do not mix."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tmi.config import SpeechConfig
from tmi.decode import vocode
from tmi.media import audio

SPEECH = SpeechConfig()
STEP = jax.jit(vocode.step, static_argnums=0)


def _voice(seconds: float = 1.0) -> np.ndarray:
    """A gliding buzz with pauses: voiced speech, more or less."""
    time = np.arange(round(seconds * 16000)) / 16000
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(4 * time)) / 16000
    harmonics = sum(np.sin(k * phase) / k for k in range(1, 20))
    return (0.15 * harmonics * (np.sin(12 * time) > -0.3)).astype(np.float32)


def _stream(mel: np.ndarray, chunk: int, config: SpeechConfig = SPEECH) -> np.ndarray:
    state, waves = vocode.init(config), []
    for start in range(0, len(mel), chunk):
        state, wave = STEP(config, state, mel[None, start : start + chunk])
        waves.append(np.asarray(wave[0]))
    return np.concatenate(waves)


def _loudness_db(wave: np.ndarray) -> float:
    return 10 * np.log10(np.mean(np.square(wave, dtype=np.float64)) + 1e-30)


def _log_mel_error(config: SpeechConfig, wave: np.ndarray, mel: np.ndarray) -> float:
    """Mean distance of the natural log mels, in nepers."""
    return float(np.abs(audio.speech_mel(wave, config) - mel).mean() * config.std)


def test_mel_to_wave_to_mel_comes_back():
    mel = audio.speech_mel(_voice(), SPEECH)
    wave = vocode.vocode(SPEECH, mel)
    assert wave.shape == (len(mel) * SPEECH.hop,) and wave.dtype == np.float32
    assert _log_mel_error(SPEECH, wave, mel) < 0.25
    assert abs(_loudness_db(wave) - _loudness_db(_voice())) < 1


def test_silent_mel_is_silent():
    mel = np.full((64, SPEECH.num_mels), audio.silent_mel(SPEECH), np.float32)
    assert not vocode.vocode(SPEECH, mel).any()
    noise = 0.1 * np.random.default_rng(0).standard_normal(mel.shape).astype(np.float32)
    assert _loudness_db(vocode.vocode(SPEECH, mel + noise)) < -60


def test_a_silent_patch_leaves_zeros():
    """So the decoder need not compute what follows (tmi/decode/step.py)."""
    patch = SPEECH.frames_per_position
    silent = np.full((1, patch, SPEECH.num_mels), audio.silent_mel(SPEECH), np.float32)
    state, _ = STEP(SPEECH, vocode.init(SPEECH), audio.speech_mel(_voice(), SPEECH)[None, :patch])
    assert all(np.any(x) for x in state)
    state, _ = STEP(SPEECH, state, silent)
    assert not any(np.any(x) for x in state)
    state, wave = STEP(SPEECH, state, silent)
    assert not any(np.any(x) for x in (*state, wave))


@pytest.mark.parametrize("look_ahead", [0, 1, 3])
def test_delay_is_look_ahead_hops(look_ahead):
    config = dataclasses.replace(SPEECH, look_ahead=look_ahead)
    wave = np.zeros(16000, np.float32)
    wave[8000:12000] = _voice()[:4000]
    streamed = _stream(audio.speech_mel(wave, config), 16, config)
    delay = vocode.delay_samples(config)
    assert delay == look_ahead * config.hop

    def onset(samples):
        return np.argmax(np.abs(samples) > 0.1 * np.abs(samples).max())

    assert abs(onset(streamed) - delay - onset(wave)) < config.hop
    assert not streamed[: 8000 - config.window].any()


@pytest.mark.parametrize("chunk", [1, 4, 8, 40, 80])
def test_any_chunk_gives_the_same_sound(chunk):
    """Not the same samples: a call refines its frames together. The same mel, to a small error."""
    mel = audio.speech_mel(_voice(), SPEECH)
    wave = vocode.vocode(SPEECH, mel, chunk)
    assert wave.shape == (len(mel) * SPEECH.hop,)
    assert _log_mel_error(SPEECH, wave, mel) < 0.3


def test_vocode_is_the_stream_without_its_delay():
    mel = audio.speech_mel(_voice(), SPEECH)
    silence = np.full((16, SPEECH.num_mels), audio.silent_mel(SPEECH), np.float32)
    streamed = _stream(np.concatenate([mel, silence]), 16)[vocode.delay_samples(SPEECH) :]
    whole = vocode.vocode(SPEECH, mel)
    np.testing.assert_allclose(whole, streamed[: len(whole)], atol=2e-3)
    assert vocode.vocode(SPEECH, mel[:0]).shape == (0,)


def test_slots_do_not_influence_each_other():
    mels = np.stack([audio.speech_mel(_voice(), SPEECH)[k : k + 16] for k in (0, 20, 40)])
    _, together = STEP(SPEECH, vocode.init(SPEECH, 3), mels)
    others = mels.copy()
    others[1:] = 3.0
    _, first = STEP(SPEECH, vocode.init(SPEECH, 3), others)
    np.testing.assert_array_equal(first[0], together[0])
    for slot, mel in enumerate(mels):
        _, alone = STEP(SPEECH, vocode.init(SPEECH), mel[None])
        np.testing.assert_allclose(alone[0], together[slot], atol=2e-3)


def test_state_keeps_its_shape_and_zeros_are_a_fresh_stream():
    fresh = vocode.init(SPEECH, 2)
    assert not any(leaf.any() for leaf in fresh)
    state, wave = STEP(SPEECH, fresh, jnp.zeros((2, 16, SPEECH.num_mels)))
    assert wave.shape == (2, 3200)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, fresh)


def test_a_bad_frame_passes():
    """NaN or absurd mel is heard for a moment; the stream goes on as if it had not been."""
    mel = audio.speech_mel(_voice(2.0), SPEECH)
    bad = mel.copy()
    bad[20] = np.nan
    bad[21] = np.inf
    bad[22] = -np.inf
    bad[23] = 1e9
    wave = vocode.vocode(SPEECH, bad)
    assert np.isfinite(wave).all() and np.abs(wave).max() <= 1
    rest = slice(48 * SPEECH.hop, None)
    assert abs(_loudness_db(wave[rest]) - _loudness_db(_voice(2.0)[rest])) < 1


def test_linear_magnitude_explains_the_mel():
    mel = audio.speech_mel(_voice(), SPEECH)
    magnitude = np.asarray(vocode.linear_magnitude(SPEECH, mel))
    assert magnitude.shape == (80, 513) and (magnitude >= 0).all()
    filters = audio.mel_filters(16000, 1024, 80, 0, 8000)
    explained = magnitude @ filters.T
    amplitude = np.exp(mel * SPEECH.std + SPEECH.mean)
    loud = amplitude > 10 * SPEECH.floor
    assert np.median(np.abs(explained / amplitude - 1)[loud]) < 0.03


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hop": 300}, "speech.window=800 .* multiple of speech.hop=300"),
        ({"n_fft": 512}, "speech.window=800 .* at most speech.n_fft=512"),
        ({"look_ahead": -1}, "speech.look_ahead"),
    ],
)
def test_impossible_configs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        vocode.init(dataclasses.replace(SPEECH, **change))


def test_wrong_mel_shape_is_refused():
    with pytest.raises(ValueError, match=r"\[T, 80\]"):
        vocode.vocode(SPEECH, np.zeros((80, 16), np.float32))
