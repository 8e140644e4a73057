"""The streaming decoder: many sessions, one compiled call a micro-turn; and the command that runs
files through it.

python -m tmi.decode.stream --workdir=W --wav=F [--video=F] [--text=F] --out=DIR
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tmi import command, compiled, mesh, numerics, paths, streams
from tmi.config import Config
from tmi.data.records import SessionRecord
from tmi.decode import recording
from tmi.decode.recording import Recorder
from tmi.decode.step import StreamState, init_state, input_chunk, microturn_step
from tmi.evals.trace import Trace, TraceTurn
from tmi.media import video
from tmi.media.audio import DMel, from_int16
from tmi.media.text import TextStream, Tokenizer
from tmi.microturn import Microturn, layout
from tmi.models import tree
from tmi.models.cache import FEW_ROWS

MOST_AHEAD_S = 2.0  # a frame may come this much before the slice that shows it
PIECE = 256  # characters of typed text that are encoded at a time, and what is left of the word
BETWEEN_WORDS = re.compile(r"(?<=\S) (?=\S)")  # no token lies on both sides


@dataclasses.dataclass
class MicroturnOutput:
    """What one session wrote in one micro-turn; `wave` float32 [samples] plays over the layout's
    output interval. `text` holds whole characters: the bytes of one that is not whole yet wait for
    the micro-turn that ends it."""

    text: str
    spoke: bool
    wave: np.ndarray
    record: dict[str, np.ndarray] | None = None  # of tmi/decode/replay.py


class SessionReader:
    """Cuts one session's input into micro-turns: dMel, frame pairs, typed text and the events of
    further streams, each streaming."""

    def __init__(self, config: Config, tokenizer: Tokenizer, dmel: DMel):
        self._config, self._tokenizer, self._dmel = config, tokenizer, dmel
        self._lay = layout(config)
        self._pairs = video.FramePairs(config.video)
        self._audio_state, self._pair_state = dmel.init(), self._pairs.init()
        self._sense_states = streams.init(self._lay)
        # Typed text beyond a micro-turn's room: tokens of its next words, then what is to be
        # encoded. A long text is not encoded at once: others wait for the same heartbeat.
        self._tokens: list[int] = []
        self._typed: tuple[str, ...] = ()
        self._m = 0

    def read(
        self, samples: np.ndarray, frames: Iterable = (), text: str = "",
        events: Mapping[str, Sequence[streams.Event]] | None = None,
    ) -> Microturn:  # fmt: skip
        """The next micro-turn. samples float32, at most one micro-turn's (missing ones are
        silence); frames (pts_s, image); events (time_s, bytes) of the micro-turn by further stream.

        Frames are for this slice or one that begins within MOST_AHEAD_S of its end, and none is
        seen by a model without room for video.

        Raises ValueError, and nothing is read, for too many samples or such as are no wave, frames
        that are no picture, have no time or one far ahead, text that UTF-8 cannot hold and events
        that cannot be.
        """
        lay = self._lay
        if len(samples) > lay.samples:
            raise ValueError(f"{len(samples)} samples in a chunk; a micro-turn has {lay.samples}")
        samples = np.pad(samples, (0, lay.samples - len(samples)))
        # All that may raise comes first, then all that changes: who is refused can try again.
        interval = lay.input_interval(self._m)
        sense_states, sensed = streams.step(lay, self._sense_states, events or {}, self._m)
        frames = list(frames) if self._config.data.video_slots else []
        pair_state, pair = self._pairs.step(self._pair_state, frames, *interval)
        for pts, _ in frames:
            if pts > interval[1] + MOST_AHEAD_S:
                raise ValueError(
                    f"a frame at {pts} s in the micro-turn of {interval[0]:.1f} to "
                    f"{interval[1]:.1f} s; accepted are seconds of the session, up to "
                    f"{MOST_AHEAD_S} s ahead"
                )
        patches = None if pair is None else video.patches(pair, self._config.video)
        tokens, typed = self._next_tokens(text)
        audio_state, bins = self._dmel.step(self._audio_state, samples)

        self._sense_states, self._pair_state = sense_states, pair_state
        self._audio_state, self._typed = audio_state, typed
        self._tokens = tokens[lay.max_text_in :]
        self._m += 1
        return Microturn(
            audio=bins, video=patches, text_in=tokens[: lay.max_text_in], sensed=sensed
        )

    def _next_tokens(self, text: str) -> tuple[list[int], tuple[str, ...]]:
        """A micro-turn's worth of tokens, or all that wait; and the text behind them."""
        Tokenizer.check(text)
        tokens, typed = list(self._tokens), self._typed + ((text,) if text else ())
        while typed and len(tokens) < self._lay.max_text_in:
            end = BETWEEN_WORDS.search(typed[0], PIECE)
            at = end.start() if end else len(typed[0])
            tokens += self._tokenizer.encode(typed[0][:at])
            typed = (*((typed[0][at:],) if end else ()), *typed[1:])
        return tokens, typed

    @property
    def waiting(self) -> bool:
        """Whether following micro-turns have typed text to read."""
        return bool(self._tokens or self._typed)


class Decoder:
    """A model with `slots` rows for live sessions."""

    def __init__(
        self, config: Config, params: dict, slots: int | None = None, seed: int | None = None,
        record: bool = False,
    ):  # fmt: skip
        """`slots` and `seed` are those of config.decode by default. With `record` the outputs of
        `step` hold what tmi/decode/replay.py needs."""
        self.config = config
        self.slots = slots = config.decode.slots if slots is None else slots
        self.layout = layout(config)
        self.tokenizer = Tokenizer.load(config.text.tokenizer)
        self._dmel = DMel(config.audio)
        self._texts = [TextStream(self.tokenizer)] * slots  # each session begins its own
        self._served = numerics.jit(config.model.numerics, functools.partial(tree.served, config))
        self.use(params)
        self.seed = config.decode.seed if seed is None else seed
        self._state: StreamState = init_state(config, slots)

        def step(params, *args):
            model = jax.tree.unflatten(self._model, params)
            # A CPU takes the few rows that most inputs have; others waste no pass on the weights.
            rows = FEW_ROWS if mesh.one_cpu() else 0
            return microturn_step(config, model, *args, record=record, rows=rows)

        self._step = numerics.jit(config.model.numerics, step, donate_argnums=1)
        self._warm_up()

    @classmethod
    def load(
        cls, workdir: paths.PathLike, slots: int | None = None, record: bool = False, **overrides
    ) -> Decoder:
        """From a training workdir or a shipped checkpoint; `overrides` of config.decode."""
        from tmi.train.checkpoint import restore_params

        config, params = tree.layer_by_layer(*restore_params(workdir))
        if overrides:
            config = dataclasses.replace(
                config, decode=dataclasses.replace(config.decode, **overrides)
            )
        return cls(config, params, slots, record=record)

    def use(self, params: dict) -> None:
        """From the next micro-turn on the model has these weights: sessions should begin anew."""
        model = self._served({k: jnp.asarray(v, jnp.float32) for k, v in params.items()})
        # A list: who calls takes a module apart for a millisecond.
        self._params, self._model = jax.tree.flatten(model)

    def reader(self) -> SessionReader:
        return SessionReader(self.config, self.tokenizer, self._dmel)

    def _warm_up(self) -> None:
        """Compiles the one call, on nobody's behalf."""
        self.step([None] * self.slots, [True] * self.slots)

    def num_positions(self) -> list[int]:
        """Positions of each slot's session so far."""
        length, ended = jax.device_get((self._state.cache.length, self._state.ended))
        return [int(n) + int(end) for n, end in zip(length, ended, strict=True)]

    def num_compiles(self) -> int:
        return self._step._cache_size()  # pyright: ignore[reportFunctionMemberAccess, reportAttributeAccessIssue]

    def step(
        self, inputs: Sequence[Microturn | None], fresh: Sequence[bool] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[MicroturnOutput | None]:  # fmt: skip
        """One micro-turn of every slot whose input is not None; `fresh` slots start a new session,
        with `seeds` of their own (by default the decoder's). One dispatch."""
        for name, given in (("inputs", inputs), ("fresh", fresh), ("seeds", seeds)):
            if given is not None and len(given) != self.slots:
                raise ValueError(f"{len(given)} {name} for {self.slots} slots")
        seed = np.array([self.seed] * self.slots if seeds is None else seeds, np.uint32)
        exec_mask = np.array([x is not None for x in inputs])
        reset_mask = np.zeros(self.slots, bool) if fresh is None else np.array(fresh, bool)
        chunk = input_chunk(self.config, list(inputs))
        self._state, out = self._step(
            self._params,
            self._state,
            chunk,
            exec_mask,
            reset_mask,
            seed,
        )
        for i in np.flatnonzero(reset_mask):
            self._texts[i] = self.tokenizer.stream()
        tokens, num_tokens, spoke, wave, record = jax.device_get(out)
        result: list[MicroturnOutput | None] = []
        for i in range(self.slots):
            if not exec_mask[i]:
                result.append(None)
                continue
            written = tokens[i, : num_tokens[i]]
            text = self._texts[i].push(written.tolist())
            kept = None
            if record is not None:
                kept = recording.of_slot(record, i, written, bool(spoke[i]))
            result.append(MicroturnOutput(text, bool(spoke[i]), wave[i], kept))
        return result

    def run(
        self,
        sessions: Iterable[SessionRecord],
        progress: Callable[[Trace], None] | None = None,
        system: str = "model",
        real_time: bool = False,
        recorded: Callable[[str, Recorder], None] | None = None,
    ) -> list[Trace]:
        """Streams sessions chunk by chunk, as many at a time as there are slots; traces in order.

        With `real_time` a chunk is handed over when the wall clock says that it has been spoken.
        `recorded` gets each session's id and bits, if this decoder records.
        """
        begun, calls = time.perf_counter(), 0
        queue = list(enumerate(sessions))[::-1]
        running: list[_Running | None] = [None] * self.slots
        done: dict[int, Trace] = {}
        while queue or any(running):
            fresh = [False] * self.slots
            for i in range(self.slots):
                if running[i] is None and queue:
                    running[i] = _Running(*queue.pop(), self)
                    fresh[i] = True
            seeds = [0 if r is None else r.seed for r in running]
            calls += 1
            if real_time:
                time.sleep(max(0.0, begun + calls * self.layout.seconds - time.perf_counter()))
            start = time.perf_counter()
            inputs = [None if r is None else r.read() for r in running]
            outputs = self.step(inputs, fresh, seeds)
            wall_ms = (time.perf_counter() - start) * 1e3
            for i, (r, mt, out) in enumerate(zip(running, inputs, outputs, strict=True)):
                if r is None or mt is None or out is None:
                    continue
                r.write(mt, out, wall_ms)
                if r.finished:
                    r.end(self._texts[i].close())
                    done[r.order] = r.trace(system)
                    running[i] = None
                    if recorded:
                        recorded(r.record.id, r.recorder)
                    if progress:
                        progress(done[r.order])
        return [done[i] for i in sorted(done)]


class _Running:
    """A session of a record in a slot: as long as the record, or until all typed text is read."""

    def __init__(self, order: int, record: SessionRecord, decoder: Decoder):
        self.order, self.record = order, record
        self.lay, self.tokenizer = decoder.layout, decoder.tokenizer
        self.seed = (decoder.seed + zlib.crc32(record.id.encode())) % 2**32  # whatever its slot
        self.recorder = Recorder(decoder.config, self.seed)
        self.reader = decoder.reader()
        self.typed = decoder.tokenizer.stream()
        self.audio = from_int16(record.user_audio)
        self.frames = self._by_microturn(record.frames)
        self.text = self._by_microturn(record.text_in)
        self.total = max([self.lay.num_microturns(record.duration_s), *(m + 1 for m in self.text)])
        self.events = streams.slices(self.lay, record.events, record.duration_s)
        self.turns: list[TraceTurn] = []
        self.waves: list[np.ndarray] = []

    def _by_microturn(self, items: Iterable[tuple[float, Any]]) -> dict[int, list]:
        out = collections.defaultdict(list)
        for item in items:
            out[self.lay.microturn_reading(item[0])].append(item)
        return out

    @property
    def finished(self) -> bool:
        return len(self.turns) >= self.total and not self.reader.waiting

    def read(self) -> Microturn:
        m, samples = len(self.turns), self.lay.samples
        text = "".join(text for _, text in self.text.get(m, ()))
        wave = self.audio[m * samples : (m + 1) * samples]
        events = self.events[m] if m < len(self.events) else {}
        return self.reader.read(wave, self.frames.get(m, ()), text, events)

    def write(self, mt: Microturn, out: MicroturnOutput, wall_ms: float) -> None:
        text_in = self.typed.push(list(mt.text_in))
        self.turns.append(
            TraceTurn(len(self.turns), text_in, mt.video is not None, out.text, out.spoke, wall_ms)
        )
        self.waves.append(out.wave)
        if out.record is not None:
            self.recorder.add(mt, out.record)

    def end(self, written: str) -> None:
        """What is left of characters that never came whole, `written` of the output's."""
        last = self.turns[-1]
        self.turns[-1] = dataclasses.replace(
            last, text_in=last.text_in + self.typed.close(), text_out=last.text_out + written
        )

    def trace(self, system: str) -> Trace:
        # Nothing can be heard before the first output interval.
        silence = np.zeros(self.lay.samples, np.float32)
        wave = np.concatenate([silence, *self.waves])
        return Trace(
            self.record.id,
            system,
            self.lay.seconds,
            self.turns,
            self.audio,
            wave,
            {"skills": self.record.skills},
        )


# -- the command ---------------------------------------------------------------------------------


def main(_) -> None:
    import soundfile
    from absl import flags, logging

    from tmi.decode.files import record_of_files
    from tmi.evals import trace as trace_lib
    from tmi.train.checkpoint import CheckpointError, restore_params

    logging.set_verbosity(logging.WARNING)
    compiled.keep()
    f = flags.FLAGS
    # All that is given is looked at before anything is compiled.
    with command.one_line(CheckpointError, OSError, ValueError):
        files = [file for file in (f.wav, f.video, f.text) if file]
        if not (files or f.example):
            raise ValueError(
                "nothing to hear, see or read: give --wav=F, --video=F, --text=F or --example"
            )
        for file in files:
            if not paths.local(file).is_file():
                raise FileNotFoundError(f"{file}: no such file")
        out = paths.local(f.out)
        config, params = tree.layer_by_layer(*restore_params(f.workdir))
        if f.example:
            record = example(f.workdir)
        else:
            typed = _typed(f.text) if f.text else ""
            record = record_of_files(config, f.wav, f.video, typed, f.tail)
        out.mkdir(parents=True, exist_ok=True)
    decoder = Decoder(config, params)
    microturn = decoder.layout.seconds
    print(
        f"{record.duration_s:.1f} s of input, "
        f"{decoder.layout.num_microturns(record.duration_s)} micro-turns of {microturn} s"
    )
    (trace,) = decoder.run([record])
    path = trace_lib.save(trace, out)
    soundfile.write(out / "output.wav", trace.output_audio, 16_000)
    n = max(len(trace.output_audio), len(trace.user_audio))
    both = np.stack(
        [np.pad(w, (0, n - len(w))) for w in (trace.user_audio, trace.output_audio)], axis=1
    )
    soundfile.write(out / "conversation.wav", both, 16_000)
    (out / "output.txt").write_text("".join(f"{s:8.1f} s  {w}\n" for w, s, _ in trace.words()))
    for word, start, _ in trace.words():
        print(f"  {start:6.1f} s  {word}")
    wall = np.array([t.wall_ms for t in trace.turns])
    print(
        f"a micro-turn took {np.median(wall):.1f} ms (median), "
        f"{np.percentile(wall, 99):.1f} ms (p99)"
    )
    print(
        f"sound: {out}/output.wav, with the user on the left: {out}/conversation.wav, "
        f"text: {out}/output.txt, trace: {path}"
    )


def _typed(file: str) -> str:
    try:
        return paths.local(file).read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise ValueError(f"{file} is no text in UTF-8: {e}") from e


def example(workdir: paths.PathLike) -> SessionRecord:
    """The held-out session that lies beside a shipped checkpoint."""
    from tmi.data import records

    path = paths.at(workdir) / "example.session"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: --example needs a shipped checkpoint such as assets/nano"
        )
    return records.decode(path.read_bytes())


if __name__ == "__main__":
    from absl import app, flags

    flags.DEFINE_string(
        "workdir", None, "A training workdir or a shipped checkpoint.", required=True
    )
    flags.DEFINE_string("wav", "", "What the user says: any file with sound.")
    flags.DEFINE_string("video", "", "What the camera sees: any video file.")
    flags.DEFINE_string("text", "", "A file of text that the user types at the start.")
    flags.DEFINE_float(
        "tail", 4.0, "Seconds of silence after the files' end, for the answer.", lower_bound=0.0
    )
    flags.DEFINE_bool("example", False, "Stream the session that is shipped with the checkpoint.")
    flags.DEFINE_string("out", "build/stream", "Where the results go.")
    app.run(main)
