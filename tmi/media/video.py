"""Video in: files to frames with times, frames to the pair of a micro-turn, pairs to patches.

    file --read_frames--> (pts_s, frame) --FramePairs--> [2, H, W, 3] --patches--> [g, 2, P, P, 3]

g = rows * cols patches of P x P pixels; H = rows * P, W = cols * P. Pixels stay uint8 RGB up to the
model.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from absl import logging
from av.error import FFmpegError
from av.format import Flags as FormatFlags
from av.video.reformatter import VideoReformatter

from tmi.config import VideoConfig

GREY = 128  # the bars of a letterbox: the middle of the range, so neither dark nor light
MAX_ERRORS = 100  # messages kept in a report; all are counted
EPSILON_S = 1e-6  # pts of 0.6 belong to the slice that starts at 3 * 0.2 = 0.6000000000000001

Frame = np.ndarray | bytes  # uint8 [H, W, 3] or an encoded JPEG/PNG


class ImageError(ValueError):
    """Bytes that are not a whole JPEG or PNG image."""


@dataclasses.dataclass
class ReadReport:
    """What became of a file: filled while `read_frames` is iterated."""

    frames: int = 0
    num_errors: int = 0
    errors: list[str] = dataclasses.field(default_factory=list)

    def add(self, message: str) -> None:
        self.num_errors += 1
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(message)


# ---------------------------------------------------------------- files


def read_frames(
    path: str | Path, report: ReadReport | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """Yields (pts_s, uint8 [H, W, 3]) of the first video stream (or the image) in `path`.

    pts_s are seconds on the file's clock, strictly increasing: pts * time_base, so that a late
    start, a variable rate, edit lists (the demuxer applies them) and negative times (no slice
    of a session asks for them) keep the alignment with the file's audio. MPEG-TS has no zero of its
    own: there the first sample of any stream is at 0. Rotation marks (phones) are applied.

    A damaged file yields what decodes; packets that do not and frames that the decoder marks as
    damaged are left out, counted and named in `report`, or logged if there is none. A missing file
    raises FileNotFoundError, one without video ValueError.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no video file at {path}")
    return _read(str(path), report)


def _read(path: str, report: ReadReport | None) -> Iterator[tuple[float, np.ndarray]]:
    log = ReadReport() if report is None else report
    try:
        container = av.open(path)
    except (FFmpegError, ValueError) as e:
        log.add(f"{path}: not readable as a video: {e}")
        container = None
    if container is not None:
        with container:
            yield from _decode(container, path, log)
    if report is None and log.num_errors:
        logging.warning("%s: %d errors, first: %s", path, log.num_errors, log.errors[0])


def _decode(container, path: str, log: ReadReport) -> Iterator[tuple[float, np.ndarray]]:
    if not container.streams.video:
        kinds = sorted({s.type for s in container.streams})
        raise ValueError(f"{path} has no video stream, only {kinds or 'nothing'}")
    stream = container.streams.video[0]
    stream.thread_type = "NONE"  # loaders run one process a core already
    zero_s = time_zero(container)
    to_rgb = VideoReformatter()
    period_s = float(1 / stream.average_rate) if stream.average_rate else 0.1
    last_s = None
    for frame in decoded(container, stream, path, log):
        if frame.pts is None or frame.time_base is None:
            time_s = 0.0 if last_s is None else last_s + period_s
            log.add(f"{path}: frame {log.frames} has no time, taken to be at {time_s:.3f} s")
        else:
            time_s = float(frame.pts * frame.time_base) - zero_s
        if last_s is not None and time_s <= last_s:
            log.add(f"{path}: frame at {time_s:.3f} s comes after {last_s:.3f} s, dropped")
            continue
        if frame.is_corrupt:
            log.add(f"{path}: frame at {time_s:.3f} s is damaged, dropped")
            continue
        try:
            pixels = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
        except (FFmpegError, ValueError) as e:
            log.add(f"{path}: frame at {time_s:.3f} s has no RGB form: {e}")
            continue
        last_s = time_s
        log.frames += 1
        yield time_s, np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


def decoded(container, stream, path: str, log: ReadReport) -> Iterator[Any]:
    """FFmpeg's frames of a stream in the order of presentation; errors go to the log, never up."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except (FFmpegError, ValueError) as e:
            log.add(f"{path}: the container breaks off: {e}")
            packet = None  # flushes the decoder: frames it still holds are good
        try:
            yield from stream.codec_context.decode(packet)
        except FFmpegError as e:
            log.add(f"{path}: packet at {_when(packet)} does not decode: {e}")
        if packet is None:
            return


def _when(packet: av.Packet | None) -> str:
    if packet is None or packet.pts is None or packet.time_base is None:
        return "an unknown time" if packet is not None else "the end"
    return f"{float(packet.pts * packet.time_base):.3f} s"


def time_zero(container) -> float:
    """What the container's clock (in seconds) shows at 0 s of the session, for every stream."""
    if container.format.flags & FormatFlags.ts_discont.value and container.start_time is not None:
        return container.start_time / av.time_base
    return 0.0


# ---------------------------------------------------------------- images


class _Decoders(threading.local):
    """FFmpeg contexts are not thread-safe and cost 100 decodes to open: one set a thread."""

    def __init__(self):
        self.codecs = {name: av.CodecContext.create(name, "r") for name in ("mjpeg", "png")}
        for codec in self.codecs.values():
            codec.thread_type = "NONE"
        self.to_rgb = VideoReformatter()


_decoders = _Decoders()


def decode_image(data: bytes) -> np.ndarray:
    """JPEG or PNG bytes to uint8 RGB [H, W, 3]; alpha is dropped. ImageError if damaged."""
    if data[:2] == b"\xff\xd8":
        name, whole = "mjpeg", data.rfind(b"\xff\xd9") > 0
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        name, whole = "png", data.rfind(b"IEND") > 0
    else:
        raise ImageError(f"not a JPEG or PNG image: {len(data)} bytes that begin {data[:8]!r}")
    if not whole:  # FFmpeg would fill up the rest of a JPEG with grey, without an error
        raise ImageError(f"truncated {name} image of {len(data)} bytes: its end mark is missing")
    try:
        packet = av.Packet(data)
        packet.is_keyframe = True  # else FFmpeg's PNG decoder adds the picture before it
        frames = _decoders.codecs[name].decode(packet)
        frame = _decoders.to_rgb.reformat(frames[0], format="rgb24", threads=1)
    except (FFmpegError, IndexError, ValueError) as e:
        raise ImageError(f"damaged {name} image of {len(data)} bytes: {e}") from e
    if frames[0].is_corrupt:
        raise ImageError(f"damaged {name} image of {len(data)} bytes")
    return frame.to_ndarray()


# ---------------------------------------------------------------- sizes


@functools.lru_cache(maxsize=64)
def _area_weights(source: int, target: int) -> np.ndarray:
    """float32 [target, source]: output i averages input over [i, i + 1) * source / target."""
    edges = np.arange(target + 1) * (source / target)
    pixel = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights = np.maximum(overlap, 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _shrink(frame: np.ndarray, factor: int) -> np.ndarray:
    """Area average by a whole factor. Without matrix products: their threads would fight a
    trainer's."""
    wide = frame.astype(np.uint32)
    total = sum(wide[i::factor, j::factor] for i in range(factor) for j in range(factor))
    return np.rint(total / np.float32(factor * factor)).astype(np.uint8)


def _check_pixels(frame: np.ndarray) -> None:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or 0 in frame.shape:
        raise ValueError(f"a frame is uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}")


def fit(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Any uint8 frame [h, w, 3] into [height, width, 3]: whole, in its own aspect, with grey bars.

    A letterbox, not a crop: what is asked about may be at the rim. Pixels are averaged over the
    area that they cover (exact for whole ratios); a smaller frame is enlarged.
    """
    _check_pixels(frame)
    h, w, _ = frame.shape
    if (h, w) == (height, width):
        return frame
    scale = min(height / h, width / w)
    new_h, new_w = max(1, round(h * scale)), max(1, round(w * scale))
    if h == new_h * (h // new_h) and w == new_w * (h // new_h):
        small = _shrink(frame, h // new_h)
    else:
        rows = _area_weights(h, new_h) @ frame.reshape(h, w * 3).astype(np.float32)
        both = _area_weights(w, new_w) @ rows.reshape(new_h, w, 3)  # [new_h, new_w, 3]
        small = np.rint(both).astype(np.uint8)
    if (new_h, new_w) == (height, width):
        return small
    out = np.full((height, width, 3), GREY, np.uint8)
    top, left = (height - new_h) // 2, (width - new_w) // 2
    out[top : top + new_h, left : left + new_w] = small
    return out


# ---------------------------------------------------------------- the frame clock


@dataclasses.dataclass(frozen=True)
class PairState:
    """Frames not yet asked for, and what was lost so far."""

    waiting: tuple[tuple[float, Frame], ...] = ()
    late: int = 0  # frames whose slice had passed when they came
    bad: int = 0  # images that did not decode


@dataclasses.dataclass(frozen=True)
class FramePairs:
    """The frame clock: of the frames in a micro-turn's [start_s, end_s) the last two form its pair.

    A single one is doubled; without any there is no pair and the micro-turn no video position.
    Frames may come in any portions and run ahead; only those before their slice is asked for count.
    Images may be encoded: only those that are used are decoded, a damaged one counts as absent.
    """

    config: VideoConfig

    def init(self) -> PairState:
        return PairState()

    def step(
        self,
        state: PairState,
        frames: Iterable[tuple[float, Frame]],
        start_s: float,
        end_s: float,
    ) -> tuple[PairState, np.ndarray | None]:
        """Takes what newly arrived, returns the pair uint8 [2, H, W, 3] of the slice, or None.

        Raises ValueError for a time that is not finite and pixels that are no picture, also of a
        frame that has yet to wait for its slice: then it is too late to refuse it.
        """
        start_s, end_s = start_s - EPSILON_S, end_s - EPSILON_S
        new = in_order(frames)
        for _, frame in new:
            if not isinstance(frame, bytes):
                _check_pixels(frame)
        known = sorted((*state.waiting, *new), key=lambda item: item[0])  # stable
        late = sum(time_s < start_s for time_s, _ in known)
        waiting = tuple(item for item in known if item[0] >= end_s)
        last, bad = [], 0
        for _, frame in reversed(known[late : len(known) - len(waiting)]):
            if len(last) == 2:
                break
            try:
                last.append(self._pixels(frame))
            except ImageError as e:
                bad += 1
                logging.log_first_n(logging.WARNING, "frame skipped: %s", 5, e)
        state = PairState(waiting, state.late + late, state.bad + bad)
        return state, np.stack([last[-1], last[0]]) if last else None

    def _pixels(self, frame: Frame) -> np.ndarray:
        c = self.config
        pixels = decode_image(frame) if isinstance(frame, bytes) else frame
        return fit(pixels, c.rows * c.patch, c.cols * c.patch)


def in_order(frames: Iterable[tuple[float, Frame]]) -> list[tuple[float, Frame]]:
    """The frames by their times. Raises ValueError for a time that is not finite."""
    found = sorted(frames, key=lambda item: item[0])
    for time_s, _ in found:
        if not math.isfinite(time_s):
            raise ValueError(f"a frame at {time_s} s; accepted are finite times")
    return found


def frame_pairs(
    config: VideoConfig,
    frames: Iterable[tuple[float, Frame]],
    micro_turns: Sequence[tuple[float, float]],
) -> list[np.ndarray | None]:
    """One-shot `FramePairs`: the pair (or None) of every slice (start_s, end_s), in order."""
    clock, pairs = FramePairs(config), []
    frames = in_order(frames)
    times = [time_s for time_s, _ in frames]
    for start_s, end_s in micro_turns:
        first, stop = (bisect.bisect_left(times, t - EPSILON_S) for t in (start_s, end_s))
        pairs.append(clock.step(clock.init(), frames[first:stop], start_s, end_s)[1])
    return pairs


def patches(pair: np.ndarray, config: VideoConfig) -> np.ndarray:
    """A pair [2, rows * P, cols * P, 3] as patches [rows * cols, 2, P, P, 3], row by row."""
    rows, cols, size = config.rows, config.cols, config.patch
    if pair.shape != (2, rows * size, cols * size, 3):
        wanted = [2, rows * size, cols * size, 3]
        raise ValueError(f"a pair for this config is {wanted}, not {list(pair.shape)}")
    grid = pair.reshape(2, rows, size, cols, size, 3)
    return grid.transpose(1, 3, 0, 2, 4, 5).reshape(rows * cols, 2, size, size, 3)
