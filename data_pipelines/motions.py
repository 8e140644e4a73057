"""What drawn people do: poses as tables of angles, exercises and actions as ways between them.

A pose is a row of numbers (`FIELDS`). Angles are degrees from straight down, positive to the
viewer's right; `lean` is from straight up, `head` from the line of the torso. `width` is 1 seen
from the front and near 0 from the side; `x` and `lift` move the whole body, in body heights.
Figures seen from the side face right.
"""

from __future__ import annotations

import dataclasses

import numpy as np

FIELDS = (
    *("lean", "head", "left_arm", "left_forearm", "right_arm", "right_forearm"),
    *("left_thigh", "left_shank", "right_thigh", "right_shank", "width", "x", "lift"),
)
_AT = {name: i for i, name in enumerate(FIELDS)}


def pose(base: np.ndarray | None = None, **fields: float | tuple[float, float]) -> np.ndarray:
    """`base` (or zeros) with fields set; `left`, `right`, `left_leg`, `right_leg` set two bones."""
    row = np.zeros(len(FIELDS)) if base is None else base.copy()
    pairs = {
        "left": ("left_arm", "left_forearm"),
        "right": ("right_arm", "right_forearm"),
        "left_leg": ("left_thigh", "left_shank"),
        "right_leg": ("right_thigh", "right_shank"),
    }
    for name, value in fields.items():
        if name in pairs:
            both = value if isinstance(value, tuple) else (value, value)
            for bone, angle in zip(pairs[name], both, strict=True):
                row[_AT[bone]] = angle
        else:
            row[_AT[name]] = value
    return row


FRONT = pose(left=(-12, -8), right=(12, 8), left_leg=(-6, -4), right_leg=(6, 4), width=1)
SIDE = pose(left=(-6, 4), right=(6, 14), left_leg=(-5, -5), right_leg=(5, 3), width=0.15)


@dataclasses.dataclass(frozen=True)
class Exercise:
    """A repetition leads from `rest` to `peak` and back."""

    one: str
    many: str
    doing: str
    rest: np.ndarray
    peak: np.ndarray
    prop: str = ""  # "bar" or "weights": in the hands all the time
    anchored: bool = False  # the right foot stays where it is


EXERCISES: dict[str, Exercise] = {
    "squat": Exercise(
        *("squat", "squats", "doing squats"),
        SIDE,
        pose(SIDE, lean=38, left=(85, 88), right=(85, 88), left_leg=(88, -28), right_leg=(92, -24)),
        anchored=True,
    ),
    "arm raise": Exercise(
        *("arm raise", "arm raises", "raising the arms"),
        FRONT,
        pose(FRONT, left=(-162, -172), right=(162, 172)),
    ),
    "jumping jack": Exercise(
        *("jumping jack", "jumping jacks", "doing jumping jacks"),
        FRONT,
        pose(FRONT, left=(-145, -160), right=(145, 160), left_leg=(-30, -30), right_leg=(30, 30)),
    ),
    "push up": Exercise(
        *("push up", "push ups", "doing push ups"),
        pose(
            lean=66, left=(0, 0), right=(4, 2), left_leg=(-68, -68), right_leg=(-66, -66), width=0.1
        ),
        pose(
            lean=88,
            left=(-75, 50),
            right=(-70, 54),
            left_leg=(-87, -87),
            right_leg=(-85, -85),
            width=0.1,
        ),
        anchored=True,
    ),
    "sit up": Exercise(
        *("sit up", "sit ups", "doing sit ups"),
        pose(lean=-88, left=(120, 60), right=(110, 70), left_leg=(130, 25), right_leg=(134, 28)),
        pose(lean=8, left=(80, 100), right=(86, 96), left_leg=(130, 25), right_leg=(134, 28)),
        anchored=True,
    ),
    "toe touch": Exercise(
        *("toe touch", "toe touches", "touching the toes"),
        pose(SIDE, left=(172, 176), right=(178, 182)),
        pose(SIDE, lean=118, head=10, left=(6, 4), right=(14, 10)),
        anchored=True,
    ),
    "knee lift": Exercise(
        *("knee lift", "knee lifts", "lifting the knee"),
        SIDE,
        pose(SIDE, lean=-4, right_leg=(108, 8), left=(70, 120), right=(-40, 20)),
    ),
    "row": Exercise(
        *("row", "rows", "rowing"),
        pose(lean=34, left=(72, 80), right=(76, 82), left_leg=(132, 46), right_leg=(136, 48)),
        pose(lean=-34, left=(-34, 92), right=(-30, 94), left_leg=(84, 84), right_leg=(86, 86)),
        prop="bar",
        anchored=True,
    ),
    "curl": Exercise(
        *("curl", "curls", "lifting the weights"),
        pose(FRONT, left=(-22, -16), right=(22, 16)),
        pose(FRONT, left=(-30, -176), right=(30, 176)),
        prop="weights",
    ),
    "press": Exercise(
        *("press", "presses", "pressing the bar"),
        pose(FRONT, left=(-56, -172), right=(56, 172)),
        pose(FRONT, left=(-158, -176), right=(158, 176)),
        prop="bar",
    ),
    "side bend": Exercise(
        *("side bend", "side bends", "bending to the side"),
        pose(FRONT, left=(-176, -180), right=(176, 180)),
        pose(FRONT, lean=52, left=(-122, -126), right=(228, 232), x=-0.1),
    ),
}


@dataclasses.dataclass(frozen=True)
class Action:
    """While it lasts the body swings between `low` and `high`, `rate` times a second."""

    one: str
    many: str
    doing: str
    low: np.ndarray
    high: np.ndarray
    rate: float
    prop: str = ""  # "cup", "book", "broom", "chair"
    travels: bool = False  # to and fro through the picture


ACTIONS: dict[str, Action] = {
    "waving": Action(
        *("wave", "waves", "waving"),
        pose(FRONT, right=(140, 110)),
        pose(FRONT, right=(150, 215)),
        1.6,
    ),
    "walking": Action(
        *("walk", "walks", "walking"),
        pose(SIDE, left=(-30, -10), right=(30, 50), left_leg=(32, 14), right_leg=(-22, -42)),
        pose(SIDE, left=(30, 50), right=(-30, -10), left_leg=(-22, -42), right_leg=(32, 14)),
        0.9,
        travels=True,
    ),
    "jumping": Action(
        *("jump", "jumps", "jumping"),
        pose(FRONT, left=(-40, -20), right=(40, 20), left_leg=(-28, 14), right_leg=(28, -14)),
        pose(FRONT, left=(-120, -140), right=(120, 140), lift=0.28),
        1.3,
    ),
    "clapping": Action(
        *("clap", "claps", "clapping"),
        pose(FRONT, left=(-70, -100), right=(70, 100)),
        pose(FRONT, left=(-42, 78), right=(42, -78)),
        1.8,
    ),
    "drinking": Action(
        *("drink", "drinks", "drinking"),
        pose(SIDE, lean=-6, head=-24, right=(58, 160), left=(-8, 6)),
        pose(SIDE, lean=-12, head=-36, right=(72, 168), left=(-8, 6)),
        0.5,
        prop="cup",
    ),
    "reading": Action(
        *("read", "reads", "reading"),
        pose(FRONT, left=(-40, 112), right=(40, -112), head=10),
        pose(FRONT, left=(-36, 116), right=(36, -116), head=-10),
        0.4,
        prop="book",
    ),
    "dancing": Action(
        *("dance", "dances", "dancing"),
        pose(FRONT, lean=-20, left=(-150, -120), right=(60, 30), left_leg=(-24, 6), x=0.09),
        pose(FRONT, lean=20, left=(-60, -30), right=(150, 120), right_leg=(24, -6), x=-0.09),
        1.1,
    ),
    "sitting": Action(
        *("sit", "sits", "sitting"),
        pose(SIDE, lean=-4, left_leg=(92, 0), right_leg=(94, 4), right=(40, 70), left=(40, 70)),
        pose(SIDE, lean=2, left_leg=(92, 0), right_leg=(94, 4), right=(44, 74), left=(42, 72)),
        0.4,
        prop="chair",
    ),
    "sweeping": Action(
        *("sweep", "sweeps", "sweeping"),
        pose(SIDE, lean=24, left=(-4, 30), right=(14, 40)),
        pose(SIDE, lean=30, left=(50, 80), right=(66, 90)),
        0.9,
        prop="broom",
    ),
    "running": Action(
        *("run", "runs", "running"),
        pose(
            SIDE, lean=14, left=(-60, 20), right=(50, 130), left_leg=(78, -20), right_leg=(-16, -70)
        ),
        pose(
            SIDE, lean=14, left=(50, 130), right=(-60, 20), left_leg=(-16, -70), right_leg=(78, -20)
        ),
        1.7,
    ),
    "pointing": Action(
        *("point", "points", "pointing"),
        pose(SIDE, lean=8, right=(88, 92)),
        pose(SIDE, lean=10, right=(92, 94)),
        0.5,
    ),
    "kicking": Action(
        *("kick", "kicks", "kicking"),
        pose(SIDE, lean=4, right_leg=(-30, -70), left=(50, 60), right=(-40, -20)),
        pose(SIDE, lean=-22, right_leg=(96, 92), left=(-40, -20), right=(50, 60)),
        1.1,
    ),
    "stretching": Action(
        *("stretch", "stretches", "stretching"),
        pose(FRONT, lean=-12, left=(-150, -186), right=(174, 206)),
        pose(FRONT, lean=12, left=(-174, -206), right=(150, 186)),
        0.5,
    ),
    "lying": Action(
        *("lie down", "lies down", "lying down"),
        pose(SIDE, lean=-88, left=(86, 90), right=(88, 92), left_leg=(88, 90), right_leg=(90, 92)),
        pose(SIDE, lean=-86, left=(86, 90), right=(80, 84), left_leg=(88, 90), right_leg=(90, 92)),
        0.3,
    ),
}


def repetition_phase(times: np.ndarray, reps: list[tuple[float, float]], skew: float) -> np.ndarray:
    """u in [0, 1] at `times` [T]: 0 outside of the repetitions, 1 at each one's middle.

    `skew` in (-0.3, 0.3) makes the way out faster (negative) or slower than the way back.
    """
    u = np.zeros(len(times))
    for start, end in reps:
        inside = (times >= start) & (times < end)
        phase = (times[inside] - start) / (end - start)
        phase = phase + skew * np.sin(np.pi * phase) ** 2 * 0.5
        u[inside] = 0.5 - 0.5 * np.cos(2 * np.pi * phase)
    return u


def presence(times: np.ndarray, start: float, end: float, ramp: float = 0.25) -> np.ndarray:
    """Weight of an action at `times`: 0 outside (start, end), 1 inside, with ramps within it."""
    ramp = min(ramp, (end - start) / 4)
    edge = np.minimum(times - start, end - times) / ramp
    edge = np.clip(edge, 0, 1)
    return edge * edge * (3 - 2 * edge)


def swing(times: np.ndarray, start: float, rate: float) -> np.ndarray:
    """0..1..0 `rate` times a second from `start` on."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * rate * (times - start))
