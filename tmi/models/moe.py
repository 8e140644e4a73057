"""Mixture of experts, dropless. Router: sigmoid scores, loss-free balancing bias for the choice
only (Inkling).

Weights = softmax of log-sigmoid over the chosen and the shared experts together, times the route
scale and a learned scale.
Many rows: sorted by expert (grouped.py). Few rows (decoding): each expert once, or gather + gemv.
On a mesh of several devices rows travel to their experts (exchange.py).
"""

from __future__ import annotations

import typing

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from tmi import mesh, numerics
from tmi.config import ModelConfig
from tmi.models import exchange, lora
from tmi.models.grouped import weighted
from tmi.models.layers import (
    Balance,
    Param,
    Turned,
    contract,
    dot,
    gated,
    row_sum,
    swiglu,
    weight,
)
from tmi_kernels.expert_gemv import expert_gemv

FEW_ROWS = 128
READ_MORE = 4  # times the experts that rows need are read rather than gathered
# All are divided along what their product contracts: a TPU scatters the sum of a gradient along
# that axis; along the other it would sum all of it on every device.
BANK_AXES = (
    ("experts", "mlp", "embed"),
    ("experts", "mlp", "embed"),
    ("experts", None, "bank_mlp"),
)


class MoE(nnx.Module):
    def __init__(self, c: ModelConfig, key: Array):
        self.c = c
        k = jax.random.split(key, 5)
        n, f, d = c.num_experts, c.expert_width, c.width
        self.router = weight(k[0], n + c.num_shared_experts, d, (None, "embed"))
        self.balance = Balance(jnp.zeros((c.num_experts,), jnp.float32), axes=(None,))
        self.scale = Param(jnp.ones((), jnp.float32), axes=())

        def bank(key, shape, axes):
            return Param(jax.random.normal(key, shape, jnp.float32) / shape[-1] ** 0.5, axes=axes)

        self.gate = bank(k[1], (n, f, d), BANK_AXES[0])
        self.up = bank(k[2], (n, f, d), BANK_AXES[1])
        self.down = bank(k[3], (n, d, f), BANK_AXES[2])
        if n := c.num_shared_experts:
            own = jax.random.split(k[4], 3)
            self.shared_gate = bank(own[0], (n, f, d), (None, *BANK_AXES[0][1:]))
            self.shared_up = bank(own[1], (n, f, d), (None, *BANK_AXES[1][1:]))
            self.shared_down = bank(own[2], (n, d, f), (None, *BANK_AXES[2][1:]))
        banks = ("gate", "up", "down", "shared_gate", "shared_up", "shared_down")
        lora.attach(self, banks, c, jax.random.fold_in(key, 5))

    def join(self) -> None:
        """For decoding: one matrix for good, which training makes anew each step."""
        if self.c.num_shared_experts:
            both = jnp.concatenate([self.shared_gate[...], self.shared_up[...]], axis=1)
            self.joint = Param(both, axes=(None, *BANK_AXES[0][1:]))
            del self.shared_gate, self.shared_up

    def route(self, x: Float[Array, "T D"]) -> tuple[Int[Array, "T N"], Float[Array, "T N"]]:
        """The experts of each row (chosen, then shared) and their weights, f32."""
        c = self.c
        logits = dot(x.astype(jnp.float32), self.router[...])
        scores = jax.nn.sigmoid(logits[:, : c.num_experts])
        chosen = highest(jax.lax.stop_gradient(scores + self.balance[...]), c.num_experts_per_token)
        chosen = jnp.sort(chosen, axis=1)  # a row's sum runs over its experts in this order
        shared = jnp.broadcast_to(
            c.num_experts + jnp.arange(c.num_shared_experts, dtype=chosen.dtype),
            (x.shape[0], c.num_shared_experts),
        )
        index = jnp.concatenate([chosen, shared], axis=1)
        one_hot = jax.nn.one_hot(
            index, logits.shape[1], dtype=jnp.float32
        )  # a gather's gradient would scatter
        picked = jnp.sum(one_hot * jax.nn.log_sigmoid(logits)[:, None], axis=-1)
        e = jnp.exp(picked - jax.lax.stop_gradient(jnp.max(picked, axis=-1, keepdims=True)))
        return index, e / row_sum(e) * (c.route_scale * self.scale[...])

    def __call__(
        self, x: Float[Array, "T D"], valid: Array | None = None
    ) -> tuple[Float[Array, "T D"], Float[Array, " E"], Int[Array, "T N"]]:
        """Output, how many valid rows chose each routed expert, and which a row chose."""
        n = self.c.num_experts_per_token
        index, weights = self.route(x)
        count = jax.nn.one_hot(index[:, :n], self.c.num_experts, dtype=jnp.float32)
        if valid is not None:
            count = count * valid[:, None, None]
        # Kept where layers are rematerialised: else all experts would be computed a third time, as
        # the short convolution behind them needs what it read.
        y = checkpoint_name(self.routed(x, index[:, :n], weights[:, :n]), "experts")
        for e in range(self.c.num_shared_experts):
            if hasattr(self, "joint"):
                shared = gated(x, self.joint[e], self.shared_down[e])
            else:
                shared = swiglu(x, self.shared_gate[e], self.shared_up[e], self.shared_down[e])
            y = y + weights[:, n + e, None] * shared
        return y, jnp.sum(count, axis=(0, 1)), index[:, :n]

    def routed(self, x, index, weights) -> Float[Array, "T D"]:
        banks: typing.Any = (self.gate[...], self.up[...], self.down[...])
        x = x.astype(banks[0].dtype)
        few = x.shape[0] <= FEW_ROWS
        if isinstance(banks[0], Turned):
            if few:
                return each_once(x, index, weights, *banks)
            banks = tuple(bank.rows for bank in banks)
        if (where := mesh.current()) is not None:
            specs = tuple(
                mesh.current_rules().spec(axes, bank.shape, where)
                for axes, bank in zip(BANK_AXES, banks, strict=True)
            )
            kinds = (self.c.expert_exchange, self.c.grouped)
            return exchange.over_mesh(*kinds, where, specs, x, index, weights, *banks)
        if few:
            return few_rows(x, index, weights, *banks, implementation=self.c.experts)
        return exchange.GROUPED[self.c.grouped](x, index, weights, *banks)


def reads_all(c: ModelConfig) -> bool:
    """Whether each expert is read once for a row alone."""
    return c.experts == "reference" and c.num_experts <= READ_MORE * c.num_experts_per_token


def highest(scores: Float[Array, "T E"], count: int) -> Int[Array, "T N"]:
    """As `jax.lax.top_k`, the first of equals first; on TPU that would sort all of the scores."""
    out = []
    for _ in range(count):
        out.append(jnp.argmax(scores, axis=-1))
        hit = jnp.arange(scores.shape[1])[None] == out[-1][:, None]
        scores = jnp.where(hit, -jnp.inf, scores)
    return jnp.stack(out, axis=1).astype(jnp.int32)


def few_rows(x, index, weights, gate, up, down, implementation="reference"):
    """Decoding: read each expert once if the rows are likely to need them all, else gather theirs
    (gather + gemv). A kernel reads once what was chosen, in any case."""
    if implementation != "reference":
        return expert_gemv(x, index, weights, gate, up, down, implementation=implementation)
    rows, n = index.shape
    if rows * n * READ_MORE >= gate.shape[0]:
        return each_once(x, index, weights, gate, up, down)
    if numerics.invariant():
        return gathered(x, index, weights, gate, up, down)
    return expert_gemv(x, index, weights, gate, up, down)


def each_once(x, index, weights, gate, up, down):
    """Every expert for all rows, of which each takes its own."""
    xs = jnp.broadcast_to(x, (gate.shape[0], *x.shape))
    ys = contract(jax.nn.silu(contract(xs, gate)) * contract(xs, up), down)
    if not numerics.invariant():
        y = jnp.zeros(x.shape, jnp.float32)
        for e in range(gate.shape[0]):
            share = jnp.sum(jnp.where(index == e, weights, 0.0), axis=1, keepdims=True)
            y = y + share * ys[e]
        return y
    own = jnp.zeros((*index.shape, x.shape[1]), jnp.float32)
    for e in range(gate.shape[0]):
        own = jnp.where((index == e)[..., None], ys[e, :, None], own)
    return weighted(own, index, weights)


def gathered(x, index, weights, gate, up, down):
    """The experts of each row, gathered, the bits those of rows that share an expert."""
    xs = jnp.broadcast_to(x[:, None, None], (*index.shape, 1, x.shape[1]))
    h = jax.nn.silu(contract(xs, gate[index])) * contract(xs, up[index])
    return weighted(contract(h, down[index])[:, :, 0], index, weights)
