"""Files decode at their true times, damage is named, the frame clock streams as it runs at once."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmi.config import VideoConfig
from tmi.media import video

CONFIG = VideoConfig(patch=4, rows=1, cols=1)


def grey(level: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def write(path, times_ms, levels, *, codec="mpeg4", size=(48, 64), options=None, **stream_options):
    """Authors a file whose frame at times_ms[i] is a flat grey of levels[i]."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=1000, options={"bf": "0"})
        stream.height, stream.width = size
        stream.pix_fmt = stream_options.get("pix_fmt", "yuv420p")
        stream.bit_rate = 2_000_000
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.gop_size = stream_options.get("gop", 1)
        for ms, level in zip(times_ms, levels, strict=True):
            frame = av.VideoFrame.from_ndarray(grey(level, *size), format="rgb24")
            frame.pts, frame.time_base = ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def check(path, times_s, levels, tolerance_s=0.0011):
    report = video.ReadReport()
    got = list(video.read_frames(path, report))
    assert report.errors == []
    np.testing.assert_allclose([t for t, _ in got], times_s, atol=tolerance_s)
    means = [frame.mean() for _, frame in got]
    np.testing.assert_allclose(means, levels, atol=4)  # lossy codec, same picture
    assert report.frames == len(times_s)


# 40..200 in steps that no two frames share, at irregular times
TIMES_MS = [0, 40, 170, 200, 205, 390, 620, 980]
LEVELS = [40, 60, 80, 100, 120, 140, 160, 200]


@pytest.mark.parametrize("container", ["mkv", "mp4", "mov", "avi", "ts"])
def test_times_of_a_variable_rate_file(tmp_path, container):
    times = list(range(0, 800, 100)) if container == "avi" else TIMES_MS  # avi has no times
    path = write(tmp_path / f"v.{container}", times, LEVELS)
    check(path, np.array(times) / 1000, LEVELS)


@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_a_late_start_stays_late(tmp_path, container):
    times = np.array(TIMES_MS) + 730
    path = write(tmp_path / f"late.{container}", times.tolist(), LEVELS)
    check(path, times / 1000, LEVELS)


def test_mpegts_starts_at_zero(tmp_path):
    """MPEG-TS clocks begin anywhere: only times relative to the first sample mean something."""
    path = write(tmp_path / "late.ts", [t + 5000 for t in TIMES_MS], LEVELS)
    check(path, np.array(TIMES_MS) / 1000, LEVELS)


def test_negative_times_are_kept(tmp_path):
    times = np.array(TIMES_MS) - 300
    path = write(
        tmp_path / "neg.asf", times.tolist(), LEVELS, options={"avoid_negative_ts": "disabled"}
    )
    check(path, times / 1000, LEVELS)


def test_an_edit_list_cuts_the_lead(tmp_path):
    """In mp4 negative times become an edit list: what lies before it is not shown."""
    times = np.array(TIMES_MS) - 170
    path = write(
        tmp_path / "edit.mp4", times.tolist(), LEVELS, options={"avoid_negative_ts": "disabled"}
    )
    got = [(t, f.mean()) for t, f in video.read_frames(path)]
    shown = times >= 0
    np.testing.assert_allclose([t for t, _ in got if t >= 0], times[shown] / 1000, atol=0.0011)
    levels = [level for t, level in got if t >= 0]
    np.testing.assert_allclose(levels, np.array(LEVELS)[shown], atol=4)


@pytest.mark.parametrize("cut", [0.35, 0.6, 0.9])
def test_a_truncated_file_yields_its_beginning(tmp_path, cut):
    times = list(range(0, 3000, 100))
    levels = [40 + 5 * i for i in range(30)]
    whole = write(tmp_path / "whole.mkv", times, levels, size=(96, 128)).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: int(len(whole) * cut)])
    report = video.ReadReport()
    got = list(video.read_frames(tmp_path / "cut.mkv", report))
    assert 0 < len(got) < 30
    for time_s, frame in got:
        assert frame.mean() == pytest.approx(40 + 50 * time_s, abs=4)


def test_damage_in_the_middle_is_counted_and_named(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "noise.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuvj420p"
        for i in range(20):
            pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    starts = [i for i in range(len(data)) if data[i : i + 3] == b"\xff\xd8\xff"]
    for start in starts[5:8]:
        data[start : start + 900] = bytes(900)  # tables and headers, too
    path.write_bytes(bytes(data))
    report = video.ReadReport()
    times = [t for t, _ in video.read_frames(path, report)]
    assert report.frames == len(times) and set(times) >= {0.0, 0.4, 1.5}
    assert report.num_errors >= 1 and "noise.mkv" in report.errors[0]


def test_what_is_no_video(tmp_path):
    (tmp_path / "text.mp4").write_text("this is no video" * 50)
    report = video.ReadReport()
    assert list(video.read_frames(tmp_path / "text.mp4", report)) == []
    assert report.num_errors == 1 and "text.mp4" in report.errors[0]
    (tmp_path / "empty.mkv").write_bytes(b"")
    assert list(video.read_frames(tmp_path / "empty.mkv")) == []  # logged
    with pytest.raises(FileNotFoundError, match="gone.mp4"):
        video.read_frames(tmp_path / "gone.mp4")
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), "s16", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
    with pytest.raises(ValueError, match=r"no video stream, only \['audio'\]"):
        list(video.read_frames(tmp_path / "sound.wav"))


# ---------------------------------------------------------------- images


def encode(pixels: np.ndarray, codec: str) -> bytes:
    context = av.CodecContext.create(codec, "w")
    context.height, context.width = pixels.shape[:2]
    context.pix_fmt = "yuvj444p" if codec == "mjpeg" else "rgb24"
    context.time_base = Fraction(1, 10)
    if codec == "mjpeg":
        context.qmin = context.qmax = 1
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=context.pix_fmt)
    frame.pts = 0
    return b"".join(bytes(p) for p in [*context.encode(frame), *context.encode(None)])


def ramp(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * y // height, 255 * x // width, (x + y) * 3 % 256], 2).astype(np.uint8)


@pytest.mark.parametrize("size", [(80, 80), (1, 1), (37, 53), (5, 200)])
def test_png_is_exact_at_any_size(size):
    np.testing.assert_array_equal(video.decode_image(encode(ramp(*size), "png")), ramp(*size))


def test_jpeg_is_close():
    pixels = video.fit(ramp(320, 320), 80, 80)
    pixels[..., 2] = 128
    error = video.decode_image(encode(pixels, "mjpeg")).astype(int) - pixels
    assert np.abs(error).mean() < 3


@pytest.mark.parametrize("codec", ["png", "mjpeg"])
def test_damaged_images_are_named(codec):
    data = encode(ramp(80, 80), codec)
    for bad in (data[: len(data) // 2], data[:20], data[:3]):
        with pytest.raises(video.ImageError):
            video.decode_image(bad)
    with pytest.raises(video.ImageError, match="not a JPEG or PNG"):
        video.decode_image(b"GIF89a" + data)
    assert video.decode_image(data).shape == (80, 80, 3)  # the decoder has survived


# ---------------------------------------------------------------- sizes


def test_fit_averages_areas_exactly():
    pixels = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    mean = pixels.reshape(40, 2, 60, 2, 3).mean((1, 3))
    np.testing.assert_array_equal(video.fit(pixels, 40, 60), np.rint(mean))
    assert video.fit(pixels, 80, 120) is pixels


@given(h=st.integers(1, 150), w=st.integers(1, 150), level=st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_fit_keeps_aspect_and_level(h, w, level):
    out = video.fit(grey(level, h, w), 40, 40)
    assert out.shape == (40, 40, 3) and out.dtype == np.uint8
    new_h, new_w = max(1, round(h * min(40 / h, 40 / w))), max(1, round(w * min(40 / h, 40 / w)))
    assert (out == level).all(2).sum() >= new_h * new_w
    if level != video.GREY:
        assert (out == video.GREY).all(2).sum() == 1600 - new_h * new_w


def test_fit_wants_pictures():
    for bad in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            video.fit(bad, 40, 40)


# ---------------------------------------------------------------- the frame clock

SLICES = [(0.2 * m, 0.2 * (m + 1)) for m in range(12)]


def level_of(pair):
    return None if pair is None else [int(frame[0, 0, 0]) for frame in pair]


def test_the_last_two_one_doubled_or_none():
    frames = [(0.0, grey(1)), (0.05, grey(2)), (0.1999, grey(3)), (0.2, grey(4)), (0.75, grey(5))]
    pairs = video.frame_pairs(CONFIG, frames, SLICES[:5])
    assert [level_of(p) for p in pairs] == [[2, 3], [4, 4], None, [5, 5], None]
    assert pairs[0].shape == (2, 4, 4, 3)


def test_a_frame_on_the_grid_starts_its_slice():
    """3 * 0.2 > 0.6 in floats, and yet a frame at 0.6 belongs to micro-turn 3."""
    frames = [(0.2 * 0 + 0.6, grey(7)), (1.4, grey(9))]
    pairs = video.frame_pairs(CONFIG, frames, SLICES[:8])
    assert [level_of(p) for p in pairs] == [None] * 3 + [[7, 7]] + [None] * 3 + [[9, 9]]


@given(
    times=st.lists(st.floats(-0.5, 2.5), max_size=40).map(sorted),
    ahead=st.lists(st.floats(0, 1), min_size=12, max_size=12),
)
@settings(max_examples=80, deadline=None)
def test_streaming_is_one_shot(times, ahead):
    """However far ahead frames come, each slice gives the pair that the whole video gives."""
    frames = [(t, grey(i, 8, 8)) for i, t in enumerate(times)]
    whole = video.frame_pairs(CONFIG, frames, SLICES)
    clock, sent, got = video.FramePairs(CONFIG), 0, []
    state = clock.init()
    for (start, end), extra in zip(SLICES, ahead, strict=True):
        stop = max(sent, sum(t < end + extra for t in times))
        state, pair = clock.step(state, frames[sent:stop], start, end)
        sent = stop
        got.append(pair)
    for a, b in zip(whole, got, strict=True):
        assert level_of(a) == level_of(b)
    assert state.late == sum(t < -video.EPSILON_S for t in times)


def test_late_and_bad_frames_are_counted():
    clock = video.FramePairs(CONFIG)
    good = encode(grey(50, 16, 16), "png")
    frames = [(0.01, good), (0.05, good[:30]), (0.1, b"nonsense")]
    state, pair = clock.step(clock.init(), frames, 0.0, 0.2)
    assert level_of(pair) == [50, 50] and (state.bad, state.late) == (2, 0)
    state, pair = clock.step(state, [(0.1, good)], 0.2, 0.4)
    assert pair is None and (state.bad, state.late) == (2, 1)


@pytest.mark.parametrize("time_s", [float("nan"), float("inf"), float("-inf")])
def test_a_frame_has_a_time(time_s):
    clock, frames = video.FramePairs(CONFIG), [(0.05, grey(1)), (time_s, grey(2))]
    with pytest.raises(ValueError, match="accepted are finite times"):
        clock.step(clock.init(), frames, 0.0, 0.2)
    with pytest.raises(ValueError, match="accepted are finite times"):
        video.frame_pairs(CONFIG, frames, SLICES)


@pytest.mark.parametrize("rows,cols", [(1, 1), (2, 3), (3, 1)])
def test_patches_are_row_major(rows, cols):
    config = VideoConfig(patch=4, rows=rows, cols=cols)
    shape = (2, rows * 4, cols * 4, 3)
    pair = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    got = video.patches(pair, config)
    assert got.shape == (rows * cols, 2, 4, 4, 3)
    for g in range(rows * cols):
        y, x = 4 * (g // cols), 4 * (g % cols)
        np.testing.assert_array_equal(got[g], pair[:, y : y + 4, x : x + 4])
    with pytest.raises(ValueError, match="a pair for this config is"):
        video.patches(pair[:, :-1], config)
