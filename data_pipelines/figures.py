"""Draws people: a pose and an individual to joints, joints to pixels."""

from __future__ import annotations

import cv2
import numpy as np

from data_pipelines.looks import Colour, Figure, scaled
from data_pipelines.motions import FIELDS

JOINTS = (
    *("pelvis", "neck", "head", "left_shoulder", "left_elbow", "left_hand"),
    *("right_shoulder", "right_elbow", "right_hand", "left_hip", "left_knee", "left_foot"),
    *("right_hip", "right_knee", "right_foot"),
)
J = {name: i for i, name in enumerate(JOINTS)}
SHIFT = 4  # cv2's fixed point: 1/16 pixel, so that slow motion is smooth
ONE = 1 << SHIFT
DARKER = 0.72  # limbs of the far side


def joints(poses: np.ndarray, figure: Figure) -> np.ndarray:
    """Poses [T, len(FIELDS)] to joints [T, len(JOINTS), 2] as (x, y down) in body heights.

    The lowest joint is on the ground, y = 0, unless `lift` says otherwise; the pelvis is at `x`.
    """
    value = dict(zip(FIELDS, poses.T, strict=True))

    def bone(name: str, length: float) -> np.ndarray:
        angle = np.deg2rad(value[name])
        return length * np.stack([np.sin(angle), np.cos(angle)], 1)

    lean = np.deg2rad(value["lean"])
    up = np.stack([np.sin(lean), -np.cos(lean)], 1)
    across = np.stack([np.cos(lean), np.sin(lean)], 1) * value["width"][:, None]
    turned = lean + np.deg2rad(value["head"])
    f, at = figure, {}
    at["pelvis"] = np.zeros((len(poses), 2))
    at["neck"] = f.torso * up
    at["head"] = at["neck"] + 1.2 * f.head * np.stack([np.sin(turned), -np.cos(turned)], 1)
    for side, sign in (("left", -1), ("right", 1)):
        at[f"{side}_shoulder"] = 0.88 * at["neck"] + sign * f.shoulder * across
        at[f"{side}_elbow"] = at[f"{side}_shoulder"] + bone(f"{side}_arm", f.upper_arm)
        at[f"{side}_hand"] = at[f"{side}_elbow"] + bone(f"{side}_forearm", f.forearm)
        at[f"{side}_hip"] = sign * f.hip * across
        at[f"{side}_knee"] = at[f"{side}_hip"] + bone(f"{side}_thigh", f.thigh)
        at[f"{side}_foot"] = at[f"{side}_knee"] + bone(f"{side}_shank", f.shank)
    points = np.stack([at[name] for name in JOINTS], 1)
    points[:, :, 1] -= points[:, :, 1].max(1, keepdims=True) + value["lift"][:, None]
    points[:, :, 0] += value["x"][:, None]
    return points


def to_pixels(points: np.ndarray) -> list:
    """Float pixels [T, J, 2] as nested lists of cv2's fixed-point integers."""
    return np.rint(points * ONE).astype(np.int64).tolist()


def _line(image, a, b, colour: Colour, thickness: int) -> None:
    cv2.line(image, tuple(a), tuple(b), colour, thickness, cv2.LINE_AA, SHIFT)


def _disc(image, centre, radius: float, colour: Colour) -> None:
    cv2.circle(image, tuple(centre), round(radius * ONE), colour, -1, cv2.LINE_AA, SHIFT)


def _polygon(image, corners, colour: Colour) -> None:
    cv2.fillPoly(image, [np.array(corners, np.int32)], colour, cv2.LINE_AA, SHIFT)


def draw_person(image: np.ndarray, at: list, figure: Figure, scale: float, prop: str) -> None:
    """Draws one frame's joints `at` (from `to_pixels`) at `scale` pixels a body height."""
    f = figure
    limb = max(2, round(f.limb * scale * (0.75 if f.build == "stick" else 1.0)))
    for side, shirt, trousers in (
        ("left", scaled(f.shirt, DARKER), scaled(f.trousers, DARKER)),
        ("right", f.shirt, f.trousers),
    ):
        if side == "right":  # the trunk lies between the far limbs and the near ones
            _trunk(image, at, f, scale, limb)
        hip, knee, foot = (at[J[f"{side}_{n}"]] for n in ("hip", "knee", "foot"))
        _line(image, hip, knee, trousers, limb + 1)
        _line(image, knee, foot, trousers, limb)
        shoulder, elbow, hand = (at[J[f"{side}_{n}"]] for n in ("shoulder", "elbow", "hand"))
        _line(image, shoulder, elbow, shirt, limb)
        _line(image, elbow, hand, shirt, limb)
        _disc(image, hand, 0.62 * limb, f.skin)
    if prop:
        _prop(image, at, f, scale, prop)


def _trunk(image, at, f: Figure, scale: float, limb: int) -> None:
    neck, pelvis, head = at[J["neck"]], at[J["pelvis"]], at[J["head"]]
    radius = f.head * scale
    dx, dy = (pelvis[0] - neck[0], pelvis[1] - neck[1])
    length = max(1.0, (dx * dx + dy * dy) ** 0.5)
    nx, ny = -dy / length, dx / length  # across the trunk
    if f.build in ("robot", "dress"):
        top, low = (f.shoulder, 0.8 * f.shoulder)
        if f.build == "dress":
            top, low = 0.6 * f.shoulder, 1.5 * f.shoulder
        top, low = top * scale * ONE, low * scale * ONE
        corners = [
            (neck[0] + nx * top, neck[1] + ny * top),
            (neck[0] - nx * top, neck[1] - ny * top),
            (pelvis[0] - nx * low, pelvis[1] - ny * low),
            (pelvis[0] + nx * low, pelvis[1] + ny * low),
        ]
        _polygon(image, corners, f.shirt)
    else:
        width = limb + 1 if f.build == "stick" else max(limb + 1, round(1.5 * f.shoulder * scale))
        _line(image, neck, pelvis, f.shirt, width)
    if f.build == "robot":
        r = 0.92 * radius * ONE
        left, right, top, low = head[0] - r, head[0] + r, head[1] - r, head[1] + r
        _polygon(image, [(left, top), (right, top), (right, low), (left, low)], f.skin)
        return
    up = (head[0] - 0.35 * radius * ONE * dx / length, head[1] - 0.35 * radius * ONE * dy / length)
    _disc(image, (round(up[0]), round(up[1])), radius, f.hair)
    _disc(image, head, 0.86 * radius, f.skin)


def _prop(image, at, f: Figure, scale: float, prop: str) -> None:
    left, right = at[J["left_hand"]], at[J["right_hand"]]
    pale = (246, 240, 224) if f.tone == "dark" else (40, 30, 50)
    unit = scale * ONE
    if prop == "weights":
        for hand in (left, right):
            _disc(image, hand, 0.075 * scale, f.hair)
    elif prop == "bar":
        dx, dy = right[0] - left[0], right[1] - left[1]
        if dx * dx + dy * dy < (0.2 * unit) ** 2:  # seen from the side: a handle and its cord
            _line(image, right, (round(right[0] + 0.3 * unit), right[1]), f.hair, 1)
            _disc(image, right, 0.06 * scale, f.hair)
            return
        a = (round(left[0] - 0.3 * dx), round(left[1] - 0.3 * dy))
        b = (round(right[0] + 0.3 * dx), round(right[1] + 0.3 * dy))
        _line(image, a, b, f.hair, 2)
        _disc(image, a, 0.07 * scale, f.hair)
        _disc(image, b, 0.07 * scale, f.hair)
    elif prop == "cup":
        w, h = 0.05 * unit, 0.07 * unit
        x, y = right
        _polygon(image, [(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)], pale)
        _line(image, (round(x - w), round(y - h)), (round(x - w), round(y + h)), f.hair, 1)
    elif prop == "book":
        x, y = (left[0] + right[0]) / 2, (left[1] + right[1]) / 2
        w, h = 0.15 * unit, 0.1 * unit
        for grow, colour in ((1.3, f.hair), (1.0, pale)):
            a, b = w * grow, h * grow
            _polygon(
                image, [(x - a, y - b), (x + a, y - b), (x + a, y + b), (x - a, y + b)], colour
            )
    elif prop == "broom":
        foot = max(at[J["left_foot"]][1], at[J["right_foot"]][1])
        dx = 0.8 * (right[0] - at[J["right_shoulder"]][0])
        low = (round(right[0] + dx), foot)
        _line(image, (round(right[0] - 0.4 * dx), round(right[1] - 0.2 * unit)), low, f.hair, 2)
        half = round(0.1 * unit)
        _line(image, (low[0] - half, low[1]), (low[0] + half, low[1]), f.hair, 4)


def draw_chair(image: np.ndarray, seat: list, ground: int, figure: Figure, scale: float) -> None:
    """A chair whose seat is under the pelvis point `seat`; `ground` is y in fixed point."""
    unit = scale * ONE
    x, y = seat[0], round(seat[1] + 0.07 * unit)
    back, front = round(x - 0.14 * unit), round(x + 0.16 * unit)
    for a, b in (
        ((back, y), (front, y)),
        ((back, y), (back, ground)),
        ((front, y), (front, ground)),
        ((back, y), (round(back - 0.05 * unit), round(y - 0.34 * unit))),
    ):
        _line(image, a, b, figure.hair, 2)


def draw_portrait(image: np.ndarray, figure: Figure, u: float, centre: tuple[float, float]) -> None:
    """A face that fills the picture; u = 0 looks ahead, u = 1 has nodded down."""
    f, size = figure, image.shape[0]
    x, y = centre[0], centre[1] + 0.08 * size * u
    rx, ry = (1.9 * f.head + 0.03) * size, 0.27 * size
    body = _box(x, size, 0.34 * size, 0.26 * size)
    cv2.ellipse(image, *body, f.shirt, -1, cv2.LINE_AA, SHIFT)
    _line(image, _fixed(x, size), _fixed(x, y), f.skin, max(3, round(0.16 * size)))
    hair = _box(x, y - 0.06 * size * (1 - 1.2 * u), rx * 1.16, ry * (1.08 + 0.05 * u))
    cv2.ellipse(image, *hair, f.hair, -1, cv2.LINE_AA, SHIFT)
    face_y, face_ry = y + (0.03 + 0.06 * u) * size, ry * (0.92 - 0.2 * u)
    cv2.ellipse(image, *_box(x, face_y, rx, face_ry), f.skin, -1, cv2.LINE_AA, SHIFT)
    ink = (20, 15, 20) if sum(f.skin) > 300 else (245, 240, 235)
    eyes = face_y + (-0.06 + 0.12 * u) * size
    for side in (-1, 1):
        _disc(image, _fixed(x + side * 0.42 * rx, eyes), 0.035 * size, ink)
    mouth = face_y + (0.1 + 0.05 * u) * size
    _line(image, _fixed(x - 0.35 * rx, mouth), _fixed(x + 0.35 * rx, mouth), ink, 2)


def _fixed(x: float, y: float) -> tuple[int, int]:
    return round(x * ONE), round(y * ONE)


def _box(x: float, y: float, rx: float, ry: float):
    """Centre, axes and angles of a whole ellipse for cv2."""
    return _fixed(x, y), _fixed(rx, ry), 0, 0, 360
