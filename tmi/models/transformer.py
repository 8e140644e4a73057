"""The one transformer: Inkling-style blocks, sliding and global, dense first and mixtures of
experts after."""

from __future__ import annotations

import typing

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from tmi.config import Config, ModelConfig
from tmi.mesh import constrain
from tmi.microturn import layout
from tmi.models import lora, stack
from tmi.models.attention import Attention, Span, hidden_of, time_of
from tmi.models.cache import LayerCache
from tmi.models.layers import MLP, RMSNorm, ShortConv, in_dtype, next_conv_state
from tmi.models.moe import MoE
from tmi.models.ring import append_and_attend, append_by_kernel

# What a rematerialised layer keeps beside its input: by far the most expensive products.
SAVED = jax.checkpoint_policies.save_only_these_names("experts")


def spans(config: Config) -> list[Span]:
    """What each layer may look back on: every `global_every`-th is global, or `global_layers` are,
    and the others slide."""
    m, kv_block = config.model, config.microturn.kv_block
    every = range(m.global_every - 1, m.num_layers, m.global_every)
    far = set(m.global_layers or every)
    return [
        Span(m.window, m.global_blocks if i in far else 0, kv_block) for i in range(m.num_layers)
    ]


def dense_layers(m: ModelConfig) -> frozenset[int]:
    """The layers that are no mixture of experts."""
    return frozenset(m.dense_layers or range(m.num_dense_layers))


class Block(nnx.Module):
    """x + conv(attention(norm x)), then x + conv(mlp(norm x))."""

    def __init__(self, c: ModelConfig, span: Span, dense: bool, key: Array):
        k = jax.random.split(key, 2)
        self.attention_norm = RMSNorm(c.width, eps=c.norm_eps)
        self.attention = Attention(c, span, k[0])
        self.attention_conv = ShortConv(c.width, c.conv_width)
        self.mlp_norm = RMSNorm(c.width, eps=c.norm_eps)
        self.mlp = MLP(c.width, c.mlp_width, k[1], c.mlp_scale) if dense else MoE(c, k[1])
        self.mlp_conv = ShortConv(c.width, c.conv_width)

    def feed_forward(self, x, valid):
        """Returns the output, the routed-expert counts [E] and the chosen experts [B,S,N] (None for
        a dense layer)."""
        if isinstance(self.mlp, MLP):
            return self.mlp(x), None, None
        b, s, d = x.shape
        y, count, chosen = self.mlp(x.reshape(b * s, d), valid.reshape(b * s))
        return y.reshape(b, s, d), count, chosen.reshape(b, s, -1)

    def __call__(self, x, position, time, hidden, valid):
        """Training, packed rows. x [B,S,D], valid [B,S] -> (x, expert counts [E] or None, chosen
        experts [B,S,N] or None)."""
        a = self.attention(self.attention_norm(x), position, time, hidden)
        x = x + self.attention_conv(a, position)[0].astype(x.dtype)
        y, count, chosen = self.feed_forward(self.mlp_norm(x), valid)
        return x + self.mlp_conv(y, position)[0].astype(x.dtype), count, chosen

    def append(self, x, position, time, count, slots, key_position, cache: LayerCache):
        """Decoding: x [B,N,D] of `count` [B] valid positions goes behind the cached ones (write KV,
        then attend).

        slots [B,N]: where in the ring each position is written; key_position [B,T]: what the ring
        holds then (-1: nothing).
        """
        att = self.attention
        width = att.c.conv_width
        h = self.attention_norm(x)
        q, k, v, rel, (k_hist, v_hist) = att.project(
            h, position, time, (cache.k_conv, cache.v_conv)
        )
        kernel, new = att.c.attention_kernel, (q, k, v, rel)
        if kernel == "reference":
            ring = slots, key_position
            a, keys, values = append_and_attend(cache, *new, position, count, *ring, att.span)
        else:
            a, keys, values = append_by_kernel(cache, *new, position, count, att.span, kernel)
        a = att.merge(a)
        a, a_hist = self.attention_conv(a, position, cache.attention_conv)
        x = x + a.astype(x.dtype)
        valid = jnp.arange(x.shape[1])[None] < count[:, None]
        y, _, chosen = self.feed_forward(self.mlp_norm(x), valid.astype(jnp.float32))
        y, y_hist = self.mlp_conv(y, position, cache.mlp_conv)
        cache = LayerCache(
            k=keys,
            v=values,
            k_conv=next_conv_state(k_hist, count, width),
            v_conv=next_conv_state(v_hist, count, width),
            attention_conv=next_conv_state(a_hist, count, width),
            mlp_conv=next_conv_state(y_hist, count, width),
        )
        return x + y.astype(x.dtype), cache, chosen


class Taps(typing.NamedTuple):
    """What goes on inside, position by position: the state after each layer, and the experts chosen
    in each layer that has some."""

    states: Float[Array, "B S L D"]
    chosen: Int[Array, "B S M N"]


def taps_of(states: list[Array], chosen: list[Array | None]) -> Taps:
    some = [c for c in chosen if c is not None]
    shape = states[0].shape[:2]
    none = jnp.zeros((*shape, 0, 0), jnp.int32)
    return Taps(jnp.stack(states, axis=2), jnp.stack(some, axis=2) if some else none)


class TransformerOutput(typing.NamedTuple):
    """hidden: final states; heard: those after model.hearing_layer layers (None if that is 0);
    counts: by the name of a router's balance, how many positions chose each of its experts; taps:
    None where layers are stacked."""

    hidden: Float[Array, "B S D"]
    heard: Float[Array, "B S D"] | None
    counts: dict[str, Float[Array, "*l E"]]
    taps: Taps | None


Kind = tuple[Span, bool]  # a layer is known by its span, and by whether it is dense


def kinds(config: Config) -> list[Kind]:
    dense = dense_layers(config.model)
    return [(span, i in dense) for i, span in enumerate(spans(config))]


class Transformer(nnx.Module):
    def __init__(self, config: Config, key: Array):
        m = config.model
        self.hearing_layer = m.hearing_layer
        self.config = m
        self.layout = layout(config)
        self.remat = config.train.remat
        self.kinds = tuple(kinds(config))

        def make(kind: Kind, key: Array) -> Block:
            return Block(m, *kind, key)

        if m.scan_layers:
            self.plan = tuple(stack.plan(self.kinds))
            keys = jax.random.split(key, len(self.plan))
            self.segments = nnx.List(
                [stack.Runs(s, make, k) for s, k in zip(self.plan, keys, strict=True)]
            )
        else:
            keys = jax.random.split(key, m.num_layers)
            self.layers = nnx.List(
                [make(kind, k) for kind, k in zip(self.kinds, keys, strict=True)]
            )
        self.final_norm = RMSNorm(m.width, eps=m.norm_eps)

    def __call__(
        self, x: Float[Array, "B S D"], position: Int[Array, "B S"], microturn: Int[Array, "B S"],
        segment: Int[Array, "B S"],
    ) -> TransformerOutput:  # fmt: skip
        counts, heard, taps = {}, None, None
        valid = (segment > 0).astype(jnp.float32)
        time = time_of(self.config, self.layout, microturn)
        masks = {
            span: hidden_of(self.config, position, segment, span)
            for span in {kind[0] for kind in self.kinds}
        }
        x = x.astype(self.config.dtype)

        def step(span: Span, layer: Block, x: Array):
            x = constrain(x, "batch", "seq", None)
            layer = in_dtype(lora.merge(layer, self.config), self.config.dtype)
            return layer(x, position, time, masks[span], valid)

        if self.remat:
            step = jax.checkpoint(step, static_argnums=0, policy=SAVED)
        if self.config.scan_layers:
            for s, (runs, planned) in enumerate(zip(self.segments, self.plan, strict=True)):
                spans = [kind[0] for _, kind in planned.runs]
                x, found = stack.scan(
                    runs.runs, lambda layer, x, r, spans=spans: step(spans[r], layer, x)[:2], x
                )
                for r, count in enumerate(found):
                    if count is not None:
                        counts[f"transformer.segments.{s}.runs.{r}.mlp.balance"] = count
        else:
            states, chosen = [], []
            for i, layer in enumerate(self.layers):
                x, count, choice = step(self.kinds[i][0], layer, x)
                states.append(x)
                chosen.append(choice)
                if count is not None:
                    counts[f"{stack.PREFIX}{i}.mlp.balance"] = count
                if i + 1 == self.hearing_layer:
                    heard = x
            taps = taps_of(states, chosen)
        return TransformerOutput(self.final_norm(x), heard, counts, taps)
