"""Mixture of experts, dropless. Router: sigmoid scores, loss-free balancing bias for the choice
only (Inkling).

Weights = softmax of log-sigmoid over the chosen and the shared experts together, times the route
scale and a learned scale.
Many rows: sorted by expert into fixed tiles, one weight gather a tile. Few rows (decoding): each
expert once, or gather + gemv.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from tmi.config import ModelConfig
from tmi.models.layers import Balance, Param, contract, dot, weight
from tmi_kernels.expert_gemv import expert_gemv

TILE = 128  # rows of one expert that are multiplied together
FEW_ROWS = 64


class MoE(nnx.Module):
    def __init__(self, c: ModelConfig, key: Array):
        self.c = c
        k = jax.random.split(key, 4)
        n, f, d = c.num_experts + c.num_shared_experts, c.expert_width, c.width
        self.router = weight(k[0], n, d, (None, "embed"))
        self.balance = Balance(jnp.zeros((c.num_experts,), jnp.float32), axes=(None,))
        self.scale = Param(jnp.ones((), jnp.float32), axes=())

        def bank(key, shape, axes):
            return Param(jax.random.normal(key, shape, jnp.float32) / shape[-1] ** 0.5, axes=axes)

        # Routed experts first, shared ones after them.
        self.gate = bank(k[1], (n, f, d), ("experts", "mlp", "embed"))
        self.up = bank(k[2], (n, f, d), ("experts", "mlp", "embed"))
        self.down = bank(k[3], (n, d, f), ("experts", "embed", "mlp"))

    def route(self, x: Float[Array, "T D"]) -> tuple[Int[Array, "T N"], Float[Array, "T N"]]:
        """The experts of each row (chosen, then shared) and their weights, f32."""
        c = self.c
        logits = dot(x.astype(jnp.float32), self.router[...])
        scores = jax.nn.sigmoid(logits[:, : c.num_experts])
        _, chosen = jax.lax.top_k(
            jax.lax.stop_gradient(scores + self.balance[...]), c.num_experts_per_token
        )
        shared = jnp.broadcast_to(
            c.num_experts + jnp.arange(c.num_shared_experts, dtype=chosen.dtype),
            (x.shape[0], c.num_shared_experts),
        )
        index = jnp.concatenate([chosen, shared], axis=1)
        one_hot = jax.nn.one_hot(
            index, logits.shape[1], dtype=jnp.float32
        )  # a gather's gradient would scatter
        picked = jnp.sum(one_hot * jax.nn.log_sigmoid(logits)[:, None], axis=-1)
        return index, jax.nn.softmax(picked, axis=-1) * (c.route_scale * self.scale[...])

    def __call__(
        self, x: Float[Array, "T D"], valid: Array | None = None
    ) -> tuple[Float[Array, "T D"], Float[Array, " E"]]:
        """Output, and how many valid rows chose each routed expert."""
        index, weights = self.route(x)
        chosen = index[:, : self.c.num_experts_per_token]
        count = jax.nn.one_hot(chosen, self.c.num_experts, dtype=jnp.float32)
        if valid is not None:
            count = count * valid[:, None, None]
        banks = (self.gate[...], self.up[...], self.down[...])
        few = functools.partial(few_rows, implementation=self.c.experts)
        run = few if x.shape[0] <= FEW_ROWS else tiled
        return run(x, index, weights, *banks), jnp.sum(count, axis=(0, 1))


def few_rows(x, index, weights, gate, up, down, implementation="reference"):
    """Decoding: read each expert once if the rows are likely to need them all, else gather theirs
    (gather + gemv)."""
    rows, n = index.shape
    experts = gate.shape[0]
    if rows * n >= experts:
        y = jnp.zeros_like(x)
        for e in range(experts):
            share = jnp.sum(jnp.where(index == e, weights, 0.0), axis=1, keepdims=True)
            h = jax.nn.silu(dot(x, gate[e])) * dot(x, up[e])
            y = y + share * dot(h, down[e])
        return y
    return expert_gemv(x, index, weights, gate, up, down, implementation=implementation)


def tiled(x, index, weights, gate, up, down):
    """Training: rows sorted by expert, each expert's padded to whole tiles; no row is ever
    dropped."""
    rows, n = index.shape
    experts = gate.shape[0]
    tiles = -(-rows * n // TILE) + experts
    flat = index.reshape(-1)
    member = jax.nn.one_hot(flat, experts, dtype=jnp.int32)
    rank = jnp.sum((jnp.cumsum(member, axis=0) - 1) * member, axis=1)
    need = -(-jnp.sum(member, axis=0) // TILE)  # tiles of each expert
    first = jnp.cumsum(need) - need
    dest = (
        jnp.sum(member * first, axis=1) * TILE + rank
    )  # row of the sorted array, for each (token, choice)
    source = (
        jnp.full((tiles * TILE,), rows * n, jnp.int32)
        .at[dest]
        .set(jnp.arange(rows * n, dtype=jnp.int32))
    )
    expert_of_tile = jnp.clip(
        jnp.searchsorted(jnp.cumsum(need), jnp.arange(tiles), side="right"), 0, experts - 1
    )
    pick = jax.nn.one_hot(expert_of_tile, experts, dtype=x.dtype)

    xs = dispatch(x, source, dest.reshape(rows, n)).reshape(tiles, TILE, -1)
    h = jax.nn.silu(contract(xs, tile_weights(gate, pick, expert_of_tile)))
    h = h * contract(xs, tile_weights(up, pick, expert_of_tile))
    ys = contract(h, tile_weights(down, pick, expert_of_tile)).reshape(tiles * TILE, -1)
    return jnp.sum(collect(ys, source, dest.reshape(rows, n)) * weights[..., None], axis=1)


# Sorting rows is a permutation with padding, so its transpose is a gather too; XLA would emit a
# scatter.


@jax.custom_vjp
def dispatch(x, source, dest):
    """x [T, D] -> [rows sorted by expert, D]; padding rows hold zeros."""
    n = dest.shape[1]
    padded = jnp.concatenate([x, jnp.zeros((1, x.shape[1]), x.dtype)])
    return padded[source // n]


def _dispatch_fwd(x, source, dest):
    return dispatch(x, source, dest), dest


def _dispatch_bwd(dest, g):
    return jnp.sum(g[dest], axis=1), None, None


dispatch.defvjp(_dispatch_fwd, _dispatch_bwd)


@jax.custom_vjp
def collect(ys, source, dest):
    """Sorted rows -> [T, N, D]."""
    return ys[dest]


def _collect_fwd(ys, source, dest):
    return ys[dest], source


def _collect_bwd(source, g):
    flat = g.reshape(-1, g.shape[-1])
    return jnp.concatenate([flat, jnp.zeros((1, flat.shape[1]), flat.dtype)])[source], None, None


collect.defvjp(_collect_fwd, _collect_bwd)


@jax.custom_vjp
def tile_weights(bank, pick, expert_of_tile):
    """The weights of each tile's expert [tiles, out, in]."""
    return bank[expert_of_tile]


def _tile_weights_fwd(bank, pick, expert_of_tile):
    return bank[expert_of_tile], pick


def _tile_weights_bwd(pick, g):
    shape = (pick.shape[1],) + g.shape[1:]
    return jnp.dot(pick.T, g.reshape(g.shape[0], -1)).reshape(shape), None, None


tile_weights.defvjp(_tile_weights_fwd, _tile_weights_bwd)
