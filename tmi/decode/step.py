"""One micro-turn of a batch of streaming sessions: pure, compiled once, its state donated.

Append the ragged input, write text until END, speak if END was <speak>, turn mel into sound. The
model alone decides what is written and when: there is no rule, voice-activity detector, timer or
forced token here.

Nothing is read off the position of END itself, so it is appended with the next input: a micro-turn
in which the model says nothing takes one pass over the weights.
"""

from __future__ import annotations

import collections
import functools
import typing
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from tmi import mesh, numerics
from tmi.config import Config, SpeechConfig
from tmi.decode import vocode
from tmi.decode.sampling import sample_tokens
from tmi.media.audio import silent_mel
from tmi.microturn import EOM_ID, SPEAK_ID, Microturn, Stream, input_streams, layout
from tmi.models import tree
from tmi.models.cache import KVCache, init_cache, pad_rows, reset
from tmi.models.interaction import InteractionModel
from tmi.models.transformer import Taps, spans

Params = Mapping[str, Array] | InteractionModel


class StreamState(typing.NamedTuple):
    """All that B sessions carry from micro-turn to micro-turn."""

    cache: KVCache
    microturn: Int[Array, " B"]
    vocoder: vocode.VocoderState
    speaking: Bool[Array, " B"]  # whether the micro-turn before spoke
    seed: Int[Array, " B"]  # of all that a session draws
    ended: Bool[Array, " B"]  # whether the END of the micro-turn before waits for the next input


class Writing(typing.NamedTuple):
    """B sessions in the midst of their text."""

    cache: KVCache
    h: Float[Array, "B D"]  # after the last position
    token: Int[Array, " B"]  # drawn from it, and not yet appended
    tokens: Int[Array, "B T"]
    num_tokens: Int[Array, " B"]
    goes_on: Bool[Array, " B"]  # whether `token` is to be appended
    ended: Bool[Array, " B"]
    written: Taps | None  # if recorded
    logits: Float[Array, "B T V"] | None


class InputChunk(typing.NamedTuple):
    """The input of one micro-turn of B sessions, padded to N positions; `count` of them are
    valid."""

    stream: Int[Array, "B N"]
    token: Int[Array, "B N"]
    slot: Int[Array, "B N"]
    count: Int[Array, " B"]
    dmel: Int[Array, "B A F C"]
    video: Int[Array, "B V 2 P P 3"]
    sensed: dict[str, Array]  # [B, MOST, *SHAPE] of each further stream


class Record(typing.NamedTuple):
    """What the sampler computed in a micro-turn of B sessions, as it ran: tmi/decode/replay.py
    compares it with what the trainer computes. Of N positions that were read `num_read` are valid
    (the END of the micro-turn before, if there was one, and the input), then those of its T tokens
    that are no END, and its P patches if it spoke."""

    num_read: Int[Array, " B"]
    read: Taps  # [B, N, ...]
    written: Taps  # [B, T, ...] of the tokens, as they were appended
    spoken: Taps  # [B, P, ...] of the patches
    logits: Float[Array, "B T V"]  # that each token was drawn from, biases and END included
    flow: Float[Array, "B P steps+1 size"]  # from noise to patch


class Output(typing.NamedTuple):
    """What B sessions wrote in one micro-turn. `tokens` hold the text and its END, `num_tokens` of
    them."""

    tokens: Int[Array, "B T"]
    num_tokens: Int[Array, " B"]
    spoke: Bool[Array, " B"]
    wave: Float[Array, "B samples"]
    record: Record | None  # what replay needs, if it was asked for


def max_chunk(config: Config) -> int:
    """Positions of the longest pass: an END and the fullest input."""
    return pad_rows(1 + layout(config).max_input_positions)


def init_state(config: Config, slots: int) -> StreamState:
    return StreamState(
        cache=init_cache(config, spans(config), slots, max_chunk(config)),
        microturn=jnp.zeros((slots,), jnp.int32),
        vocoder=vocode.init(config.speech, slots),
        speaking=jnp.zeros((slots,), bool),
        seed=jnp.zeros((slots,), jnp.uint32),
        ended=jnp.zeros((slots,), bool),
    )


def input_chunk(config: Config, microturns: list[Microturn | None]) -> InputChunk:
    """Host side: the micro-turn inputs of all slots as arrays; None for a slot that takes no
    part. With the END before it an input has whole tiles of positions.

    Raises ValueError for a micro-turn without sound: there would be nothing to write after.
    """
    lay = layout(config)
    b, n = len(microturns), max_chunk(config) - 1
    stream, token, slot = (np.zeros((b, n), np.int32) for _ in range(3))
    count = np.zeros((b,), np.int32)
    dmel = np.zeros((b, lay.audio_positions, lay.audio_frames, lay.audio_mels), np.uint8)
    video = np.zeros((b, lay.video_positions, 2, lay.patch, lay.patch, 3), np.uint8)
    sensed = {name: np.zeros((b, s.MOST, *s.SHAPE), s.DTYPE) for name, s in lay.streams.items()}
    for i, mt in enumerate(microturns):
        if mt is None:
            continue
        positions = input_streams(lay, mt)
        count[i] = len(positions)
        seen = collections.Counter()
        for j, (s, t) in enumerate(positions):
            stream[i, j], token[i, j], slot[i, j] = s, t, seen[s]
            seen[s] += 1
        if mt.audio is None:
            raise ValueError(
                "a micro-turn without audio; silence has dMel bins too: those of zeros"
            )
        dmel[i] = mt.audio.reshape(dmel.shape[1:])
        if mt.video is not None:
            video[i] = mt.video.reshape(video.shape[1:])
        for name, content in mt.sensed.items():
            sensed[name][i, : len(content)] = content
    return InputChunk(stream, token, slot, count, dmel, video, sensed)  # pyright: ignore[reportArgumentType]


def session_key(seed: Int[Array, ""], microturn: Int[Array, ""]) -> Array:
    """The key of all that a session draws in a micro-turn, whatever its slot and neighbours."""
    return jax.random.fold_in(jax.random.key(seed), microturn)


def token_key(key: Array, n: int | Array) -> Array:
    """The key of a micro-turn's n-th token."""
    return jax.random.fold_in(key, n)


def patch_noise(config: Config, key: Array, p: int) -> Float[Array, " size"]:
    """The noise that a micro-turn's p-th patch is made of."""
    lay = layout(config)
    size = lay.speech_frames * lay.speech_mels
    return jax.random.normal(jax.random.fold_in(key, lay.max_text_out + p), (size,))


def biased(config: Config, logits, first: Array, speaking: Array):
    """The logits of a session's token: decode's biases are on END, of a micro-turn's first."""
    bias = jnp.where(speaking, config.decode.speaking_bias, config.decode.silent_bias)
    return logits.at[..., EOM_ID].add(jnp.where(first, bias, 0.0))


@numerics.by_config
def microturn_step(
    config: Config, params: Params, state: StreamState, chunk: InputChunk,
    exec_mask: Bool[Array, " B"], reset_mask: Bool[Array, " B"], seed: Int[Array, " B"],
    record: bool = False, rows: int = 0,
) -> tuple[StreamState, Output]:  # fmt: skip
    """Sessions of `exec_mask` live through a micro-turn; those of `reset_mask` start afresh before
    it, with a `seed` of their own. `params`: arrays by name, or `tree.served`, which is faster.
    Inputs are read `rows` positions a pass, or at once."""
    model = params if isinstance(params, InteractionModel) else tree.build(config, params)
    lay = layout(config)
    state = _reset(state, reset_mask, seed)
    m = state.microturn
    b = m.shape[0]
    keys = jax.vmap(session_key)(state.seed, m)

    # Read: the END that waits and the whole slice.
    waiting = state.ended & exec_mask
    count = jnp.where(exec_mask, chunk.count + waiting, 0)

    def behind(end, own: Array) -> Array:
        first = jnp.full((b, 1), end, own.dtype)
        return jnp.where(
            waiting[:, None],
            jnp.concatenate([first, own], axis=1),
            jnp.concatenate([own, jnp.zeros_like(first)], axis=1),
        )

    stream, slot = behind(Stream.TEXT_OUT, chunk.stream), behind(0, chunk.slot)
    microturn = m[:, None] - behind(1, jnp.zeros_like(chunk.stream))
    x = model.embed(
        stream,
        behind(EOM_ID, chunk.token),
        slot,
        microturn,
        model.dmel(chunk.dmel),
        model.video(chunk.video),
        sensed=model.sense(chunk.sensed),
    )
    cache, h, read = _read(model, x, microturn, count, state.cache, rows or x.shape[1], record)

    # Write: a token a pass, until every session has drawn its END.
    def one(stream: Stream, token, count, cache, speech=None):
        kind = jnp.full((b, 1), stream, jnp.int32)
        x = model.embed(
            kind, token[:, None], jnp.zeros((b, 1), jnp.int32), m[:, None], speech=speech
        )
        hidden, cache, taps = model.append(x, m[:, None], count, cache)
        return hidden[:, 0], cache, taps

    def draw(w: Writing, n, who) -> Writing:
        """The n-th token of sessions `who`."""
        logits = biased(config, model.unembed(w.h), n == 0, state.speaking)
        key = jax.vmap(lambda key: token_key(key, n))(keys)
        token = sample_tokens(logits, config.decode.temperature, key)
        end = who & (token == EOM_ID)
        w = w._replace(
            token=token,
            tokens=w.tokens.at[:, n].set(jnp.where(who, token, 0), mode="drop"),
            num_tokens=w.num_tokens + who,
            goes_on=who & ~end,
            ended=w.ended | end,
        )
        if w.logits is not None:
            w = w._replace(logits=w.logits.at[:, n].set(logits, mode="drop"))
        return w

    def write(carry):
        n, w = carry
        new, cache, taps = one(Stream.TEXT_OUT, w.token, w.goes_on.astype(jnp.int32), w.cache)
        w = w._replace(cache=cache, h=jnp.where(w.goes_on[:, None], new, w.h))
        if record:
            written = jax.tree.map(lambda all_, x: all_.at[:, n].set(x[:, 0]), w.written, taps)
            w = w._replace(written=written)
        more = w.goes_on & (w.token != SPEAK_ID) & (n + 1 < lay.max_text_out)
        return n + 1, draw(w, n + 1, more)

    def room(count: int) -> Taps:
        return jax.tree.map(lambda x: jnp.zeros((b, count, *x.shape[2:]), x.dtype), read)

    most, nobody = lay.max_text_out, jnp.zeros((b,), bool)
    none = jnp.zeros((b,), jnp.int32)
    w = Writing(cache, h, none, jnp.zeros((b, most), jnp.int32), none, nobody, nobody, None, None)
    if record:
        w = w._replace(written=room(most), logits=jnp.zeros((b, most, model.unembed.tokens)))
    _, w = jax.lax.while_loop(
        lambda carry: jnp.any(carry[1].goes_on), write, (0, draw(w, 0, exec_mask))
    )
    cache, h, tokens, num_tokens = w.cache, w.h, w.tokens, w.num_tokens

    # Speak: the flow head draws a patch from the hidden state; it is fed back as a position.
    spoke = exec_mask & jnp.any(tokens == SPEAK_ID, axis=1) & config.speech.enabled
    size = lay.speech_frames * lay.speech_mels

    def speak(h, cache):
        patches, flows, spoken = [], [], []
        for p in range(lay.speech_positions):
            noise = jax.vmap(lambda key, p=p: patch_noise(config, key, p))(keys)
            flow = model.flow.sample(h, noise)
            patches.append(flow[:, -1])
            fed_back = model.speech(patches[-1].reshape(b, 1, lay.speech_frames, lay.speech_mels))
            h, cache, taps = one(
                Stream.AUDIO_OUT,
                jnp.zeros((b,), jnp.int32),
                spoke.astype(jnp.int32),
                cache,
                fed_back,
            )
            flows.append(flow)
            spoken.append(taps)
        extra: typing.Any = None
        if record:
            both = jax.tree.map(lambda *xs: jnp.concatenate(xs, axis=1), *spoken)
            extra = both, jnp.stack(flows, axis=1)
        return jnp.concatenate(patches, axis=1), cache, extra

    def keep_quiet(h, cache):
        extra: typing.Any = None
        if record:
            p = lay.speech_positions
            extra = room(p), jnp.zeros((b, p, config.flow.steps + 1, size))
        return jnp.zeros((b, size * lay.speech_positions)), cache, extra

    utter = speak if config.speech.enabled else keep_quiet
    mel, cache, extra = jax.lax.cond(jnp.any(spoke), utter, keep_quiet, h, cache)
    mel = jnp.where(spoke[:, None], mel, silent_mel(config.speech)).reshape(b, -1, lay.speech_mels)
    audible = exec_mask & (spoke | state.speaking)  # who left while it spoke sounds no more
    vocoder, wave = sound(config.speech, state.vocoder, mel, audible)
    vocoder = jax.tree.map(
        lambda new, old: jnp.where(exec_mask.reshape((b,) + (1,) * (new.ndim - 1)), new, old),
        vocoder,
        state.vocoder,
    )
    speaking = jnp.where(exec_mask, spoke, state.speaking)
    ended = jnp.where(exec_mask, w.ended, state.ended)
    state = StreamState(cache, m + exec_mask, vocoder, speaking, state.seed, ended)
    recorded = None
    if record:
        assert w.written is not None and w.logits is not None
        recorded = Record(count, read, w.written, extra[0], w.logits, extra[1])
    return state, Output(tokens, num_tokens, spoke, wave, recorded)


def _read(
    model: InteractionModel, x: Float[Array, "B N D"], microturn: Int[Array, "B N"],
    count: Int[Array, " B"], cache: KVCache, rows: int, record: bool,
) -> tuple[KVCache, Float[Array, "B D"], Taps]:  # fmt: skip
    """Appends the `count` valid positions, `rows` a pass; the last one's output, and what was
    computed on the way if it is recorded."""

    def last(hidden, count):
        return jnp.take_along_axis(hidden, jnp.maximum(count - 1, 0)[:, None, None], axis=1)[:, 0]

    if rows >= x.shape[1]:
        hidden, cache, taps = model.append(x, microturn, count, cache)
        return cache, last(hidden, count), taps

    def some(start, cache):
        own, times = (jax.lax.dynamic_slice_in_dim(z, start, rows, axis=1) for z in (x, microturn))
        return model.append(own, times, jnp.clip(count - start, 0, rows), cache)

    shapes = jax.eval_shape(some, 0, cache)[2]
    kept = jax.tree.map(lambda z: jnp.zeros((*x.shape[:2], *z.shape[2:]), z.dtype), shapes)

    def one(carry):
        start, cache, h, kept = carry
        hidden, cache, taps = some(start, cache)
        own = jnp.clip(count - start, 0, rows)
        h = jnp.where((own > 0)[:, None], last(hidden, own), h)
        if record:
            kept = jax.tree.map(
                lambda all_, z: jax.lax.dynamic_update_slice_in_dim(all_, z, start, axis=1),
                kept, taps,
            )  # fmt: skip
        return start + rows, cache, h, kept

    none = jnp.zeros((x.shape[0], x.shape[2]), jnp.float32)
    most = jnp.max(count)
    _, cache, h, kept = jax.lax.while_loop(lambda c: c[0] < most, one, (0, cache, none, kept))
    return cache, h, kept


def sound(
    config: SpeechConfig, state: vocode.VocoderState, mel: Float[Array, "B T C"],
    audible: Bool[Array, " B"],
) -> tuple[vocode.VocoderState, Float[Array, "B N"]]:  # fmt: skip
    """`vocode.step` of the `audible`: who was silent before and is silent now needs no computing,
    zeros stay zeros. One session after the other, since few speak at a time; on a mesh, where they
    lie on several devices, all of them if one does."""

    def silence(state, mel):
        return state, jnp.zeros((mel.shape[0], mel.shape[1] * config.hop))

    def some(audible, state, mel):
        return jax.lax.cond(audible, functools.partial(vocode.step, config), silence, state, mel)

    if mesh.current() is not None:
        return some(jnp.any(audible), state, mel)

    def one(args):
        audible, *own = args
        out = some(audible, *jax.tree.map(lambda x: x[None], own))
        return jax.tree.map(lambda x: x[0], out)

    return jax.lax.map(one, (audible, state, mel))


def _reset(
    state: StreamState, reset_mask: Bool[Array, " B"], seed: Int[Array, " B"]
) -> StreamState:
    def clear(x):
        return jnp.where(reset_mask.reshape(reset_mask.shape + (1,) * (x.ndim - 1)), 0, x)

    return StreamState(
        reset(state.cache, reset_mask), clear(state.microturn),
        jax.tree.map(clear, state.vocoder), state.speaking & ~reset_mask,
        jnp.where(reset_mask, seed.astype(jnp.uint32), state.seed),
        state.ended & ~reset_mask,
    )  # fmt: skip
