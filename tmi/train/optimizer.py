"""Muon for matrices, Adam for the rest (embeddings, unembedding, gains, taps, banks), by parameter
name."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from tmi.config import Config, OptimizerConfig
from tmi.models import lora

ADAM_TABLES = (
    "tokens.table", "tokens.stream", "unembed.table", "dmel.table", "clock.weight",
    "clock.digits", "waiting.write",
)  # fmt: skip


NEWTON_SCHULZ = 5  # steps


def uses_muon(name: str, shape: tuple[int, ...]) -> bool:
    """Whether an array of this name is a matrix, or a bank of matrices, that Muon moves."""
    leaf = name.rsplit(".", 1)[-1]
    if lora.is_lora(name) or leaf in ("taps", "bank"):
        return False
    return len(shape) >= 2 and name not in ADAM_TABLES


def muon_macs(shape: tuple[int, ...]) -> int:
    """Multiply-adds of a step of Muon on a matrix X or a bank of them, NEWTON_SCHULZ times: of
    A = X X^T, of A A, and of their sum times X."""
    few, many = sorted(shape[-2:])
    return NEWTON_SCHULZ * math.prod(shape[:-2]) * (2 * few * few * many + few**3)


def schedule(c: OptimizerConfig, steps: int) -> optax.Schedule:
    """Warm-up to 1, constant, then a linear fall to `final_scale` over the last `decay_fraction` of
    the steps."""
    warmup = min(c.warmup_steps, max(1, steps // 2))
    decay = max(1, int(steps * c.decay_fraction))
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, 1.0, warmup),
            optax.constant_schedule(1.0),
            optax.linear_schedule(1.0, c.final_scale, decay),
        ],
        [warmup, max(warmup, steps - decay)],
    )


def _matrix_axes(params):
    # Weights are [..., out, in]; leading axes (experts) are matrices of their own.
    return jax.tree.map(
        lambda p: contrib.MuonDimensionNumbers(reduction_axis=p.ndim - 1, output_axis=p.ndim - 2),
        params,
    )


def scale_by_adam(c: OptimizerConfig) -> optax.GradientTransformation:
    """Adam whose moments are kept in optimizer.moment_dtype and computed in f32.

    bfloat16 holds 8 bits: enough for a second moment of which a step replaces 1 - b2 = 5 %, not for
    one of which it replaces a tenth of a per cent.
    """
    plain = optax.scale_by_adam(b1=c.b1, b2=c.b2)
    if c.moment_dtype == "float32":
        return plain

    def cast(state, dtype):
        def of(tree):
            return jax.tree.map(lambda x: x.astype(dtype), tree)

        return state._replace(mu=of(state.mu), nu=of(state.nu))

    def update(grads, state, params=None):
        updates, state = plain.update(grads, cast(state, jnp.float32), params)
        return updates, cast(state, c.moment_dtype)

    return optax.GradientTransformation(
        lambda params: cast(plain.init(params), c.moment_dtype),
        update,  # pyright: ignore[reportArgumentType]
    )


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Acts on {name: array} of the trained parameters."""
    c = config.optimizer
    shape = schedule(c, config.train.steps)

    def fan(params):
        return jax.tree.map(lambda p: jnp.sqrt(max(1.0, p.shape[-2] / p.shape[-1])), params)

    def scale_by_fan():
        return optax.stateless(lambda u, p: jax.tree.map(lambda x, s: x * s, u, fan(u)))

    muon = optax.chain(
        contrib.scale_by_muon(ns_steps=NEWTON_SCHULZ, weight_dimension_numbers=_matrix_axes),
        scale_by_fan(),
        optax.add_decayed_weights(c.weight_decay),
        optax.scale_by_schedule(lambda n: -c.muon_learning_rate * shape(n)),
    )
    adam = optax.chain(
        scale_by_adam(c),
        optax.scale_by_schedule(lambda n: -c.adam_learning_rate * shape(n)),
    )
    return optax.chain(
        optax.clip_by_global_norm(c.clip_norm),
        optax.partition(
            {"muon": muon, "adam": adam},
            lambda params: {
                n: "muon" if c.muon and uses_muon(n, p.shape) else "adam" for n, p in params.items()
            },
        ),
    )
