"""Waveform stage: speech mel to samples, streaming, with nothing trained.

A patch of mel frames is inverted to linear magnitudes. The phases start from what the frames
before already put into their windows (RTISI-LA: Zhu, Beauregard & Wyse 2007); Griffin-Lim
iterations over the whole patch (Griffin & Lim 1984, with the momentum of Perraudin et al. 2013)
then refine them, while the samples that are out stay as they are. The last `look_ahead` frames of
a call wait for the next one, so that no frame is output without having heard of its future.

B slots, T frames of a call, A look-ahead frames, C mel bins, F FFT bins, N samples.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tmi.config import SpeechConfig
from tmi.config_rules import validate_waveform
from tmi.media import audio

# Measured on analysis-synthesis, see docs/LOG.md; none of them is critical.
_MOMENTUM = 0.9
_INVERSION_ITERS = 8
# An impulse in the middle of a frame that has no past: gives it a linear phase, so that its sound
# starts in the middle of its window. Zero phase would put it where the window is zero.
_IMPULSE = 1e-3


class VocoderState(NamedTuple):
    """What a stream carries from call to call; zeros, as `init` gives, are a fresh stream."""

    # Overlap-added frames that are out, over the samples that are not.
    tail: Float[Array, "B window-hop"]
    # The frames that wait: their magnitudes and the present guess of their windowed samples.
    magnitude: Float[Array, "B A F"]
    frames: Float[Array, "B A window"]


def delay_samples(config: SpeechConfig) -> int:
    """Samples by which the wave lags the mel: frame j's hop starts look_ahead hops after hop j."""
    return config.look_ahead * config.hop


def init(config: SpeechConfig, batch: int = 1) -> VocoderState:
    """The state of `batch` streams that have said nothing. Raises ConfigError if none can speak."""
    validate_waveform(config)
    return VocoderState(
        jnp.zeros((batch, config.window - config.hop)),
        jnp.zeros((batch, config.look_ahead, config.n_fft // 2 + 1)),
        jnp.zeros((batch, config.look_ahead, config.window)),
    )


def step(
    config: SpeechConfig, state: VocoderState, mel: Float[Array, "B T C"]
) -> tuple[VocoderState, Float[Array, "B N"]]:
    """Sound of T more frames of normalised mel (`audio.SpeechMel`): N = T hop samples in [-1, 1].

    Jittable with `config` static; any T >= 1, slots do not influence each other.
    """
    num_new = mel.shape[1]
    magnitude = jnp.concatenate([state.magnitude, linear_magnitude(config, mel)], axis=1)
    frames = _seed(config, state, magnitude[:, config.look_ahead :])
    frames = _refine(config, state.tail, magnitude, frames)
    hop, total = config.hop, magnitude.shape[1]
    done = _overlap_add(frames[:, :num_new], hop)
    done = done + _pad_end(state.tail, done.shape[1])
    wave = done[:, : num_new * hop] / np.float32(np.sum(_window(config) ** 2) / hop)
    waiting = slice(num_new, total)
    state = VocoderState(done[:, num_new * hop :], magnitude[:, waiting], frames[:, waiting])
    return state, jnp.clip(wave, -1, 1)


def linear_magnitude(config: SpeechConfig, mel: Float[Array, "*B C"]) -> Float[Array, "*B F"]:
    """Magnitudes of the FFT bins that explain normalised mel, non-negative.

    Multiplicative updates for non-negative least squares (Lee & Seung 2001) from the clipped
    pseudo-inverse. The power of the floor is subtracted, so that a silent mel gives silence. NaN
    counts as silent, and no bin is louder than full scale allows: a bad frame stays one bad frame.
    """
    filters, inverse = _filters(config)
    loudest = np.log(np.sum(_window(config)) * np.max(np.sum(filters, axis=1)))
    log_mel = jnp.nan_to_num(mel * config.std + config.mean, nan=-np.inf, posinf=np.inf)
    amplitude = jnp.exp(jnp.minimum(log_mel, loudest))
    amplitude = jnp.sqrt(jnp.maximum(amplitude**2 - config.floor**2, 0))
    magnitude = jnp.maximum(amplitude @ inverse, 1e-5)
    wanted = amplitude @ filters
    for _ in range(_INVERSION_ITERS):
        explained = (magnitude @ filters.T) @ filters
        magnitude = magnitude * wanted / (explained + 1e-12)
    return magnitude


def vocode(config: SpeechConfig, mel: np.ndarray, chunk: int | None = None) -> np.ndarray:
    """A whole utterance: normalised mel [T, C] to float32 [T hop], the delay taken off.

    Runs the streaming `step` on `chunk` frames at a time (by default a patch).
    """
    mel = np.asarray(mel, np.float32)
    if mel.ndim != 2 or mel.shape[1] != config.num_mels:
        raise ValueError(f"mel must be [T, {config.num_mels}], got {list(mel.shape)}")
    chunk = chunk or config.frames_per_position
    num_steps = -(-(len(mel) + config.look_ahead) // chunk)
    padding = num_steps * chunk - len(mel)
    mel = np.pad(mel, ((0, padding), (0, 0)), constant_values=audio.silent_mel(config))
    wave = np.asarray(_scan(config, mel.reshape(num_steps, 1, chunk, config.num_mels)))
    delay = delay_samples(config)
    return wave[delay : delay + (num_steps * chunk - padding) * config.hop]


@functools.partial(jax.jit, static_argnums=0)
def _scan(config: SpeechConfig, mels: Float[Array, "steps 1 T C"]) -> Float[Array, " N"]:
    _, waves = jax.lax.scan(functools.partial(step, config), init(config), mels)
    return waves.reshape(-1)


# The parts of a step. A `frame` is windowed on its way out too, ready to be overlap-added.


def _seed(
    config: SpeechConfig, state: VocoderState, new: Float[Array, "B T F"]
) -> Float[Array, "B A+T window"]:
    """The waiting frames and a first guess of the new ones, each from the frames before it."""
    hop, window = config.hop, config.window
    # Divided by the squared windows it went through, what is there of a frame counts in full.
    norm = np.maximum(_squared_windows(config, first=-window // hop + 1, last=-1)[:window], 0.1)
    impulse = np.zeros(window, np.float32)
    impulse[window // 2] = _IMPULSE

    def guess(tail, magnitude):
        past = _pad_end(tail, window)
        frame = _impose(config, magnitude, past / norm + impulse)
        return (past + frame)[:, hop:], frame

    tail = state.tail
    for waiting in range(config.look_ahead):
        tail = (_pad_end(tail, window) + state.frames[:, waiting])[:, hop:]
    _, frames = jax.lax.scan(guess, tail, new.swapaxes(0, 1))
    return jnp.concatenate([state.frames, frames.swapaxes(0, 1)], axis=1)


def _refine(
    config: SpeechConfig,
    tail: Float[Array, "B window-hop"],
    magnitude: Float[Array, "B A+T F"],
    frames: Float[Array, "B A+T window"],
) -> Float[Array, "B A+T window"]:
    """Griffin-Lim over the frames, `tail` being fixed."""
    num_frames = magnitude.shape[1]
    hop, window = config.hop, config.window
    norm = _squared_windows(config, first=-window // hop + 1, last=num_frames - 1)
    norm = np.maximum(norm, 0.01)  # the last samples see the feet of one window only
    fixed = _pad_end(tail, len(norm))

    def iterate(carry, _):
        frames, before = carry
        signal = (_overlap_add(frames, hop) + fixed) / norm
        projected = _impose(config, magnitude, _cut(signal, num_frames, hop, window))
        return (projected + _MOMENTUM * (projected - before), projected), None

    carry = frames, frames
    (_, frames), _ = jax.lax.scan(iterate, carry, length=config.griffin_lim_iters)
    return frames


def _impose(
    config: SpeechConfig, magnitude: Float[Array, "*B F"], samples: Float[Array, "*B window"]
) -> Float[Array, "*B window"]:
    """Windows, keeps the phases, takes `magnitude`, windows again."""
    window = _window(config)
    spectrum = jnp.fft.rfft(samples * window, config.n_fft)
    power = spectrum.real**2 + spectrum.imag**2
    spectrum = spectrum * (magnitude * jax.lax.rsqrt(power + 1e-20))
    return jnp.fft.irfft(spectrum, config.n_fft)[..., : config.window] * window


def _overlap_add(frames: Float[Array, "B T window"], hop: int) -> Float[Array, "B N"]:
    batch, num_frames, window = frames.shape
    overlap = window // hop
    parts = frames.reshape(batch, num_frames, overlap, hop)
    total = jnp.zeros((batch, num_frames + overlap - 1, hop))
    for k in range(overlap):
        total += jnp.pad(parts[:, :, k], ((0, 0), (k, overlap - 1 - k), (0, 0)))
    return total.reshape(batch, -1)


def _cut(
    signal: Float[Array, "B N"], num_frames: int, hop: int, window: int
) -> Float[Array, "B T window"]:
    hops = signal.reshape(signal.shape[0], -1, hop)
    return jnp.concatenate([hops[:, k : k + num_frames] for k in range(window // hop)], axis=2)


def _pad_end(samples: Float[Array, "B n"], length: int) -> Float[Array, "B length"]:
    return jnp.pad(samples, ((0, 0), (0, length - samples.shape[1])))


# Constants of a config.


@functools.lru_cache(maxsize=8)
def _filters(config: SpeechConfig) -> tuple[np.ndarray, np.ndarray]:
    """Mel filters and the transposed pseudo-inverse, float32 [C, F] each."""
    filters = audio.mel_filters(
        config.sample_rate, config.n_fft, config.num_mels, config.fmin, config.fmax
    )
    return filters, np.linalg.pinv(filters.astype(np.float64)).T.astype(np.float32)


def _window(config: SpeechConfig) -> np.ndarray:
    return audio.hann(config.window)


def _squared_windows(config: SpeechConfig, first: int, last: int) -> np.ndarray:
    """Sum of the squared windows of frames first..last at the samples from 0 on, float32."""
    hop, window = config.hop, config.window
    total = np.zeros((max(last, 0) + window // hop) * hop, np.float32)
    for frame in range(first, last + 1):
        start = frame * hop
        inside = max(0, -start)
        total[start + inside : start + window] += _window(config)[inside:] ** 2
    return total
