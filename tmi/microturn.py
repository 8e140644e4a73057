"""The clock and the layout of a micro-turn: the keystone of the code base.

Time is cut into micro-turns. In micro-turn `m` the model reads the input of [T m, T (m+1)) s and
then writes output that plays over [T (m+1), T (m+2)) s, T = 0.2 s by default. This module alone
knows how many positions a micro-turn has, in which order they come, and what time a position stands
for. Data, model, decoder, server and scorers ask here.

The positions of a micro-turn, ragged:

    AUDIO_IN x k | VIDEO_IN x g, if a frame came | TEXT_IN, a token each, if text came |
    what further streams sensed (tmi/streams), if they did |
    TEXT_OUT, a token each, the last one END | AUDIO_OUT x p, if END was <speak>

END is `<eom>` in a silent micro-turn (its only output position) and `<speak>` before speech. A
position's hidden state predicts what the *next* position holds if that is an output position: a
token (text unembedding) or a patch of mel frames (flow head). So the model reads everything of a
slice before it writes, and nothing later.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

import numpy as np

from tmi import streams
from tmi.config import Config
from tmi.streams import InputStream

PAD_ID, EOM_ID, SPEAK_ID = 0, 1, 2  # special tokens, as in tmi/media/text.py


class Stream(enum.IntEnum):
    """What a position holds. Streams that a config names follow: see `Layout.stream_numbers`."""

    PAD = 0
    AUDIO_IN = 1
    VIDEO_IN = 2
    TEXT_IN = 3
    TEXT_OUT = 4
    AUDIO_OUT = 5


NUM_STREAMS = len(Stream)
MAX_HEARD = 6  # tokens of what is said or seen that are asked for at one position


# -- the clock: the one place that says when things are, for `seconds` a micro-turn ----------------


def output_interval(seconds: float, m: int) -> tuple[float, float]:
    """Seconds [start, end) over which the output of micro-turn `m` plays."""
    return (m + 1) * seconds, (m + 2) * seconds


def microturn_reading(seconds: float, time_s: float) -> int:
    """The micro-turn that reads input of time `time_s`."""
    return int(np.floor(time_s / seconds + 1e-6))


def microturn_playing(seconds: float, time_s: float) -> int:
    """The micro-turn whose output plays at `time_s`; -1 before the first can be heard."""
    return microturn_reading(seconds, time_s) - 1


def num_microturns(seconds: float, duration_s: float) -> int:
    """Micro-turns needed to read `duration_s` seconds of input."""
    return max(1, int(np.ceil(duration_s / seconds - 1e-6)))


@dataclasses.dataclass(frozen=True)
class Layout:
    """Counts and shapes of a micro-turn's positions, derived from a Config."""

    seconds: float
    audio_positions: int  # k
    audio_frames: int  # dMel frames of one AUDIO_IN position
    audio_mels: int
    video_positions: int  # g
    patch: int  # pixels
    max_text_in: int
    max_text_out: int
    speech_positions: int  # p
    speech_frames: int  # mel frames of one AUDIO_OUT position
    speech_mels: int
    kv_block: int
    sample_rate: int
    streams: Mapping[str, InputStream] = dataclasses.field(default_factory=dict, hash=False)

    def input_interval(self, m: int) -> tuple[float, float]:
        """Seconds [start, end) of the input that micro-turn `m` reads."""
        return m * self.seconds, (m + 1) * self.seconds

    def output_interval(self, m: int) -> tuple[float, float]:
        """Seconds [start, end) over which the output of micro-turn `m` plays."""
        return output_interval(self.seconds, m)

    def output_tenths(self, m):
        """Whole tenths of a second, of the session, at which the output of micro-turn `m` begins to
        play: an integer, or an array of the type of `m`."""
        tenths = Fraction(10 * self.samples, self.sample_rate)
        return (m + 1) * tenths.numerator // tenths.denominator

    def microturn_reading(self, time_s: float) -> int:
        """The micro-turn that reads input of time `time_s`."""
        return microturn_reading(self.seconds, time_s)

    def microturn_playing(self, time_s: float) -> int:
        """The micro-turn whose output plays at `time_s`; -1 before the first can be heard."""
        return microturn_playing(self.seconds, time_s)

    def num_microturns(self, duration_s: float) -> int:
        """Micro-turns needed to read `duration_s` seconds of input."""
        return num_microturns(self.seconds, duration_s)

    @property
    def samples(self) -> int:
        """Audio samples of one micro-turn."""
        return round(self.seconds * self.sample_rate)

    @property
    def max_input_positions(self) -> int:
        sensed = sum(stream.MOST for stream in self.streams.values())
        return self.audio_positions + self.video_positions + self.max_text_in + sensed

    @property
    def max_output_positions(self) -> int:
        return self.max_text_out + self.speech_positions

    @property
    def max_positions(self) -> int:
        return self.max_input_positions + self.max_output_positions

    @property
    def stream_numbers(self) -> dict[str, int]:
        """What positions of the streams that the config names hold in place of a `Stream`."""
        return {name: NUM_STREAMS + i for i, name in enumerate(self.streams)}


def layout(config: Config) -> Layout:
    a, v, s, t = config.audio, config.video, config.speech, config.microturn
    return Layout(
        seconds=t.seconds,
        audio_positions=round(t.seconds / a.hop_s) // a.frames_per_position,
        audio_frames=a.frames_per_position,
        audio_mels=a.num_mels,
        video_positions=v.rows * v.cols,
        patch=v.patch,
        max_text_in=t.max_text_in,
        max_text_out=t.max_text_out,
        speech_positions=round(t.seconds * s.sample_rate / s.hop) // s.frames_per_position,
        speech_frames=s.frames_per_position,
        speech_mels=s.num_mels,
        kv_block=t.kv_block,
        sample_rate=a.sample_rate,
        streams=streams.of(config),
    )


@dataclasses.dataclass
class Microturn:
    """What comes in and goes out in one micro-turn. Absent streams are None or empty.

    audio: uint8 [k * audio_frames, mels] dMel bins; video: uint8 [g, 2, patch, patch, 3]; text_in,
    text_out: token ids without END; speech: float32 [p * speech_frames, speech_mels], None when
    silent. `heard` are tokens of words that the user has just said: a target of training (at the
    micro-turn's last audio position), `seen` of what is in view (at its last video position), never
    an input. `due` is the micro-turn in which an answer is due that has just been asked for (a
    target too, at the last position before the output), -1 where none is known. `spelled`: which
    letters sounded a micro-turn ago, a bit each (a target at the last audio position), -1 where
    that is not known. `sensed`: further streams' contents [n, *SHAPE] by name. `taught` is false
    where the output is not to be imitated: no text target.
    """

    audio: np.ndarray | None = None
    video: np.ndarray | None = None
    text_in: Sequence[int] = ()
    text_out: Sequence[int] = ()
    speech: np.ndarray | None = None
    heard: Sequence[int] = ()
    seen: Sequence[int] = ()
    due: int = -1
    spelled: int = -1
    sensed: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    taught: bool = True


@dataclasses.dataclass
class SessionSequence:
    """A session (or its first part) as positions. S positions, A/V/P entries of each kind.

    `slot[s]` is the row of the position's own content: of `dmel`, `video`, `speech` or an array of
    `sensed`, by stream; `sensed` has each stream that the config names, in its order.
    `text_target[s]` is the token that position s+1 holds if that is TEXT_OUT of a micro-turn that
    is taught, else -1.
    `heard[s]` are the tokens of what was just said (at AUDIO_IN) or is in view (at VIDEO_IN) and is
    to be known there, -1 where there are fewer. `due[s]` is `Microturn.due`, `spelled[s]`
    `Microturn.spelled`.
    `speech_source[p]` is the position whose hidden state predicts patch p (the one before it).
    """

    stream: np.ndarray  # int32 [S]
    token: np.ndarray  # int32 [S]
    slot: np.ndarray  # int32 [S]
    microturn: np.ndarray  # int32 [S]
    text_target: np.ndarray  # int32 [S]
    heard: np.ndarray  # int32 [S, MAX_HEARD]
    due: np.ndarray  # int32 [S]
    spelled: np.ndarray  # int32 [S]
    dmel: np.ndarray  # uint8 [A, audio_frames, mels]
    video: np.ndarray  # uint8 [V, 2, patch, patch, 3]
    speech: np.ndarray  # float32 [P, speech_frames, speech_mels]
    speech_source: np.ndarray  # int32 [P]
    sensed: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # [N, *SHAPE] each

    def __len__(self) -> int:
        return len(self.stream)


def input_streams(lay: Layout, mt: Microturn) -> list[tuple[int, int]]:
    """(stream, token) of each input position of a micro-turn, in order: the layout's input half."""
    out: list[tuple[int, int]] = []
    if mt.audio is not None:
        out += [(Stream.AUDIO_IN, 0)] * lay.audio_positions
    if mt.video is not None:
        out += [(Stream.VIDEO_IN, 0)] * lay.video_positions
    if len(mt.text_in) > lay.max_text_in:
        raise ValueError(
            f"{len(mt.text_in)} tokens in; at most {lay.max_text_in} a micro-turn: use spill_text"
        )
    out += [(Stream.TEXT_IN, int(t)) for t in mt.text_in]
    for name in mt.sensed:
        if name not in lay.streams or len(mt.sensed[name]) > lay.streams[name].MOST:
            most = {name: stream.MOST for name, stream in lay.streams.items()}
            raise ValueError(
                f"{len(mt.sensed[name])} contents of stream {name!r}; at most {most} a micro-turn"
            )
    for name, number in lay.stream_numbers.items():
        out += [(number, 0)] * len(mt.sensed.get(name, ()))
    return out


def output_streams(lay: Layout, mt: Microturn) -> list[tuple[int, int]]:
    """(stream, token) of each output position of a micro-turn: the layout's output half."""
    if len(mt.text_out) > lay.max_text_out - 1:
        raise ValueError(
            f"{len(mt.text_out)} tokens out; at most {lay.max_text_out - 1} a micro-turn: "
            "use spill_text"
        )
    out: list[tuple[int, int]] = [(Stream.TEXT_OUT, int(t)) for t in mt.text_out]
    out.append((Stream.TEXT_OUT, EOM_ID if mt.speech is None else SPEAK_ID))
    if mt.speech is not None:
        out += [(Stream.AUDIO_OUT, 0)] * lay.speech_positions
    return out


def spill_text(lay: Layout, microturns: Iterable[Microturn]) -> list[Microturn]:
    """Moves text beyond a micro-turn's room to the following ones; appends micro-turns until none
    is left."""
    out: list[Microturn] = []
    waiting_in: list[int] = []
    waiting_out: list[int] = []
    room_in, room_out = lay.max_text_in, lay.max_text_out - 1

    def emit(mt: Microturn) -> None:
        waiting_in.extend(mt.text_in)
        waiting_out.extend(mt.text_out)
        out.append(
            dataclasses.replace(mt, text_in=waiting_in[:room_in], text_out=waiting_out[:room_out])
        )
        del waiting_in[:room_in], waiting_out[:room_out]

    for mt in microturns:
        emit(mt)
    while waiting_in or waiting_out:
        emit(Microturn())
    return out


def lay_out(lay: Layout, microturns: Sequence[Microturn]) -> SessionSequence:
    """The positions of a session. The text of each micro-turn must fit (see `spill_text`)."""
    entries: list[tuple[int, int]] = []
    turn: list[int] = []
    dmel, video, speech = [], [], []
    heard: dict[int, list[int]] = {}
    due: dict[int, int] = {}
    spelled: dict[int, int] = {}
    for m, mt in enumerate(microturns):
        read = input_streams(lay, mt)
        positions = read + output_streams(lay, mt)
        if mt.due >= 0 and read:
            due[len(entries) + len(read) - 1] = mt.due
        if mt.audio is not None:
            last = len(entries) + lay.audio_positions - 1
            spelled[last] = mt.spelled
            if mt.heard:
                heard[last] = list(mt.heard[:MAX_HEARD])
        if mt.video is not None and mt.seen:
            audio = lay.audio_positions if mt.audio is not None else 0
            heard[len(entries) + audio + lay.video_positions - 1] = list(mt.seen[:MAX_HEARD])
        entries += positions
        turn += [m] * len(positions)
        if mt.audio is not None:
            dmel.append(mt.audio.reshape(lay.audio_positions, lay.audio_frames, lay.audio_mels))
        if mt.video is not None:
            video.append(mt.video.reshape(lay.video_positions, 2, lay.patch, lay.patch, 3))
        if mt.speech is not None:
            speech.append(
                mt.speech.reshape(lay.speech_positions, lay.speech_frames, lay.speech_mels)
            )
    stream = np.array([s for s, _ in entries], np.int32)
    token = np.array([t for _, t in entries], np.int32)
    slot = np.zeros_like(stream)
    numbers = lay.stream_numbers
    for kind in (Stream.AUDIO_IN, Stream.VIDEO_IN, Stream.AUDIO_OUT, *numbers.values()):
        at = stream == kind
        slot[at] = np.arange(at.sum())
    words = np.full((len(stream), MAX_HEARD), -1, np.int32)
    for at, tokens in heard.items():
        words[at, : len(tokens)] = tokens
    times = np.full(len(stream), -1, np.int32)
    times[list(due)] = list(due.values())
    letters = np.full(len(stream), -1, np.int32)
    letters[list(spelled)] = list(spelled.values())
    text_target = np.full_like(token, -1)
    of_turn = np.array(turn, np.int32)
    taught = np.array([mt.taught for mt in microturns], bool)[of_turn]
    text_target[:-1] = np.where((stream[1:] == Stream.TEXT_OUT) & taught[1:], token[1:], -1)
    return SessionSequence(
        stream=stream,
        token=token,
        slot=slot,
        microturn=of_turn,
        text_target=text_target,
        heard=words,
        due=times,
        spelled=letters,
        dmel=_join(dmel, (0, lay.audio_frames, lay.audio_mels), np.uint8),
        video=_join(video, (0, 2, lay.patch, lay.patch, 3), np.uint8),
        speech=_join(speech, (0, lay.speech_frames, lay.speech_mels), np.float32),
        speech_source=np.flatnonzero(stream == Stream.AUDIO_OUT).astype(np.int32) - 1,
        sensed={
            name: _join(
                [mt.sensed[name] for mt in microturns if name in mt.sensed], (0, *s.SHAPE), s.DTYPE
            )
            for name, s in lay.streams.items()
        },
    )


def cut(seq: SessionSequence, max_positions: int, room: Mapping[int, int]) -> SessionSequence:
    """The longest prefix of whole micro-turns within so many positions, and in `room` within so
    many of a stream."""
    within = np.arange(len(seq)) < max_positions
    for kind, most in room.items():
        within &= np.cumsum(seq.stream == kind) <= most
    if within.all():
        return seq
    first_out = seq.microturn[int(np.argmin(within))]
    n = int(np.searchsorted(seq.microturn, first_out))
    stream = seq.stream[:n]
    text_target = seq.text_target[:n].copy()
    if n:
        text_target[-1] = -1
    speech_count = int((stream == Stream.AUDIO_OUT).sum())
    return SessionSequence(
        stream=stream,
        token=seq.token[:n],
        slot=seq.slot[:n],
        microturn=seq.microturn[:n],
        text_target=text_target,
        heard=seq.heard[:n],
        due=seq.due[:n],
        spelled=seq.spelled[:n],
        dmel=seq.dmel[: int((stream == Stream.AUDIO_IN).sum())],
        video=seq.video[: int((stream == Stream.VIDEO_IN).sum())],
        speech=seq.speech[:speech_count],
        speech_source=seq.speech_source[:speech_count],
        sensed={
            name: content[: int((stream == NUM_STREAMS + i).sum())]
            for i, (name, content) in enumerate(seq.sensed.items())
        },
    )


def _join(parts: list[np.ndarray], empty: tuple[int, ...], dtype) -> np.ndarray:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.zeros(empty, dtype)
