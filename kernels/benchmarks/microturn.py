"""How far a streaming micro-turn is from what the machine allows, and beside what one would run
instead: one JSON object on stdout.

    python kernels/benchmarks/microturn.py --workdir=assets/nano --corpus=build/corpus/dev
        [--positions=8192] [--sessions=1,32] [--transformers]

The limit of a micro-turn is passes x (active weights + live keys and values) / bandwidth + FLOPs /
matmul ceiling, both rates measured in the same run. A pass is one run of the transformer: the
input, each token that is written, each patch that is spoken. Keys and values are live up to the
positions of history that a layer sees.

`again` is the forward pass over two minutes of history that a server without a persistent cache
makes in each turn. --transformers (extra [oracle]) has PyTorch's model of the same shape read 16
tokens and write 8 behind as long a history, with its own cache, eager and compiled, each in turn
with ours.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import os
import sys
import time
import typing

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from turns import inputs

from tmi import machine, numerics
from tmi.config import Config
from tmi.data.records import open_corpus, read_sessions
from tmi.decode.step import input_chunk, max_chunk
from tmi.decode.stream import Decoder
from tmi.microturn import Microturn, Stream, input_streams
from tmi.models import flops, tree
from tmi.models.attention import heads_of, key_dim
from tmi.models.cache import init_cache, pad_rows
from tmi.models.transformer import spans
from tmi.train.checkpoint import restore_params

_WORKDIR = flags.DEFINE_string("workdir", None, "A workdir or shipped checkpoint.", required=True)
_CORPUS = flags.DEFINE_string("corpus", None, "Its sessions are streamed.", required=True)
_POSITIONS = flags.DEFINE_integer("positions", 8192, "Of history.")
_FEW = flags.DEFINE_integer("few_positions", 256, "Of a short history.")
_SESSIONS = flags.DEFINE_list("sessions", ["1", "32"], "Sessions side by side.")
_TURNS = flags.DEFINE_integer("turns", 60, "Micro-turns that are timed.")
_NUMERICS = flags.DEFINE_enum("numerics", "fast", ["fast", "invariant"], "Policy.")
_TRANSFORMERS = flags.DEFINE_bool("transformers", False, "PyTorch's model beside ours.")
WARM = 60  # micro-turns that go before, whose keys and values fill the history
AGAIN_S = 120.0
READ, WRITE = 16, 8  # tokens of a turn beside PyTorch


def remembering(config: Config, positions: int) -> Config:
    """Global layers keep as many positions."""
    blocks = -(-positions // config.microturn.kv_block)
    model = dataclasses.replace(config.model, global_blocks=blocks, numerics=_NUMERICS.value)
    return dataclasses.replace(config, model=model)


def tiled(state, positions: int):
    """The state as if its sessions had lasted `positions`: what they hold, over and over."""
    length = int(state.cache.length[0])

    def over_and_over(x, axis: int):
        size = x.shape[axis]
        own = min(length, size)
        index = jnp.arange(size) % own
        return jnp.take(x, index, axis=axis)

    def layer(c):
        if c.v.ndim == 4:
            return c._replace(k=over_and_over(c.k, 3), v=over_and_over(c.v, 2))
        b, kv, blocks, rows, size = c.v.shape
        v = c.v.transpose(0, 1, 3, 2, 4).reshape(b, kv, rows, blocks * size)
        v = over_and_over(v, 3).reshape(b, kv, rows, blocks, size).transpose(0, 1, 3, 2, 4)
        return c._replace(k=over_and_over(c.k, 2), v=v)

    cache = state.cache._replace(
        length=jnp.full_like(state.cache.length, positions),
        layers=tuple(layer(c) for c in state.cache.layers),
    )
    return state._replace(cache=cache)


def kv_bytes(config: Config, positions: int) -> float:
    """Of one session, live."""
    total = 0.0
    for span in spans(config):
        _, n, hd = heads_of(config.model, span)
        seen = min(positions, span.reach + 1)
        total += 4.0 * n * (key_dim(config.model, span) + hd) * seen
    return total


def weight_bytes(config: Config, params: dict, rows: int) -> float:
    """Of the transformer and the unembedding that `rows` positions need: of the experts those that
    so many are expected to choose."""
    m = config.model
    share = 1 - (1 - m.num_experts_per_token / m.num_experts) ** rows
    total = 0.0
    for name, x in params.items():
        part = name.split(".")[0]
        if part not in ("transformer", "unembed"):
            continue
        expert = x.ndim == 3 and x.shape[0] == m.num_experts
        total += x.nbytes * (share if expert else 1.0)
    return total


class Limit(typing.NamedTuple):
    bandwidth: float
    ceiling: float

    def seconds(self, config: Config, params: dict, turns: list[Microturn], out, positions: int):
        """Of one micro-turn of as many sessions as there are turns."""
        lay_rows = sum(1 + len(input_streams(_layout(config), t)) for t in turns)
        tokens = [o.tokens for o in out]
        spoken = sum(o.spoke for o in out)
        # (rows, sessions): who has ended its text need not be read for those who have not.
        passes = [(lay_rows, len(turns))]
        passes += [(n, n) for k in range(max(tokens)) if (n := sum(t > k for t in tokens))]
        passes += [(spoken, spoken)] * bool(spoken)
        towers = [n for n in params if n.split(".")[0] in ("dmel", "video")]
        if spoken:
            towers += [n for n in params if n.split(".")[0] in ("flow", "speech")]
        moved = sum(params[n].nbytes for n in towers) * 1.0
        for rows, sessions in passes:
            moved += weight_bytes(config, params, rows) + sessions * kv_bytes(config, positions)
        rows = lay_rows + sum(tokens) + spoken
        work = 2.0 * rows * flops.position_macs(config, positions)
        return moved / self.bandwidth + work / self.ceiling, len(passes)


class Written(typing.NamedTuple):
    tokens: int
    spoke: bool


def _layout(config: Config):
    from tmi.microturn import layout

    return layout(config)


def streamed(config: Config, params: dict, slots: int, positions: int, limit: Limit) -> dict:
    config = remembering(config, positions)
    decoder = Decoder(config, params, slots)
    records = read_sessions(open_corpus(_CORPUS.value))
    heard = [inputs(decoder, next(records), WARM + _TURNS.value) for _ in range(slots)]
    found, shares, passes = [], [], []
    for m, turns in enumerate(zip(*heard, strict=True)):
        if m == WARM:
            decoder._state = tiled(decoder._state, positions)
        chunk = input_chunk(config, list(turns))
        jax.block_until_ready(decoder._state)
        begun = time.perf_counter()
        everyone, fresh = np.ones(slots, bool), np.full(slots, m == 0)
        decoder._state, out = decoder._step(
            decoder._params, decoder._state, chunk, everyone, fresh, np.zeros(slots, np.uint32)
        )
        jax.block_until_ready(out)
        took = time.perf_counter() - begun
        if m > WARM:
            number, spoke = jax.device_get((out.num_tokens, out.spoke))
            # An END is appended with the next input.
            written = [
                Written(int(n) - (not s), bool(s)) for n, s in zip(number, spoke, strict=True)
            ]
            least, count = limit.seconds(config, params, list(turns), written, positions)
            found.append(took)
            shares.append(took / least)
            passes.append(count)
    ms = np.array(found) * 1e3
    return {
        "median_ms": round(float(np.median(ms)), 2),
        "quartiles_ms": [round(float(x), 2) for x in np.percentile(ms, (25, 75))],
        "passes": float(np.mean(passes)),
        "times_limit": round(float(np.median(shares)), 2),
        "times_limit_quartiles": [round(float(x), 2) for x in np.percentile(shares, (25, 75))],
    }


def again(config: Config, params: dict) -> dict:
    """The packed forward pass over a session of two minutes, from its contents."""
    from tmi.data.batch import empty_row, place, session_arrays
    from tmi.data.features import to_microturns, to_sequence
    from tmi.media.audio import DMel
    from tmi.media.text import Tokenizer

    tokenizer, dmel = Tokenizer.load(config.text.tokenizer), DMel(config.audio)
    data = dataclasses.replace(
        config.data, batch_size=1, row_length=2048, audio_slots=640, video_slots=640,
        speech_slots=640,
    )  # fmt: skip
    config = dataclasses.replace(config, data=data)
    turns: list[Microturn] = []
    for record in read_sessions(open_corpus(_CORPUS.value)):
        turns += to_microturns(record, config, tokenizer, dmel)
        if len(turns) * config.microturn.seconds >= AGAIN_S:
            break
    turns = turns[: round(AGAIN_S / config.microturn.seconds)]
    row = empty_row(config)
    sequence = to_sequence(config, turns)
    place(config, row, session_arrays(config, sequence, 0), 0, 1)
    length = -(-len(sequence) // 64) * 64
    batch = {n: jnp.asarray(x)[None] for n, x in row.items()}
    for name in ("stream", "token", "slot", "microturn", "segment", "position"):
        batch[name] = batch[name][:, :length]

    @jax.jit
    def forward(params, batch):
        model = tree.build(config, params)
        return model.unembed(model(batch, batch["speech"]).hidden[:, -1])

    weights = {n: jnp.asarray(x) for n, x in params.items()}
    jax.block_until_ready(forward(weights, batch))
    found = []
    for _ in range(7):
        begun = time.perf_counter()
        jax.block_until_ready(forward(weights, batch))
        found.append(time.perf_counter() - begun)
    return {"positions": len(sequence), "median_ms": round(float(np.median(found)) * 1e3, 1)}


def our_turn(config: Config, params: dict, positions: int):
    """READ tokens in, WRITE out, behind a history; returns a call that makes one such turn."""
    config = remembering(config, positions)
    cache = init_cache(config, spans(config), 1, max_chunk(config))
    cache = cache._replace(length=jnp.full((1,), positions, jnp.int32))
    kind = jnp.full((1, READ), Stream.TEXT_IN, jnp.int32)

    weights = {n: jnp.asarray(x) for n, x in params.items()}
    leaves, structure = jax.tree.flatten(jax.jit(functools.partial(tree.served, config))(weights))

    @numerics.by_config
    def turn(config, leaves, cache, tokens):
        model = jax.tree.unflatten(structure, leaves)
        m = jnp.full((1, READ), 600, jnp.int32)
        none = jnp.zeros((1, READ), jnp.int32)
        rows = pad_rows(READ)
        assert rows == READ
        x = model.embed(kind, tokens, none, m)
        hidden, cache, _ = model.append(x, m, jnp.full((1,), READ, jnp.int32), cache)
        h, one = hidden[:, -1:], jnp.ones((1,), jnp.int32)
        written = []
        for _ in range(WRITE):
            token = jnp.argmax(model.unembed(h), axis=-1).astype(jnp.int32)
            written.append(token)
            x = model.embed(kind[:, :1], token, none[:, :1], m[:, :1])
            h, cache, _ = model.append(x, m[:, :1], one, cache)
        return cache, jnp.concatenate(written, axis=1)

    under_policy = functools.partial(turn, config)
    run = numerics.jit(config.model.numerics, under_policy, donate_argnums=1)
    held = [cache]

    def once() -> None:
        held[0], out = run(leaves, held[0], jnp.zeros((1, READ), jnp.int32) + 30)
        jax.block_until_ready(out)

    return once


def their_turn(config: Config, positions: int, compiled: bool):
    """The same of PyTorch's model. Raises ImportError without the extra [oracle]."""
    from tmi.interop import fields

    torch: typing.Any = importlib.import_module("torch")
    transformers: typing.Any = importlib.import_module("transformers")
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    raw = fields.from_config(fields.published_shape(remembering(config, positions)))
    model: typing.Any = transformers.InklingForConditionalGeneration(
        transformers.InklingConfig(**raw)
    ).eval()
    forward = torch.compile(model) if compiled else model
    with torch.inference_mode():
        ids = torch.randint(16, config.text.vocab_size, (1, positions))
        memory = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values

    def once() -> None:
        # What a turn adds to the memory stays: a few positions more of thousands.
        with torch.inference_mode():
            ids = torch.randint(16, config.text.vocab_size, (1, READ))
            for _ in range(1 + WRITE):
                out = forward(input_ids=ids, past_key_values=memory, use_cache=True)
                ids = out.logits[:, -1:].argmax(-1)

    return once


def beside_transformers(config: Config, params: dict, positions: int) -> dict:
    calls = {"ours": our_turn(config, params, positions)}
    failed = {}
    for name, compiled in (("transformers, eager", False), ("transformers, compiled", True)):
        try:
            calls[name] = their_turn(config, positions, compiled)
            calls[name]()
        except Exception as e:  # whatever its compiler lacks here
            calls.pop(name, None)
            failed[name] = f"{type(e).__name__}: {str(e).splitlines()[0]}"
    for call in calls.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(10):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - begun)
    ms = {name: round(float(np.median(x)) * 1e3, 2) for name, x in found.items()}
    out: dict = {"positions": positions, "read": READ, "written": WRITE, "median_ms": ms}
    theirs = [x for name, x in ms.items() if name != "ours"]
    if theirs:
        out["times_faster"] = round(min(theirs) / ms["ours"], 2)
    return out | ({"failed": failed} if failed else {})


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    config, params = tree.layer_by_layer(*restore_params(_WORKDIR.value))
    params = {n: np.asarray(x) for n, x in params.items()}
    limit = Limit(machine.memory_bandwidth(), machine.matmul_ceiling())
    out: dict = {
        "numerics": _NUMERICS.value,
        "bandwidth_gb": round(limit.bandwidth / 1e9, 1),
        "ceiling_gflops": round(limit.ceiling / 1e9, 1),
    }
    for positions in (_FEW.value, _POSITIONS.value):
        for n in map(int, _SESSIONS.value):
            found = streamed(config, params, n, positions, limit)
            out[f"{n} sessions of {positions} positions"] = found
            print(f"{n} x {positions}: {found}", file=sys.stderr)
    once = again(config, params)
    one = streamed(config, params, 1, 2048, limit)
    out["again"] = once | {"times_ours": round(once["median_ms"] / one["median_ms"], 2)}
    if _TRANSFORMERS.value:
        out["beside"] = beside_transformers(config, params, _POSITIONS.value)
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    app.run(main)
