"""The truth of drawn video is what the pixels show, and splits share no look."""

from __future__ import annotations

import time

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")  # of the [data] extra

from data_pipelines import video  # noqa: E402
from tmi.media.video import decode_image, fit  # noqa: E402

SPLITS = ("train", "dev", "eval")


def seen(clip) -> tuple[np.ndarray, np.ndarray]:
    """Times [T] and what the model gets, float [T, 40, 40, 3]."""
    times = np.array([t for t, _ in clip.frames])
    return times, np.stack([fit(decode_image(b), 40, 40) for _, b in clip.frames]).astype(float)


def change(pixels: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Share of pixels [T] that differ clearly from `reference`."""
    return (np.abs(pixels - reference).max(-1) > 40).mean((1, 2))


def progress(times, pixels, reps) -> np.ndarray:
    """How far [T] each frame is on the way from rest (0) to the middle of the first rep (1)."""
    rest = pixels[times < reps[0][0]].mean(0)
    peak = pixels[np.argmin(np.abs(times - np.mean(reps[0])))] - rest
    return ((pixels - rest) * peak).sum((1, 2, 3)) / (peak * peak).sum()


def crossings(signal: np.ndarray) -> int:
    """How often `signal` rises from below 30 % to above 60 % of its height."""
    low, high, up, count = 0.3 * signal.max(), 0.6 * signal.max(), False, 0
    for value in signal:
        if not up and value > high:
            up, count = True, count + 1
        elif up and value < low:
            up = False
    return count


@pytest.mark.parametrize("kind", video.REPETITIONS)
def test_as_many_motions_as_repetitions(kind):
    for seed, split in enumerate(SPLITS):
        rng = np.random.default_rng(100 + seed)
        count = int(rng.integers(3, 9))
        periods = video.random_periods(rng, count, tempo=1.2)
        clip = video.repetitions(rng, split, count, periods, kind=kind, distract=False)
        times, pixels = seen(clip)
        assert change(pixels, pixels[0]).max() > 0.03, "too small to be seen"
        moved = progress(times, pixels, clip.truth["reps"])
        assert crossings(moved) == clip.truth["count"] == count
        reps = clip.truth["reps"]
        assert len(reps) == count
        for (start, end), period in zip(reps, periods, strict=True):
            assert end - start == pytest.approx(period, abs=1e-3)
            inside = (times >= start) & (times < end)
            assert moved[inside].max() > 0.4 * moved.max()
        idle = (times < reps[0][0]) | (times >= reps[-1][1])
        assert moved[idle].max() < 0.4 * moved.max()


def test_pauses_lie_between_repetitions():
    rng = np.random.default_rng(0)
    clip = video.repetitions(
        *(rng, "train", 3, [1.0, 1.2, 0.9]), kind="squat", start=2.0, pauses=[0.5, 1.5, 0.0]
    )
    assert clip.truth["reps"] == [[2.0, 3.0], [3.5, 4.7], [6.2, 7.1]]
    assert clip.duration_s == pytest.approx(9.1)


@pytest.mark.parametrize("name", video.ACTIONS)
def test_an_action_is_seen_while_it_lasts(name):
    for seed, split in enumerate(SPLITS):
        rng = np.random.default_rng(200 + seed)
        clip = video.action(rng, split, name, 1.5, 5.0, 7.0, distract=False)
        times, pixels = seen(clip)
        moved = change(pixels, pixels[0])
        before, during = moved[times < 1.5], moved[(times >= 1.8) & (times < 4.7)]
        assert during.mean() > 0.02 and np.quantile(during, 0.75) > 1.7 * before.max()
        if name != "walking":  # who has walked stands somewhere else
            assert np.quantile(during, 0.75) > 1.7 * moved[times >= 5.0].max()
        if name in ("walking", "jumping", "waving", "running", "dancing", "sweeping", "kicking"):
            steps = np.abs(np.diff(pixels, axis=0)).mean((1, 2, 3))
            still = steps[(times[:-1] >= 5.0) | (times[1:] < 1.5)]
            assert steps[(times[:-1] >= 1.6) & (times[1:] < 4.9)].mean() > 3 * still.mean()


def test_other_acts_are_told():
    rng = np.random.default_rng(0)
    clip = video.action(
        rng, "dev", "waving", 5, 7, 12, others=[("walking", 1, 3), ("sitting", 8, 9)]
    )
    assert clip.truth["action"] == [5, 7]
    assert [o["name"] for o in clip.truth["others"]] == ["walking", "sitting"]


@pytest.mark.parametrize("name", ["red ball", "blue square", "cat", "seven", "B", "black star"])
def test_a_thing_is_there_from_its_first_frame_to_its_last(name):
    for seed, split in enumerate(SPLITS):
        rng = np.random.default_rng(300 + seed)
        timing = video.Timing(variable=True)
        clip = video.appearing(
            *(rng, split, name, 2.05, 6.0), until=4.0, person=False, distract=False, timing=timing
        )
        times, pixels = seen(clip)
        moved = change(pixels, pixels[0])
        there = (times >= 2.05) & (times < 4.0)
        assert moved[there].min() > 0.02 and moved[~there].max() < 0.005
        assert clip.truth["window"] == [2.05, 4.0]


def test_colours_are_what_they_are_called():
    """The middle of a square has the hue of its word, in every split's paint."""
    hues = {"red": 0, "orange": 12, "yellow": 27, "green": 65, "blue": 112, "purple": 140}
    for seed, split in enumerate(SPLITS * 5):
        rng = np.random.default_rng(seed)
        for colour, hue in hues.items():
            clip = video.appearing(
                *(rng, split, f"{colour} square", 0.5, 1.0), person=False, distract=False
            )
            _, pixels = seen(clip)
            patch = np.abs(pixels[-1] - pixels[0]).max(-1)
            y, x = (int(round(i.mean())) for i in np.nonzero(patch > 25))
            rgb = pixels[-1][y, x].astype(np.uint8)[None, None]
            got = int(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)[0, 0, 0])
            assert min(abs(got - hue), 180 - abs(got - hue)) <= 6, (colour, got)


def test_splits_share_no_look():
    hashes = {split: video.pool_hashes(split) for split in SPLITS}
    for a in SPLITS:
        assert {h.split(":")[0] for h in hashes[a]} == {"figure", "background", "thing"}
        assert len(hashes[a]) >= 3 * 60
        for b in SPLITS:
            assert a == b or not hashes[a] & hashes[b]
    clip = video.appearing(np.random.default_rng(0), "eval", "cat", 1, 3, person=True)
    assert clip.figure_id in clip.looks and clip.background_id in clip.looks
    assert all(look.split("-")[1] == "eval" for look in clip.looks)


def test_a_clip_is_a_function_of_its_seed():
    def make(seed):
        rng = np.random.default_rng(seed)
        return video.repetitions(rng, "dev", 3, [1, 1, 1], timing=video.random_timing(rng))

    assert make(5) == make(5)
    assert make(5).frames != make(6).frames


@pytest.mark.parametrize(
    "timing",
    [
        video.Timing(),
        video.Timing(fps=15, jitter_s=0.05),
        video.Timing(variable=True),
        video.Timing(fps=5),
    ],
)
def test_frame_times(timing):
    for seed in range(5):
        clip = video.idle(np.random.default_rng(seed), "train", 7.3, timing=timing)
        times = np.array([t for t, _ in clip.frames])
        assert times[0] >= 0 and times[-1] < 7.3 and (np.diff(times) > 0).all()
        assert np.diff(times).max() <= 0.2 + 0.002 and times[-1] > 7.0
    if timing.variable:
        assert np.ptp(np.diff(times)) > 0.05


def test_tempo_does_not_tell_the_count():
    rng = np.random.default_rng(0)
    drawn = [(n, np.mean(video.random_periods(rng, n))) for n in rng.integers(3, 13, 2000)]
    counts, tempi = np.array(drawn).T
    assert abs(np.corrcoef(counts, tempi)[0, 1]) < 0.07
    assert tempi.min() > 0.6 and tempi.max() < 2.9


def test_much_faster_than_real_time():
    rng = np.random.default_rng(0)
    video.repetitions(rng, "train", 3, [1.5] * 3)
    start = time.process_time()
    clip = video.repetitions(rng, "train", 20, [1.5] * 20, kind="jumping jack", distract=True)
    assert clip.duration_s / (time.process_time() - start) > 50


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda r: video.idle(r, "test", 3), "'test' is not one of train, dev, eval"),
        (lambda r: video.action(r, "dev", "flying", 1, 2, 3), "'flying' is not one of waving"),
        (lambda r: video.action(r, "dev", "waving", 2, 1, 3), "does not lie in a clip of 3 s"),
        (lambda r: video.action(r, "dev", "waving", 1, 4, 3), "does not lie in a clip of 3 s"),
        (
            lambda r: video.action(r, "dev", "waving", 1, 2, 3, others=[("jumping", 1.5, 2.5)]),
            "begins before the last ends",
        ),
        (lambda r: video.appearing(r, "dev", "ghost", 1, 3), "'ghost' is not one of red ball"),
        (lambda r: video.repetitions(r, "dev", 3, [1.0]), "3 repetitions need as many periods"),
        (
            lambda r: video.repetitions(r, "dev", 1, [1.0], kind="yoga"),
            "'yoga' is not one of squat",
        ),
        (
            lambda r: video.scene(r, "dev", 3, shown=[("cat", 0, 3)] * 5, person=False),
            "more than 4 things at once",
        ),
    ],
)
def test_errors_teach(call, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        call(np.random.default_rng(0))
