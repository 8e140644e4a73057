"""One micro-turn of a batch of streaming sessions: pure, compiled once, its state donated.

Append the ragged input, write text until END, speak if END was <speak>, turn mel into sound. The
model alone decides what is written and when: there is no rule, voice-activity detector, timer or
forced token here.
"""

from __future__ import annotations

import collections
import typing

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from tmi import numerics
from tmi.config import Config
from tmi.decode import vocode
from tmi.decode.sampling import sample_tokens
from tmi.media.audio import silent_mel
from tmi.microturn import EOM_ID, SPEAK_ID, Microturn, Stream, input_streams, layout
from tmi.models import tree
from tmi.models.cache import KVCache, init_cache, pad_rows, reset
from tmi.models.transformer import Taps, spans


class StreamState(typing.NamedTuple):
    """All that B sessions carry from micro-turn to micro-turn."""

    cache: KVCache
    microturn: Int[Array, " B"]
    vocoder: vocode.VocoderState
    speaking: Bool[Array, " B"]  # whether the micro-turn before spoke
    seed: Int[Array, " B"]  # of all that a session draws


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
    compares it with what the trainer computes. Of a session's N input positions `count` are valid,
    then of its T tokens `num_tokens`, and its P patches if it spoke."""

    read: Taps  # [B, N, ...] of the input
    written: Taps  # [B, T, ...] of the tokens, as they were appended
    spoken: Taps  # [B, P, ...] of the patches
    logits: Float[Array, "B T V"]  # that each token was drawn from, biases included
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
    return pad_rows(layout(config).max_input_positions)


def init_state(config: Config, slots: int) -> StreamState:
    return StreamState(
        cache=init_cache(config, spans(config), slots, max_chunk(config)),
        microturn=jnp.zeros((slots,), jnp.int32),
        vocoder=vocode.init(config.speech, slots),
        speaking=jnp.zeros((slots,), bool),
        seed=jnp.zeros((slots,), jnp.uint32),
    )


def input_chunk(config: Config, microturns: list[Microturn | None]) -> InputChunk:
    """Host side: the micro-turn inputs of all slots as arrays; None for a slot that takes no
    part."""
    lay = layout(config)
    b, n = len(microturns), max_chunk(config)
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
        if mt.audio is not None:
            dmel[i] = mt.audio.reshape(dmel.shape[1:])
        if mt.video is not None:
            video[i] = mt.video
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
    config: Config, params: dict[str, Array], state: StreamState, chunk: InputChunk,
    exec_mask: Bool[Array, " B"], reset_mask: Bool[Array, " B"], seed: Int[Array, " B"],
    record: bool = False,
) -> tuple[StreamState, Output]:  # fmt: skip
    """Sessions of `exec_mask` live through a micro-turn; those of `reset_mask` start afresh before
    it, with a `seed` of their own."""
    model = tree.build(config, params)
    lay = layout(config)
    state = _reset(state, reset_mask, seed)
    m = state.microturn
    b = m.shape[0]
    keys = jax.vmap(session_key)(state.seed, m)

    # Read: the whole slice in one pass.
    count = jnp.where(exec_mask, chunk.count, 0)
    microturn = jnp.broadcast_to(m[:, None], chunk.stream.shape)
    x = model.embed(
        chunk.stream,
        chunk.token,
        chunk.slot,
        microturn,
        model.dmel(chunk.dmel),
        model.video(chunk.video),
        sensed=model.sense(chunk.sensed),
    )
    hidden, cache, read = model.append(x, microturn, count, state.cache)
    h = jnp.take_along_axis(hidden, jnp.maximum(count - 1, 0)[:, None, None], axis=1)[:, 0]

    # Write: a token a pass, each appended as it is written, until every session has written its
    # END.
    def one(stream: Stream, token, count, cache, speech=None):
        kind = jnp.full((b, 1), stream, jnp.int32)
        x = model.embed(
            kind, token[:, None], jnp.zeros((b, 1), jnp.int32), m[:, None], speech=speech
        )
        hidden, cache, taps = model.append(x, m[:, None], count, cache)
        return hidden[:, 0], cache, taps

    def write(carry):
        n, cache, h, tokens, num_tokens, done, kept = carry
        logits = biased(config, model.unembed(h), n == 0, state.speaking)
        key = jax.vmap(lambda key: token_key(key, n))(keys)
        token = sample_tokens(logits, config.decode.temperature, key)
        new, cache, taps = one(Stream.TEXT_OUT, token, jnp.where(done, 0, 1), cache)
        h = jnp.where(done[:, None], h, new)
        tokens = tokens.at[:, n].set(jnp.where(done, 0, token))
        num_tokens = num_tokens + ~done
        done = done | (token == EOM_ID) | (token == SPEAK_ID)
        if record:
            one_row = jax.tree.map(lambda x: x[:, 0], taps), logits
            kept = jax.tree.map(lambda all_, x: all_.at[:, n].set(x), kept, one_row)
        return n + 1, cache, h, tokens, num_tokens, done, kept

    def room(count: int) -> Taps:
        return jax.tree.map(lambda x: jnp.zeros((b, count, *x.shape[2:]), x.dtype), read)

    kept: typing.Any = None
    if record:
        most = lay.max_text_out
        kept = room(most), jnp.zeros((b, most, config.text.vocab_size))
    _, cache, h, tokens, num_tokens, _, kept = jax.lax.while_loop(
        lambda c: (c[0] < lay.max_text_out) & ~jnp.all(c[5]),
        write,
        (
            0,
            cache,
            h,
            jnp.zeros((b, lay.max_text_out), jnp.int32),
            jnp.zeros((b,), jnp.int32),
            ~exec_mask,
            kept,
        ),
    )

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
    vocoder, wave = vocode.step(config.speech, state.vocoder, mel)
    vocoder = jax.tree.map(
        lambda new, old: jnp.where(exec_mask.reshape((b,) + (1,) * (new.ndim - 1)), new, old),
        vocoder,
        state.vocoder,
    )
    speaking = jnp.where(exec_mask, spoke, state.speaking)
    state = StreamState(cache, m + exec_mask, vocoder, speaking, state.seed)
    recorded = Record(read, kept[0], extra[0], kept[1], extra[1]) if record else None
    return state, Output(tokens, num_tokens, spoke, wave, recorded)


def _reset(
    state: StreamState, reset_mask: Bool[Array, " B"], seed: Int[Array, " B"]
) -> StreamState:
    def clear(x):
        return jnp.where(reset_mask.reshape(reset_mask.shape + (1,) * (x.ndim - 1)), 0, x)

    return StreamState(
        reset(state.cache, reset_mask), clear(state.microturn),
        jax.tree.map(clear, state.vocoder), state.speaking & ~reset_mask,
        jnp.where(reset_mask, seed.astype(jnp.uint32), state.seed),
    )  # fmt: skip
