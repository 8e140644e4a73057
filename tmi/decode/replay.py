"""Recomputes a recorded session with the trainer's packed forward, and compares every bit.

    python -m tmi.decode.replay --workdir=W --trace=FILE

Exit 0 only if all that the sampler computed (states after each layer, experts, logits, tokens, the
flow from noise to patch) has the bits that the trainer computes of the same inputs, draws and
outputs; else 1, and the first position that differs is named with its layer and tensor.
`python -m tmi.evals --record_bits=K` records. Nothing here knows of caches.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
import sys
import typing
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from tmi import command, compiled, numerics, streams
from tmi.config import Config, ConfigError, DataConfig, from_json
from tmi.data.batch import Batch, empty_batch
from tmi.decode import recording
from tmi.decode.recording import Recording, RecordingError
from tmi.decode.sampling import sample_tokens
from tmi.decode.step import biased, patch_noise, session_key, token_key
from tmi.microturn import SPEAK_ID, Layout, Microturn, Stream, input_streams, layout
from tmi.models import tree
from tmi.models.transformer import dense_layers

# From the deepest cause to what follows of it.
COMPUTED = ("states", "chosen", "logits", "tokens", "flow", "patches")
ROW = 512  # rows are whole multiples of this many positions


class Session(typing.NamedTuple):
    """A recorded session as positions: what they hold, and which of them the draws were made
    from."""

    stream: np.ndarray  # int32 [S]
    token: np.ndarray  # int32 [S]
    slot: np.ndarray  # int32 [S]
    microturn: np.ndarray  # int32 [S]
    text_source: np.ndarray  # int32 [T]: before each token
    text_index: np.ndarray  # int32 [T]: its number in its micro-turn
    text_speaking: np.ndarray  # bool [T]: whether the micro-turn before spoke
    patch_source: np.ndarray  # int32 [p * P]: before each patch
    patch_index: np.ndarray  # int32 [p * P]


@dataclasses.dataclass
class Difference:
    """The first number that differs, and how many do in its tensor at that place."""

    tensor: str
    position: int
    microturn: int
    layer: int | None
    count: int
    size: int
    largest: float

    def __str__(self) -> str:
        layer = "" if self.layer is None else f", layer {self.layer}"
        return (
            f"position {self.position} (micro-turn {self.microturn}){layer}: {self.tensor} differs "
            f"in {self.count} of {self.size} numbers, by up to {self.largest:.3g}"
        )


def session_of(lay: Layout, arrays: dict[str, np.ndarray]) -> Session:
    """The positions of a recording, in the layout's order.

    Raises RecordingError if the parts do not fit each other.
    """
    text_in = _split(arrays, "text_in", "text_in_size")
    tokens = _split(arrays, "tokens", "tokens_size")
    sensed = {n: _split(arrays, f"streams.{n}", f"streams.{n}.size") for n in lay.stream_numbers}
    pictures = dict(zip(arrays["video_turn"].tolist(), arrays["video"], strict=True))
    count = len(arrays["dmel"])
    if not len(text_in) == len(tokens) == count:
        raise RecordingError(f"{count} micro-turns of sound, {len(tokens)} of text")
    entries, turn, text, patches = [], [], [], []
    speaking = False
    for m in range(count):
        given = Microturn(
            audio=arrays["dmel"][m], video=pictures.get(m), text_in=text_in[m].tolist(),
            sensed={n: parts[m] for n, parts in sensed.items() if len(parts[m])},
        )  # fmt: skip
        entries += input_streams(lay, given)
        for n, token in enumerate(tokens[m].tolist()):
            text.append((len(entries) - 1, n, speaking))
            entries.append((Stream.TEXT_OUT, token))
        speaking = SPEAK_ID in tokens[m]
        for p in range(lay.speech_positions if speaking else 0):
            patches.append((len(entries) - 1, p))
            entries.append((Stream.AUDIO_OUT, 0))
        turn += [m] * (len(entries) - len(turn))
    stream, token = np.array(entries, np.int32).T
    slot = np.zeros_like(stream)
    for kind in (Stream.AUDIO_IN, Stream.VIDEO_IN, Stream.AUDIO_OUT, *lay.stream_numbers.values()):
        slot[stream == kind] = np.arange((stream == kind).sum())
    if len(patches) != math.prod(arrays["patches"].shape[:2]):
        raise RecordingError(f"{len(arrays['patches'])} times spoken, {len(patches)} positions")
    source, index, spoke = np.array(text, np.int32).reshape(-1, 3).T
    patch_source, patch_index = np.array(patches, np.int32).reshape(-1, 2).T
    return Session(
        stream, token, slot, np.array(turn, np.int32), source, index, spoke.astype(bool),
        patch_source, patch_index,
    )  # fmt: skip


def _split(arrays: dict[str, np.ndarray], name: str, sizes: str) -> list[np.ndarray]:
    lacking = [n for n in (name, sizes) if n not in arrays]
    if lacking:
        raise RecordingError(f"{lacking[0]} is not in the recording")
    if arrays[sizes].sum() != len(arrays[name]):
        raise RecordingError(f"{name} has {len(arrays[name])} entries, {sizes} says otherwise")
    return np.split(arrays[name], np.cumsum(arrays[sizes])[:-1])


def packed(
    config: Config, s: Session, arrays: dict[str, np.ndarray], room: DataConfig | None = None
) -> tuple[Config, Batch]:
    """A training row that holds the session, and the config of such rows: those of `room`, or as
    long as the session needs."""
    lay = layout(config)
    size = math.lcm(ROW, config.microturn.kv_block)

    def whole(content: np.ndarray) -> int:
        return max(64, -(-len(content) // 64) * 64)

    dmel = arrays["dmel"].reshape(-1, *arrays["dmel"].shape[2:])
    video = arrays["video"].reshape(-1, *arrays["video"].shape[2:])
    speech = arrays["patches"].reshape(-1, lay.speech_frames, lay.speech_mels)
    data = room or dataclasses.replace(
        config.data, row_length=-(-len(s.stream) // size) * size,
        audio_slots=whole(dmel), video_slots=whole(video), speech_slots=whole(speech),
    )  # fmt: skip
    data = dataclasses.replace(data, batch_size=1)
    config = dataclasses.replace(config, data=data)
    batch = empty_batch(config)
    n = len(s.stream)
    for name in ("stream", "token", "slot", "microturn"):
        batch[name][0, :n] = getattr(s, name)
    batch["position"][0, :n], batch["segment"][0, :n] = np.arange(n), 1
    contents = {"dmel": dmel, "video": video, "speech": speech}
    for name in lay.streams:
        contents[streams.batch_key(name)] = arrays[f"streams.{name}"]
    for name, content in contents.items():
        if len(content) > batch[name].shape[1]:
            raise RecordingError(f"{len(content)} entries of {name}: a row has no room for them")
        batch[name][0, : len(content)] = content
    return config, batch


@numerics.by_config
def recompute(config: Config, params, batch, seed, text, patches):
    """states, chosen, logits, tokens and flow of a packed row, by the trainer's forward.

    text: int32 [4, T] of source, micro-turn, number and whether it spoke; patches: int32 [3, P] of
    source, micro-turn and number.
    """
    model = tree.build(config, params)
    out = model(batch, batch["speech"])
    source, turn, index, speaking = text
    assert out.taps is not None  # layers are one by one: tree.layer_by_layer
    logits = biased(config, model.unembed(out.hidden[0, source]), index == 0, speaking > 0)
    keys = jax.vmap(lambda m, n: token_key(session_key(seed, m), n))(turn, index)
    found = {
        "states": out.taps.states[0], "chosen": out.taps.chosen[0], "logits": logits,
        "tokens": sample_tokens(logits, config.decode.temperature, keys),
    }  # fmt: skip
    if config.speech.enabled:
        source, turn, index = patches
        noise = jnp.stack([
            jax.vmap(lambda m, p=p: patch_noise(config, session_key(seed, m), p))(turn)
            for p in range(layout(config).speech_positions)
        ])  # fmt: skip
        noise = jnp.take_along_axis(noise, index[None, :, None], axis=0)[0]
        found["flow"] = model.flow.sample(out.hidden[0, source], noise)
        found["patches"] = found["flow"][:, -1]
    return found


@functools.lru_cache(maxsize=4)
def _compiled(config: Config):
    return numerics.jit(config.model.numerics, functools.partial(recompute, config))


def computed(
    config: Config, params: dict[str, Array], arrays: dict[str, np.ndarray],
    room: DataConfig | None = None,
):  # fmt: skip
    """(the session's positions, what the trainer computes of it as `Recorder.arrays` names it).

    Sessions that fit rows of `room` share one program; without, those of like sizes do.
    """
    s = session_of(layout(config), arrays)
    config, batch = packed(config, s, arrays, room)

    def padded(*rows: np.ndarray, most: int) -> Int[Array, "k n"]:
        """Whole tiles of rows; those beyond repeat the first position."""
        x = np.stack(rows).astype(np.int32)
        size = most if room else max(x.shape[1], 1)
        return jnp.asarray(np.pad(x, ((0, 0), (0, -(-size // 64) * 64 - x.shape[1]))))

    data = config.data
    text = padded(
        s.text_source, s.microturn[s.text_source], s.text_index, s.text_speaking,
        most=data.row_length,
    )  # fmt: skip
    patches = padded(
        s.patch_source, s.microturn[s.patch_source], s.patch_index, most=data.speech_slots
    )
    seed = jnp.asarray(arrays["seed"], jnp.uint32)
    found = jax.device_get(_compiled(config)(params, batch, seed, text, patches))
    # An END that nothing came after was never appended.
    length = len(s.stream) - int(recording.ends(arrays["tokens"]))
    sizes = {
        "states": length, "chosen": length, "logits": len(s.text_source),
        "tokens": len(s.text_source), "flow": len(s.patch_source), "patches": len(s.patch_source),
    }  # fmt: skip
    return s, {n: np.asarray(x)[: sizes[n]] for n, x in found.items()}


def first_difference(
    s: Session, arrays: dict[str, np.ndarray], found: dict[str, np.ndarray],
    mixtures: Sequence[int],
) -> Difference | None:  # fmt: skip
    """Where the recording and what was computed part, the earliest position first, there the
    deepest cause: layers from below, then experts, logits, tokens, flow. `mixtures`: the layers
    that choose experts."""
    own = dict(arrays)
    for name in ("flow", "patches"):
        if name in found:
            own[name] = arrays[name].reshape(found[name].shape)
    places = {
        "logits": s.text_source, "tokens": s.text_source,
        "flow": s.patch_source, "patches": s.patch_source,
    }  # fmt: skip
    best: tuple | None = None
    for order, name in enumerate(COMPUTED):
        if name not in found:
            continue
        a, b = own[name], found[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            raise RecordingError(
                f"{name} is {a.dtype}{list(a.shape)} there; of this checkpoint and these outputs "
                f"it is {b.dtype}{list(b.shape)}"
            )
        differs = bits(a) != bits(b)
        rows = differs.reshape(len(a), math.prod(a.shape[1:])).any(axis=1)
        if not rows.any():
            continue
        row = int(np.argmax(rows))
        position = int(places[name][row]) if name in places else row
        at, layer = (row,), None
        if name in ("states", "chosen"):
            part = int(np.argmax(differs[row].any(axis=-1)))
            at, layer = (row, part), mixtures[part] if name == "chosen" else part
        # A layer chooses its experts before it computes with them.
        key = (position, layer if layer is not None else 1 << 20, name != "chosen", order)
        if best is None or key < best[0]:
            gap = np.abs(a[at].astype(np.float64) - b[at].astype(np.float64))
            best = (key, Difference(
                name, position, int(s.microturn[position]), layer,
                int(differs[at].sum()), differs[at].size, float(np.nanmax(gap)),
            ))  # fmt: skip
    return best[1] if best else None


def bits(x: np.ndarray) -> np.ndarray:
    """Floats as integers: NaN equals itself, and 0 is not -0."""
    return x.view(np.uint32) if x.dtype == np.float32 else x


def replay(config: Config, params: dict[str, Array], found: Recording) -> list[str]:
    """What is wrong with a recording: nothing, if the list is empty.

    Raises RecordingError if it cannot be replayed with this checkpoint.
    """
    problems = [f"{name}: altered since it was recorded" for name in found.altered()]
    now = recording.digests({n: np.asarray(x) for n, x in params.items()})
    then = found.about["weights"]
    for name in sorted({*now, *then}):
        if now.get(name) != then.get(name):
            problems.append(f"weight {name}: not that of the recording's checkpoint")
    if found.about["numerics"] != "invariant":
        problems.append(
            f"recorded under numerics={found.about['numerics']!r}, which promises nothing about "
            "bits; accepted: 'invariant'"
        )
    try:
        s, computed_ = computed(config, params, found.arrays)
        mixtures = [
            i for i in range(config.model.num_layers) if i not in dense_layers(config.model)
        ]
        difference = first_difference(s, found.arrays, computed_, mixtures)
    except (RecordingError, ValueError) as e:
        return [*problems, str(e)]
    return problems + ([str(difference)] if difference else [])


def main(_) -> None:
    from absl import flags

    from tmi.train.checkpoint import CheckpointError, restore_params

    compiled.keep()
    f = flags.FLAGS
    with command.one_line(RecordingError, ConfigError, CheckpointError, says="cannot replay"):
        found = recording.load(f.trace)
        config = from_json(found.about["config"])
        _, params = tree.layer_by_layer(*restore_params(f.workdir))
        problems = replay(config, params, found)
    name = pathlib.Path(f.trace).name
    if problems:
        print(f"{name}: NOT what the trainer computes", file=sys.stderr)
        for problem in problems:
            print(f"  {problem}", file=sys.stderr)
        raise SystemExit(1)
    a = found.arrays
    positions, layers = a["states"].shape[:2]
    print(
        f"{name}: {positions} positions of {len(a['dmel'])} micro-turns, {layers} layers, "
        f"{len(a['logits'])} rows of logits, {len(a['flow'])} times spoken: every bit of "
        "states, experts, logits, tokens and flow is what the trainer computes"
    )


if __name__ == "__main__":
    from absl import app, flags

    flags.DEFINE_string("workdir", None, "The checkpoint that was recorded.", required=True)
    flags.DEFINE_string("trace", None, "A recording: traces/<suite>/<id>.trace.npz.", required=True)
    app.run(main)
