"""Layers of a drawn clip: each paints its part of frame i; a clip is its layers in order."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from data_pipelines import figures, looks, machines, motions, things
from data_pipelines.looks import Background, Figure, mixed

SIZE = 80  # pixels, both ways
Layer = Callable[[np.ndarray, int], None]  # paints frame i
Interval = tuple[float, float]


@functools.lru_cache(maxsize=256)
def backdrop(look: Background) -> np.ndarray:
    """The empty room, uint8 [SIZE, SIZE, 3]; the same array each time, so copy it."""
    rng = np.random.default_rng(look.seed)
    image = np.full((SIZE, SIZE, 3), look.wall, np.uint8)
    horizon = round(look.horizon * SIZE)
    if look.pattern == "gradient":
        ramp = np.linspace(0, 1, SIZE)[:, None, None]
        image[:] = (1 - ramp) * np.array(look.wall) + ramp * np.array(look.mark)
    elif look.pattern == "stripes":
        step, width = int(rng.integers(8, 22)), int(rng.integers(2, 6))
        for x in range(int(rng.integers(step)), SIZE, step):
            image[:, x : x + width] = look.mark
    elif look.pattern == "boards":
        step = int(rng.integers(8, 18))
        for y in range(int(rng.integers(step)), SIZE, step):
            image[y : y + 2] = look.mark
    elif look.pattern == "dots":
        for x, y in rng.uniform(0, SIZE, (int(rng.integers(6, 16)), 2)):
            cv2.circle(image, (int(x), int(y)), int(rng.integers(2, 5)), look.mark, -1, cv2.LINE_AA)
    elif look.pattern == "window":
        x, y, w, h = rng.integers((4, 4, 18, 14), (44, 16, 34, 28)).tolist()
        cv2.rectangle(image, (x, y), (x + w, y + h), look.mark, -1)
        cv2.line(image, (x + w // 2, y), (x + w // 2, y + h), look.wall, 2)
        cv2.line(image, (x, y + h // 2), (x + w, y + h // 2), look.wall, 2)
    elif look.pattern == "shelf":
        for y in rng.integers(8, 44, 2).tolist():
            x = int(rng.integers(0, 40))
            cv2.rectangle(image, (x, y), (x + int(rng.integers(20, 44)), y + 3), look.mark, -1)
    elif look.pattern == "hills":
        for _ in range(3):
            x, r = int(rng.integers(SIZE)), int(rng.integers(16, 40))
            colour = mixed(look.wall, look.mark, 0.8)
            cv2.circle(image, (x, horizon + 6), r, colour, -1, cv2.LINE_AA)
    elif look.pattern == "tiles":
        step = int(rng.integers(10, 20))
        image[::step] = look.mark
        image[:, ::step] = look.mark
    image[horizon:] = look.floor
    if look.pattern in ("tiles", "boards"):
        image[horizon : horizon + 1] = look.mark
    image.setflags(write=False)
    return image


def passers_by(rng: np.random.Generator, times: np.ndarray, look: Background) -> Layer:
    """Something behind that moves and means nothing: pale, small, at a pace of its own."""
    contrast = (255, 255, 255) if look.tone == "dark" else (0, 0, 0)
    colour = mixed(look.wall, contrast, float(rng.uniform(0.12, 0.25)))
    kind = str(rng.choice(["slide", "float", "fan", "blink", "sway"]))
    y, x = float(rng.uniform(6, 48)), float(rng.uniform(8, 72))
    r, speed = float(rng.uniform(3, 7)), float(rng.uniform(6, 20)) * rng.choice((-1, 1))
    phase = 2 * np.pi * (rng.uniform() + rng.uniform(0.1, 0.5) * times)

    def paint(image: np.ndarray, i: int) -> None:
        t, p = float(times[i]), float(phase[i])
        if kind == "slide":
            left = (x + speed * t) % (SIZE + 24) - 12
            low, high = (round(left - r), round(y - r / 2)), (round(left + r), round(y + r / 2))
            cv2.rectangle(image, low, high, colour, -1)
        elif kind == "float":
            centre = (round(x + 8 * np.sin(p)), round(y + 5 * np.cos(0.7 * p)))
            cv2.circle(image, centre, round(r), colour, -1, cv2.LINE_AA)
        elif kind == "fan":
            for blade in range(3):
                angle = p + blade * 2 * np.pi / 3
                end = (round(x + 1.6 * r * np.cos(angle)), round(y + 1.6 * r * np.sin(angle)))
                cv2.line(image, (round(x), round(y)), end, colour, 2, cv2.LINE_AA)
        elif kind == "blink":
            if np.sin(p) > 0:
                cv2.circle(image, (round(x), round(y)), round(0.6 * r), colour, -1, cv2.LINE_AA)
        else:
            low = (round(x + 6 * np.sin(p)), SIZE * 2 // 3)
            cv2.line(image, (round(x), 0), low, colour, 3, cv2.LINE_AA)

    return paint


# ---------------------------------------------------------------- people


def _idle(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """Nobody stands quite still: small slow changes [T, fields] of a pose."""
    sway = np.zeros((len(times), len(motions.FIELDS)))
    for name, size in (
        *(("lean", 1.0), ("head", 3), ("left_arm", 2), ("right_arm", 2)),
        *(("left_forearm", 3), ("right_forearm", 3), ("x", 0.005)),
    ):
        rate, phase = rng.uniform(0.1, 0.4), rng.uniform(0, 2 * np.pi)
        wave = size * np.sin(2 * np.pi * rate * times + phase)
        sway[:, motions.FIELDS.index(name)] = wave
    return sway


def effort(rng: np.random.Generator, times: np.ndarray, reps: Sequence[Interval]) -> np.ndarray:
    """u [T] of a clip's repetitions: its own skew, each a little different in size."""
    skew = float(rng.uniform(-0.3, 0.3))
    u = np.zeros(len(times))
    for rep in reps:
        u += float(rng.uniform(0.85, 1.0)) * motions.repetition_phase(times, [rep], skew)
    return u


def _walk(times: np.ndarray, start: float, end: float, speed: float, room: float, begun: float):
    """To and fro between -room and room: (offset [T] in pixels, direction [T] +-1, way gone).

    The way gone is where a next walk goes on: its `begun`."""
    path = np.clip(times - start, 0, end - start) * speed + begun
    lap = path % (4 * room)
    there = lap < 2 * room
    offset = np.where(there, lap, 4 * room - lap) - room
    return offset, np.where(there, 1.0, -1.0), begun + (end - start) * speed


@dataclasses.dataclass
class _Part:
    """What one person does over a clip of T frames."""

    poses: np.ndarray  # [T, fields]
    facing: np.ndarray  # [T] +1 to the right, -1 mirrored
    shift: np.ndarray  # [T] pixels walked from the middle
    held: list[tuple[str, np.ndarray]]  # a prop and the frames [T] with it


def _exercise(
    rng: np.random.Generator, times: np.ndarray, name: str, reps: Sequence[Interval]
) -> _Part:
    plan, still = motions.EXERCISES[name], np.zeros(len(times))
    poses = plan.rest + effort(rng, times, reps)[:, None] * (plan.peak - plan.rest)
    facing = np.full(len(times), float(rng.choice((-1, 1))))
    return _Part(poses, facing, still, [(plan.prop, still == 0)] if plan.prop else [])


def _acts(
    rng: np.random.Generator,
    times: np.ndarray,
    acts: Sequence[tuple[str, float, float]],
    room: float,
) -> _Part:
    """Stands about but for `acts`; who walks has `room` pixels to either side."""
    view = motions.ACTIONS[acts[0][0]].low if acts else rng.choice((motions.FRONT, motions.SIDE))
    stand = motions.FRONT if view[motions.FIELDS.index("width")] == 1 else motions.SIDE
    heading = float(rng.choice((-1, 1)))
    count = len(times)
    part = _Part(np.tile(stand, (count, 1)), np.full(count, heading), np.zeros(count), [])
    begun = room  # of the way from rim to rim: the middle
    for name, start, end in acts:
        plan = motions.ACTIONS[name]
        u = motions.swing(times, start, plan.rate * float(rng.uniform(0.85, 1.15)))[:, None]
        weight = motions.presence(times, start, end)[:, None]
        part.poses += weight * (plan.low + u * (plan.high - plan.low) - stand)
        if plan.prop:
            part.held.append((plan.prop, (times >= start) & (times < end)))
        if plan.travels:
            speed = float(rng.uniform(16, 24))
            offset, direction, begun = _walk(times, start, end, speed, room, begun)
            part.shift = np.where(times >= start, heading * offset, part.shift)
            part.facing = np.where(times >= start, heading * direction, part.facing)
    return part


def person(
    rng: np.random.Generator,
    times: np.ndarray,
    figure: Figure,
    area: Interval = (0.0, float(SIZE)),
    *,
    exercise: str | None = None,
    reps: Sequence[Interval] = (),
    acts: Sequence[tuple[str, float, float]] = (),
) -> Layer:
    """One person between the columns of `area`, who exercises or acts, else stands about."""
    width, middle = area[1] - area[0], (area[0] + area[1]) / 2
    if exercise is not None:
        part = _exercise(rng, times, exercise, reps)
    else:
        part = _acts(rng, times, acts, room=max(4.0, width / 2 - 14))
    points = figures.joints(part.poses + _idle(rng, times), figure)
    if exercise is not None and motions.EXERCISES[exercise].anchored:
        points[:, :, 0] -= points[:, figures.J["right_foot"], 0, None]
    points[:, :, 0] *= part.facing[:, None]

    # as large as everything the clip shows of the person allows
    low, high = points[:, :, 0].min(), points[:, :, 0].max()
    reach_x = max(0.5, high - low + 3 * figure.head)
    reach_y = max(1.0, 1.2 * figure.head - points[:, :, 1].min())
    scale = min(width / reach_x, 0.92 * SIZE / reach_y) * float(rng.uniform(0.85, 1.0))
    aside = float(rng.uniform(-0.3, 0.3)) * max(0.0, width - reach_x * scale)
    above = float(rng.uniform(0, 0.5)) * max(0.0, 0.92 * SIZE - reach_y * scale)
    ground = SIZE - 5 - above
    pixels = points * scale
    pixels[:, :, 0] += middle - scale * (low + high) / 2
    pixels[:, :, 0] += part.shift[:, None] if part.shift.any() else aside
    pixels[:, :, 1] += ground
    at = figures.to_pixels(pixels)

    held = [(name, when) for name, when in part.held if name != "chair"]
    seat = None
    if len(held) < len(part.held):  # the chair stands where its user comes lowest, all the time
        pelvis = figures.J["pelvis"]
        seat = max((frame[pelvis] for frame in at), key=lambda point: point[1])

    def paint(image: np.ndarray, i: int) -> None:
        if seat is not None:
            figures.draw_chair(image, seat, round(ground * figures.ONE), figure, scale)
        prop = next((name for name, when in held if when[i]), "")
        figures.draw_person(image, at[i], figure, scale, prop)

    return paint


def portrait(
    rng: np.random.Generator, times: np.ndarray, figure: Figure, reps: Sequence[Interval]
) -> Layer:
    """A face close up that nods."""
    u = effort(rng, times, reps)
    x, y = SIZE * float(rng.uniform(0.45, 0.55)), SIZE * float(rng.uniform(0.4, 0.46))
    drift = 1.2 * np.sin(2 * np.pi * rng.uniform(0.1, 0.3) * times + rng.uniform(0, 6))

    def paint(image: np.ndarray, i: int) -> None:
        figures.draw_portrait(image, figure, float(u[i]), (x + float(drift[i]), y))

    return paint


def machine(
    rng: np.random.Generator,
    times: np.ndarray,
    figure: Figure,
    kind: str,
    reps: Sequence[Interval],
) -> Layer:
    """A machine in a figure's colours."""
    u = effort(rng, times, reps)
    x = SIZE * float(rng.uniform(0.46, 0.54))
    ground = SIZE - float(rng.uniform(4, 9))

    def paint(image: np.ndarray, i: int) -> None:
        machines.draw_machine(image, kind, float(u[i]), figure.shirt, figure.hair, x, ground)

    return paint


# ---------------------------------------------------------------- things that come and go


def places(
    rng: np.random.Generator, shown: Sequence[Interval], left: float, right: float
) -> list[tuple[float, float, float]]:
    """(x, y, size) for each interval; things seen at the same time get places that do not touch."""
    wide = right - left >= 60
    columns = (0.26, 0.74) if wide else (0.5,)
    cells = [(left + c * (right - left), SIZE * r) for r in (0.28, 0.72) for c in columns]
    chosen: list[tuple[int, Interval]] = []
    for start, end in shown:
        busy = {cell for cell, (s, e) in chosen if s < end and start < e}
        free = [cell for cell in range(len(cells)) if cell not in busy]
        if not free:
            raise ValueError(f"more than {len(cells)} things at once in {start:.1f}-{end:.1f} s")
        chosen.append((int(rng.choice(free)), (start, end)))
    out = []
    for cell, _ in chosen:
        x, y = cells[cell]
        dx, dy, size = rng.uniform((-3, -2, 29), (3, 2, 36)).tolist()
        out.append((x + dx, y + dy, size))
    return out


def thing(
    rng: np.random.Generator,
    times: np.ndarray,
    what: things.Thing,
    paint_look: looks.Paint,
    shown: Interval,
    place: tuple[float, float, float],
    tone: str,
) -> Layer:
    """`what` stands, or bobs a little, at its place in a room of `tone` in [shown[0], shown[1])."""
    x, y, size = place
    bob = float(rng.choice((0, 0, 1.5))) * np.sin(2 * np.pi * rng.uniform(0.5, 1.2) * times)
    visible = (times >= shown[0]) & (times < shown[1])

    def paint(image: np.ndarray, i: int) -> None:
        if visible[i]:
            spot = (x, y + float(bob[i]), size)
            things.draw_thing(image, what, paint_look, spot, tone)

    return paint
