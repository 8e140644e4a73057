"""Further input streams, a file each: `config.streams` names those that a model has.

Sound, video and typed text are part of every model. What else one may sense, a pointer or a sensor,
is a file in this folder and is listed nowhere else; `InputStream` is what the file has. A record
holds its events under the file's name. Their positions come last in the input of a micro-turn, and
one without events has none. A file is imported when a config names it: its tower needs jax.
"""

from __future__ import annotations

import functools
import importlib
import math
import pkgutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from tmi.config import Config, ConfigError

if TYPE_CHECKING:
    from tmi.microturn import Layout

Event = tuple[float, bytes]  # seconds since the session opened, and what the file says it holds


class InputStream(Protocol):
    """What a file of this folder has.

    SHAPE, DTYPE: of the content of one position. MOST: positions of a micro-turn at most.
    Tower(config, key): an nnx.Module from contents [B, N, *SHAPE] to their embeddings [B, N, D],
    of about unit variance.
    """

    SHAPE: tuple[int, ...]
    DTYPE: type[np.generic]
    MOST: int
    Tower: Any

    def slots(self, config: Config) -> int:
        """Contents that a training row has room for; sessions are cut where it ends."""
        ...

    def init(self) -> Any:
        """The state of a session that has begun."""
        ...

    def step(
        self, state: Any, events: Sequence[Event], start_s: float, end_s: float
    ) -> tuple[Any, np.ndarray | None]:
        """State and contents DTYPE [n <= MOST, *SHAPE], or None, after the events of a slice.

        `events` lie in [start_s, end_s), in the order of their times. Never changes `state` in
        place. Raises ValueError, naming what is accepted, for one that cannot be read.
        """
        ...


def names() -> list[str]:
    """The streams that there are."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__))


@functools.cache
def load(name: str) -> InputStream:
    """The file of that name. Raises ConfigError if there is none."""
    if name not in names():
        accepted = ", ".join(names())
        raise ConfigError(f"config.streams names {name!r}; in tmi/streams there is: {accepted}")
    return cast(InputStream, importlib.import_module(f"{__name__}.{name}"))


def of(config: Config) -> dict[str, InputStream]:
    """A model's further streams by name, in the order of the config."""
    return {name: load(name) for name in config.streams}


def batch_key(name: str) -> str:
    """The name of the contents' array in a batch; the tower's parameters begin with it as well."""
    return f"streams.{name}"


# -- events to contents: the same for the trainer's features and for a live session ----------------


def init(lay: Layout) -> dict[str, Any]:
    """The states of a session that has begun, by stream."""
    return {name: stream.init() for name, stream in lay.streams.items()}


def step(
    lay: Layout, states: Mapping[str, Any], events: Mapping[str, Sequence[Event]], m: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """States and contents DTYPE [n, *SHAPE] of the streams that have some, after micro-turn `m`.

    Raises ValueError, and `states` are as they were, for events of a stream that the model does not
    have, of another micro-turn, or that their stream cannot read.
    """
    for name in events:
        if name not in lay.streams:
            accepted = ", ".join(lay.streams) or "none, its config.streams is ()"
            raise ValueError(f"events of {name!r}; streams of this model: {accepted}")
    start_s, end_s = lay.input_interval(m)
    after, contents = {}, {}
    for name, stream in lay.streams.items():
        mine = sorted(events.get(name, ()), key=lambda event: event[0])
        for time_s, _ in mine:
            if not math.isfinite(time_s) or lay.microturn_reading(time_s) != m:
                raise ValueError(
                    f"a {name} event at {time_s} s for micro-turn {m}; "
                    f"accepted are times in [{start_s:g}, {end_s:g}) s"
                )
        after[name], content = stream.step(states[name], mine, start_s, end_s)
        if content is None or not len(content):
            continue
        if (
            content.dtype != stream.DTYPE
            or content.shape[1:] != stream.SHAPE
            or len(content) > stream.MOST
        ):
            raise ValueError(
                f"step of stream {name!r} made {content.dtype} {content.shape}; accepted is "
                f"{np.dtype(stream.DTYPE)} [n <= {stream.MOST}, *{stream.SHAPE}]"
            )
        contents[name] = content
    return after, contents


def slices(
    lay: Layout, events: Mapping[str, Sequence[Event]], duration_s: float
) -> list[dict[str, list[Event]]]:
    """The events that each micro-turn of a recorded session reads.

    Those of streams that the model does not have are left out, as video is from a model without.
    Raises ValueError for a time outside the session.
    """
    out: list[dict[str, list[Event]]] = [{} for _ in range(lay.num_microturns(duration_s))]
    for name in lay.streams:
        for time_s, data in events.get(name, ()):
            m = lay.microturn_reading(time_s) if math.isfinite(time_s) else -1
            if not 0 <= m < len(out):
                raise ValueError(
                    f"a {name} event at {time_s} s; accepted are times in [0, {duration_s:g}) s"
                )
            out[m].setdefault(name, []).append((time_s, data))
    return out
