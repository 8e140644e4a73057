"""Drawn video with exact ground truth: repetitions, actions, things that appear, idle scenes.

Every clip is a function of its generator and arguments. `split` chooses the pools of looks
(`looks.py`); motions (`motions.py`) and things (`things.py`) are the same words in every split.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from data_pipelines import looks, machines, motions, scenes
from data_pipelines.looks import pool_hashes
from data_pipelines.scenes import SIZE, Interval
from data_pipelines.things import ANIMALS, COLOURS, DIGITS, LETTERS, OBJECTS, SHAPES, THINGS, Thing
from tmi.media.video import decode_image

__all__ = [
    "ACTIONS",
    "ANIMALS",
    "COLOURS",
    "DIGITS",
    "LETTERS",
    "OBJECTS",
    "REPETITIONS",
    "SHAPES",
    "THINGS",
    "Clip",
    "Spoken",
    "Thing",
    "Timing",
    "action",
    "appearing",
    "contact_sheet",
    "idle",
    "pool_hashes",
    "random_periods",
    "random_timing",
    "repetitions",
    "scene",
]

JPEG_QUALITY = 90


@dataclasses.dataclass(frozen=True)
class Spoken:
    """Words for a motion: "one squat", "three squats", "when the person starts doing squats"."""

    one: str
    many: str
    doing: str
    place: str  # "person" or "thing": who does it


REPETITIONS: dict[str, Spoken] = {
    **{k: Spoken(e.one, e.many, e.doing, "person") for k, e in motions.EXERCISES.items()},
    "nod": Spoken("nod", "nods", "nodding", "person"),
    **{k: Spoken(*words, "thing") for k, words in machines.MACHINES.items()},
}
ACTIONS: dict[str, Spoken] = {
    k: Spoken(a.one, a.many, a.doing, "person") for k, a in motions.ACTIONS.items()
}


@dataclasses.dataclass(frozen=True)
class Timing:
    """When frames are taken: at a steady rate, jittered, or anything from 5 to 15 a second."""

    fps: float = 10.0
    jitter_s: float = 0.0
    variable: bool = False


@dataclasses.dataclass(frozen=True)
class Clip:
    """frames: (pts_s, JPEG bytes, SIZE x SIZE); looks: the ids of the pool items in the picture;
    captions: (what is in view, start_s, end_s), in the words that one would name it by."""

    frames: list[tuple[float, bytes]]
    truth: dict
    duration_s: float
    figure_id: str
    background_id: str
    looks: tuple[str, ...]
    captions: tuple[tuple[str, float, float], ...] = ()


def random_timing(rng: np.random.Generator) -> Timing:
    """Mostly 10 frames a second; a quarter jittered, a quarter variable."""
    draw = rng.random()
    if draw < 0.5:
        return Timing()
    if draw < 0.75:
        return Timing(jitter_s=0.03)
    return Timing(variable=True)


def random_periods(
    rng: np.random.Generator, count: int, tempo: float | None = None, jitter: float = 0.12
) -> list[float]:
    """Seconds of each of `count` repetitions about one tempo (0.8 to 2.5 s, whatever the count)."""
    tempo = float(rng.uniform(0.8, 2.5)) if tempo is None else tempo
    return [round(tempo * float(rng.uniform(1 - jitter, 1 + jitter)), 3) for _ in range(count)]


def frame_times(rng: np.random.Generator, duration: float, timing: Timing) -> np.ndarray:
    """Strictly increasing pts in [0, duration), seconds, whole milliseconds."""
    if timing.variable:
        steps = rng.uniform(1 / 15, 1 / 5, round(duration * 15) + 1)
        times = np.concatenate([[0.0], np.cumsum(steps)])
    else:
        count = int(np.ceil(duration * timing.fps))
        jitter = min(timing.jitter_s, 0.45 / timing.fps)
        times = np.arange(count) / timing.fps + rng.uniform(-jitter, jitter, count)
    times = np.maximum(np.round(times, 3), 0.0)
    return times[times < duration]


# ---------------------------------------------------------------- one scene for all


def scene(
    rng: np.random.Generator,
    split: str,
    duration: float,
    *,
    kind: str | None = None,
    reps: Sequence[Interval] = (),
    acts: Sequence[tuple[str, float, float]] = (),
    shown: Sequence[tuple[str, float, float]] = (),
    person: bool = True,
    distract: bool | None = None,
    timing: Timing | None = None,
) -> Clip:
    """Any mixture in one picture: repetitions (s, e) of `kind`, acts and things (name, s, e).

    Times in seconds from the start of the clip, `distract=None` adds meaningless motion behind in
    40 % of clips. The truth holds "reps", "acts" and "shown" as given. ValueError for a name that
    does not exist, for acts or repetitions that overlap and for times outside [0, duration].
    """
    _check(duration, kind, reps, acts, shown)
    times = frame_times(rng, duration, timing or Timing())
    figure = looks.draw(rng, "figure", split)
    background = looks.draw(rng, "background", split, "light" if figure.tone == "dark" else "dark")
    used = [figure.id, background.id]
    layers = []
    if rng.random() < 0.4 if distract is None else distract:
        layers.append(scenes.passers_by(rng, times, background))
    whole = (0.0, float(SIZE))
    room, stage = whole, whole  # of the person and of the things
    if shown and (person or kind):
        halves = [(0.0, SIZE / 2), (SIZE / 2, float(SIZE))]
        first = int(rng.integers(2))
        room, stage = halves[first], halves[1 - first]
    spots = scenes.places(rng, [(s, e) for _, s, e in shown], *stage)
    for (name, s, e), spot in zip(shown, spots, strict=True):
        paint = looks.draw(rng, "thing", split)
        used.append(paint.id)
        what = THINGS[name]
        layers.append(scenes.thing(rng, times, what, paint, (s, e), spot, background.tone))
    if kind == "nod":
        layers.append(scenes.portrait(rng, times, figure, reps))
    elif kind in machines.MACHINES:
        layers.append(scenes.machine(rng, times, figure, kind, reps))
    elif person or kind or acts:
        layers.append(scenes.person(rng, times, figure, room, exercise=kind, reps=reps, acts=acts))
    truth = {
        "kind": kind,
        "reps": [[s, e] for s, e in reps],
        "acts": [[name, s, e] for name, s, e in acts],
        "shown": [[name, s, e] for name, s, e in shown],
    }
    captions = [(name, s, e) for name, s, e in shown if THINGS[name].kind != "letter"]
    captions += [(kind, s, e) for s, e in reps if kind is not None] + list(acts)
    frames = _paint(times, scenes.backdrop(background), layers)
    ids = (figure.id, background.id)
    return Clip(frames, truth, duration, *ids, tuple(used), tuple(captions))


def _check(duration, kind, reps, acts, shown) -> None:
    if kind is not None and kind not in REPETITIONS:
        raise ValueError(f"repetition {kind!r} is not one of {', '.join(REPETITIONS)}")
    if reps and kind is None:
        raise ValueError("repetitions need a kind")
    if kind is not None and acts:
        raise ValueError("one person either exercises or acts, not both in one clip")
    for table, names in ((ACTIONS, acts), (THINGS, shown)):
        for name, _, _ in names:
            if name not in table:
                raise ValueError(f"{name!r} is not one of {', '.join(table)}")
    for start, end in [*reps, *(a[1:] for a in acts), *(a[1:] for a in shown)]:
        if not 0 <= start < end <= duration + 1e-6:
            raise ValueError(f"[{start}, {end}] does not lie in a clip of {duration} s")
    for group in (sorted(reps), sorted(a[1:] for a in acts)):
        for (_, end), (start, _) in zip(group, group[1:], strict=False):
            if start < end - 1e-6:
                raise ValueError(f"what starts at {start} s begins before the last ends at {end} s")


def _paint(times, empty: np.ndarray, layers) -> list[tuple[float, bytes]]:
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    image, bgr, frames = np.empty_like(empty), np.empty_like(empty), []
    for i, time_s in enumerate(times.tolist()):
        np.copyto(image, empty)
        for layer in layers:
            layer(image, i)
        cv2.cvtColor(image, cv2.COLOR_RGB2BGR, dst=bgr)
        frames.append((time_s, cv2.imencode(".jpg", bgr, options)[1].tobytes()))
    return frames


# ---------------------------------------------------------------- the tasks


def repetitions(
    rng: np.random.Generator,
    split: str,
    count: int,
    periods: Sequence[float],
    *,
    kind: str | None = None,
    start: float = 1.0,
    duration: float | None = None,
    pauses: Sequence[float] | None = None,
    distract: bool | None = None,
    timing: Timing | None = None,
) -> Clip:
    """`count` repetitions from `start` on: the i-th `periods[i]` s long, then `pauses[i]` s rest.

    Truth {"kind", "count", "reps": [[s, e], ...]}. `kind` None is any; `duration` None leaves 2 s
    after the last. A count of 0 is somebody who does nothing.
    """
    if len(periods) != count or (pauses is not None and len(pauses) != count):
        raise ValueError(f"{count} repetitions need as many periods (and pauses), not {periods}")
    kind = str(rng.choice(list(REPETITIONS))) if kind is None else kind
    reps, at = [], start
    for i, period in enumerate(periods):
        end = round(at + period, 4)
        reps.append((at, end))
        at = round(end + (pauses[i] if pauses else 0.0), 4)
    duration = round(at + 2.0, 4) if duration is None else duration
    clip = scene(rng, split, duration, kind=kind, reps=reps, distract=distract, timing=timing)
    truth = {"kind": kind, "count": count, "reps": [[s, e] for s, e in reps]}
    return dataclasses.replace(clip, truth=truth)


def action(
    rng: np.random.Generator,
    split: str,
    name: str,
    start: float,
    end: float,
    duration: float,
    *,
    others: Sequence[tuple[str, float, float]] = (),
    distract: bool | None = None,
    timing: Timing | None = None,
) -> Clip:
    """Somebody begins `name` at `start` and stops at `end`; does `others` (name, s, e) besides.

    Truth {"name", "action": [s, e], "others": [{"name", "action"}, ...]}.
    """
    acts = sorted([(name, start, end), *others], key=lambda act: act[1])
    clip = scene(rng, split, duration, acts=acts, distract=distract, timing=timing)
    rest = [{"name": other, "action": [s, e]} for other, s, e in others]
    return dataclasses.replace(clip, truth={"name": name, "action": [start, end], "others": rest})


def appearing(
    rng: np.random.Generator,
    split: str,
    thing: str,
    at: float,
    duration: float,
    *,
    until: float | None = None,
    distractors: Sequence[tuple[str, float, float]] = (),
    person: bool | None = None,
    distract: bool | None = None,
    timing: Timing | None = None,
) -> Clip:
    """`thing` is seen from `at` to `until` (None: the end), `distractors` (name, s, e) besides.

    `person` None puts somebody idle beside it in 30 %. At most 4 things at a time, 2 beside
    a person. Truth {"thing", "kind", "colour", "shape", "window": [at, until], "distractors":
    [{"thing", "window"}, ...]}.
    """
    if thing not in THINGS:
        raise ValueError(f"{thing!r} is not one of {', '.join(THINGS)}")
    until = duration if until is None else until
    person = bool(rng.random() < 0.3) if person is None else person
    shown = [(thing, at, until), *distractors]
    clip = scene(
        *(rng, split, duration), shown=shown, person=person, distract=distract, timing=timing
    )
    what = THINGS[thing]
    truth = {
        **{"thing": thing, "kind": what.kind, "colour": what.colour, "shape": what.shape},
        "window": [at, until],
        "distractors": [{"thing": name, "window": [s, e]} for name, s, e in distractors],
    }
    return dataclasses.replace(clip, truth=truth)


def idle(
    rng: np.random.Generator,
    split: str,
    duration: float,
    *,
    person: bool | None = None,
    distract: bool | None = None,
    timing: Timing | None = None,
) -> Clip:
    """A room in which nothing happens that anyone would speak of; truth {}."""
    person = bool(rng.random() < 0.7) if person is None else person
    clip = scene(rng, split, duration, person=person, distract=distract, timing=timing)
    return dataclasses.replace(clip, truth={})


def contact_sheet(clip: Clip, columns: int = 10, every: int = 1, size: int = SIZE) -> np.ndarray:
    """Every `every`-th frame in rows, uint8 RGB, scaled to `size` pixels as a model sees it."""
    tiles = []
    for _, data in clip.frames[::every]:
        image = decode_image(data)
        tiles.append(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)]
    return np.concatenate(rows, 0)
