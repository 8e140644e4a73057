"""Laws of tmi/media/audio.py. Goldens are librosa's, see make_goldens.py."""

import pathlib
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.media.test_video import write as write_video
from tmi.config import AudioConfig, SpeechConfig
from tmi.media import audio
from tmi.media.soundtrack import read_soundtrack

AUDIO = AudioConfig()
SPEECH = SpeechConfig()


@pytest.fixture(scope="module")
def goldens():
    return np.load(pathlib.Path(__file__).with_name("goldens_audio.npz"))


@pytest.fixture(scope="module")
def dmel():
    return audio.DMel(AUDIO)


def _noise(num_samples: int, seed: int = 0, level: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal(num_samples)).astype(np.float32)


# Mel filters and dMel against librosa.


def test_filters_equal_librosas_golden(goldens):
    dmel_filters = audio.mel_filters(16000, 1600, 80, 0, 8000)
    speech_filters = audio.mel_filters(16000, 1024, 80, 0, 8000)
    np.testing.assert_allclose(dmel_filters, goldens["dmel_filters"], atol=1e-8)
    np.testing.assert_allclose(speech_filters, goldens["speech_filters"], atol=1e-8)


@pytest.mark.parametrize(("rate", "n_fft", "mels", "fmin", "fmax"), [(24000, 960, 64, 50, 11000)])
def test_filters_equal_librosa(rate, n_fft, mels, fmin, fmax):
    librosa = pytest.importorskip("librosa", reason="needs the [eval] extra")
    expected = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=mels, fmin=fmin, fmax=fmax)
    np.testing.assert_allclose(
        audio.mel_filters(rate, n_fft, mels, fmin, fmax), expected, atol=1e-6
    )


def test_filters_refuse_a_range_beyond_nyquist():
    with pytest.raises(ValueError, match="0 <= fmin < fmax <= 8000 Hz"):
        audio.mel_filters(16000, 1024, 80, 0, 9000)


def test_bins_equal_librosas_golden(goldens, dmel):
    bins = dmel.bins(audio.from_int16(goldens["samples"]))
    assert bins.shape == (30, 80) and bins.dtype == np.uint8
    differ = bins != goldens["bins"]
    # float32 against float64: a value at the very border of two levels may fall either way.
    assert differ.mean() <= 1e-3
    assert np.abs(bins.astype(int) - goldens["bins"]).max() <= 1


# Streaming.


@settings(max_examples=60, deadline=None)
@given(
    chunks=st.lists(st.integers(0, 4000), max_size=12),
    seed=st.integers(0, 99),
    level=st.sampled_from([1e-5, 1e-2, 1.0]),
)
def test_chunked_bins_equal_one_shot_to_the_bit(chunks, seed, level):
    dmel = audio.DMel(AUDIO)
    wave = _noise(sum(chunks), seed, level)
    state, outputs, start = dmel.init(), [np.empty((0, 80), np.uint8)], 0
    for size in chunks:
        state, bins = dmel.step(state, wave[start : start + size])
        outputs.append(bins)
        start += size
        assert len(state) < dmel.window  # bounded memory
    np.testing.assert_array_equal(np.concatenate(outputs), dmel.bins(wave))


@settings(max_examples=20, deadline=None)
@given(first=st.integers(0, 40), count=st.integers(0, 40), seed=st.integers(0, 99))
def test_mel_of_a_frame_does_not_depend_on_its_neighbours(first, count, seed):
    analysis = audio.MelAnalysis(16000, 1600, 1600, 80, 0, 8000)
    frames = _noise(80 * 1600, seed).reshape(80, 1600)
    np.testing.assert_array_equal(
        analysis(frames)[first : first + count], analysis(frames[first : first + count])
    )


def test_step_leaves_its_arguments_alone(dmel):
    state, chunk = dmel.init(), _noise(3200)
    before = state.copy(), chunk.copy()
    first = dmel.step(state, chunk)
    again = dmel.step(state, chunk)
    np.testing.assert_array_equal(state, before[0])
    np.testing.assert_array_equal(chunk, before[1])
    np.testing.assert_array_equal(first[1], again[1])


@pytest.mark.parametrize("cut", [0, 799, 800, 3999, 4000])
def test_bins_are_strictly_causal(dmel, cut):
    wave, other = _noise(8000, seed=1), _noise(8000, seed=2)
    other[:cut] = wave[:cut]
    whole = cut // dmel.hop  # frames that ended by then
    np.testing.assert_array_equal(dmel.bins(wave)[:whole], dmel.bins(other)[:whole])
    assert (dmel.bins(wave)[whole:] != dmel.bins(other)[whole:]).any()


# Values.


def test_levels_span_silence_to_full_scale(dmel):
    assert (dmel.bins(np.zeros(3200, np.float32)) == 0).all()
    time = np.arange(16000) / 16000
    tone = np.sin(2 * np.pi * 1000 * time).astype(np.float32)
    loud = dmel.bins(tone)[5]
    # Slaney's filter at 1 kHz is 2 / 75 Hz high: magnitude 400 with its two Hann neighbours.
    assert loud.max() == round((np.log10(400 * 2 / 75 * 1.7) + 7) / 0.6)
    quieter = dmel.bins((tone * 10**-1.2).astype(np.float32))[5]
    assert loud.max() - quieter.max() == 2  # 1.2 decades are two levels of 0.6


def test_other_hops_and_levels():
    config = AudioConfig(window_s=0.05, hop_s=0.02, num_mels=40, num_levels=8)
    bins = audio.DMel(config).bins(_noise(16000))
    assert bins.shape == (50, 40) and bins.max() < 8
    with pytest.raises(ValueError, match="audio.hop_s"):
        audio.DMel(AudioConfig(hop_s=0.2))


def test_bad_waves(dmel):
    with pytest.raises(ValueError, match="from_int16"):
        dmel.bins(np.zeros(3200, np.int16))
    with pytest.raises(ValueError, match="one-dimensional"):
        dmel.bins(np.zeros((2, 3200), np.float32))
    assert dmel.bins(np.zeros(0, np.float32)).shape == (0, 80)
    poisoned = _noise(8000)
    poisoned[2000] = np.nan
    bins = dmel.bins(poisoned)
    clean = dmel.bins(_noise(8000))
    assert (bins[2:4] == 0).all()
    np.testing.assert_array_equal(np.delete(bins, [2, 3], 0), np.delete(clean, [2, 3], 0))


# Speech mel.


def test_speech_frame_j_sees_its_window_only():
    wave = _noise(3200, seed=3)
    mel = audio.speech_mel(wave, SPEECH)
    assert mel.shape == (16, 80) and mel.dtype == np.float32
    changed = wave.copy()
    changed[1000 + 800 :] = 0
    changed[:1000] = 0
    frame = 1000 // SPEECH.hop
    np.testing.assert_array_equal(audio.speech_mel(changed, SPEECH)[frame], mel[frame])
    # Whole patches: a later hop does not move earlier frames.
    assert audio.speech_mel(wave[:3001], SPEECH).shape == (16, 80)
    assert audio.speech_mel(np.zeros(0, np.float32), SPEECH).shape == (0, 80)


def test_speech_mel_is_the_normalised_log_magnitude():
    wave = _noise(4000, seed=4)
    window = audio.hann(SPEECH.window).astype(np.float64)
    spectrum = np.abs(np.fft.rfft(wave[400:1200] * window, SPEECH.n_fft))
    mel = audio.mel_filters(16000, 1024, 80, 0, 8000).astype(np.float64) @ spectrum
    expected = (np.log(np.maximum(mel, SPEECH.floor)) - SPEECH.mean) / SPEECH.std
    np.testing.assert_allclose(audio.speech_mel(wave, SPEECH)[2], expected, atol=1e-4)


def test_silence_is_the_lowest_mel():
    mel = audio.speech_mel(np.zeros(3200, np.float32), SPEECH)
    np.testing.assert_allclose(mel, audio.silent_mel(SPEECH), rtol=1e-6)


# Files.


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_and_channels_load(tmp_path, rate, channels):
    time = np.arange(rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / "a.wav", np.stack([tone] * channels, 1), rate)
    wave = audio.load_wav(tmp_path / "a.wav")
    assert wave.dtype == np.float32 and wave.ndim == 1 and abs(len(wave) - 16000) <= 1
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    np.testing.assert_allclose(wave[2000:14000], expected[2000:14000], atol=2e-3)


def test_nan_and_clipping_are_repaired_and_counted(tmp_path):
    samples = np.full(1600, 0.25, np.float32)
    samples[3:5] = np.nan
    samples[7] = -np.inf
    samples[9] = 3.0
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    recording = audio.read_audio(tmp_path / "a.wav")
    assert (recording.num_nonfinite, recording.num_clipped) == (3, 1)
    np.testing.assert_array_equal(recording.wave[3:10], [0, 0, 0.25, 0.25, 0, 0.25, 1][:7])


def test_bad_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.wav"):
        audio.load_wav(tmp_path / "none.wav")
    empty = tmp_path / "empty.wav"
    empty.write_bytes(b"")
    with pytest.raises(ValueError, match="empty.wav.*0 bytes"):
        audio.load_wav(empty)
    corrupt = tmp_path / "corrupt.wav"
    corrupt.write_bytes(b"RIFF" + bytes(range(200)))
    with pytest.raises(ValueError, match="corrupt.wav.*cannot be decoded"):
        audio.load_wav(corrupt)
    header = tmp_path / "header.wav"
    soundfile.write(header, np.zeros(0, np.float32), 16000)
    with pytest.raises(ValueError, match="header.wav.*no samples"):
        audio.load_wav(header)


def test_truncated_file_gives_what_is_there(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, _noise(16000), 16000)
    path.write_bytes(path.read_bytes()[:20044])
    assert 9000 <= len(audio.load_wav(path)) <= 10000


def write_container(path, codec, form, rate=48_000, start_s=0.0, gap_s=0.0, options=None):
    """A burst of 1 kHz at 0.5 s of sound that starts at `start_s` and has a gap at 1 s."""
    time = np.arange(2 * rate) / rate
    tone = np.where((time >= 0.5) & (time < 0.7), 0.5 * np.sin(2000 * np.pi * time), 0)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        resampler = av.AudioResampler(form, "stereo", rate)
        for at in range(0, len(tone), 960):
            if 1.0 <= at / rate < 1.0 + gap_s:
                continue
            piece = np.stack([tone[at : at + 960]] * 2).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(piece, "fltp", "stereo")
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = at + round(start_s * rate)
            for converted in resampler.resample(frame):
                container.mux(stream.encode(converted))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("name", "codec", "form"),
    [
        ("a.m4a", "aac", "fltp"), ("a.mp4", "aac", "fltp"), ("a.webm", "libopus", "flt"),
        ("a.mkv", "pcm_s16le", "s16"), ("a.mkv", "pcm_u8", "u8"), ("a.ts", "aac", "fltp"),
    ],
)  # fmt: skip
def test_the_sound_of_a_container_is_where_its_clock_says(tmp_path, name, codec, form):
    write_container(tmp_path / name, codec, form)
    wave = audio.load_wav(tmp_path / name)
    assert len(wave) == pytest.approx(32_000, abs=1_500)  # codecs fill up their last frame
    loud = np.flatnonzero(np.abs(wave) > 0.1)
    slack = 0.03 if name == "a.ts" else 0.004  # whose clock begins with the encoder's first packet
    assert loud[0] / 16_000 == pytest.approx(0.5, abs=slack)
    assert (loud[-1] - loud[0]) / 16_000 == pytest.approx(0.2, abs=0.006)
    assert np.abs(wave).max() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("name", "start_s", "gap_s"), [("a.mkv", 0.73, 0.0), ("a.mkv", 0.0, 0.3), ("a.asf", -0.2, 0.0)]
)
def test_late_sound_and_gaps_are_silence(tmp_path, name, start_s, gap_s):
    options = {"avoid_negative_ts": "disabled"}
    write_container(tmp_path / name, "pcm_s16le", "s16", 48_000, start_s, gap_s, options)
    wave, rate = read_soundtrack(tmp_path / name)
    begun = np.flatnonzero(np.abs(wave) > 0.1)[0] / rate
    assert begun == pytest.approx(0.5 + start_s, abs=2e-3)
    assert len(wave) / rate == pytest.approx(2.0 + start_s, abs=2e-3)


def test_a_video_without_sound_is_refused(tmp_path):
    path = write_video(tmp_path / "v.mp4", [0, 100], [10, 20])
    with pytest.raises(ValueError, match=r"v.mp4: cannot be decoded .*no sound, only \['video'\]"):
        audio.load_wav(path)


def test_int16_round_trip():
    samples = np.arange(-32768, 32768, 7).astype(np.int16)
    np.testing.assert_array_equal(audio.to_int16(audio.from_int16(samples)), samples)
    wild = np.array([2.0, -2.0, np.nan, np.inf], np.float32)
    np.testing.assert_array_equal(audio.to_int16(wild), [32767, -32768, 0, 0])


def test_resample_refuses_bad_rates():
    with pytest.raises(ValueError, match="must be positive"):
        audio.resample(_noise(10), 0, 16000)
