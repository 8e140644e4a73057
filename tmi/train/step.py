"""One training step: pure, jitted, its state donated."""

from __future__ import annotations

import typing

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from tmi.config import Config
from tmi.mesh import constrain
from tmi.models import tree
from tmi.train.loss import WEIGHTED_BY, loss_fn, position_losses, skill_losses, total_weights
from tmi.train.optimizer import make_optimizer
from tmi.train.trainable import moving, trained


class TrainState(typing.NamedTuple):
    """Everything training carries from step to step. `params` hold every array by name, balances
    included; `ema` the averages of those that move (none where optimizer.ema is 0)."""

    step: Int[Array, ""]
    params: dict[str, Array]
    ema: dict[str, Array]
    opt: optax.OptState


def split_trained(config: Config, params: dict[str, Array]) -> tuple[dict, dict]:
    """(what a gradient moves, the rest: balances and what is frozen)."""
    names = trained(config)
    return {k: v for k, v in params.items() if k in names}, {
        k: v for k, v in params.items() if k not in names
    }


def init_state(config: Config, key: Array) -> TrainState:
    return state_of(config, tree.fresh(config, key))


def state_of(config: Config, params: dict[str, Array]) -> TrainState:
    """A fresh state around `params`."""
    opt = make_optimizer(config).init(split_trained(config, params)[0])
    # Its own buffers: both are donated.
    ema = {n: jnp.copy(x) for n, x in params.items() if n in moving(config)}
    return TrainState(jnp.zeros((), jnp.int32), params, ema if config.optimizer.ema else {}, opt)


def averaged(state: TrainState) -> dict[str, Array]:
    """The weights to measure and to keep."""
    return {**state.params, **state.ema}


def balance_rule(balance: Array, count: Array, rate: float) -> Array:
    """Loss-free balancing (arXiv 2408.15664): raise the bias of experts below the mean load, lower
    the others."""
    return balance + rate * jnp.sign(jnp.mean(count, axis=-1, keepdims=True) - count)


def train_step(
    config: Config, state: TrainState, batch: dict[str, Array]
) -> tuple[TrainState, dict[str, Array]]:
    """State and metrics after one batch. Randomness depends on train.seed and the step alone."""
    key = jax.random.fold_in(jax.random.key(config.train.seed), state.step)
    moved, rest = split_trained(config, state.params)

    metrics, counts, grads = gradients(config, moved, rest, batch, key)
    updates, opt = make_optimizer(config).update(grads, state.opt, moved)
    moved = dict(optax.apply_updates(moved, updates))  # pyright: ignore
    rate = config.model.router_bias_rate
    balances = {n: balance_rule(rest[n], counts[n], rate) for n in rest if n in moving(config)}
    params = {**rest, **moved, **balances}
    # A young average follows faster, so that short runs are not held back by their start.
    decay = jnp.minimum(config.optimizer.ema, (1.0 + state.step) / (10.0 + state.step))
    ema = {n: params[n] + decay * (x - params[n]) for n, x in state.ema.items()}
    metrics = {**metrics, "grad_norm": optax.global_norm(grads)}
    if counts:
        loads = [
            c / jnp.maximum(jnp.mean(c, axis=-1, keepdims=True), 1e-6) for c in counts.values()
        ]
        metrics["router/max_load"] = jnp.max(jnp.stack([jnp.max(load) for load in loads]))
    return TrainState(state.step + 1, params, ema, opt), metrics


def gradients(config: Config, moved: dict, rest: dict, batch: dict, key: Array):
    """(metrics, counts, gradients of what is moved) of a batch: all at once, or the sums over
    train.micro_batches parts of its rows, each weighted as it is in the whole."""
    totals = total_weights(config, batch)

    def part(batch, key):
        def f(moved):
            model = tree.build(config, {**moved, **rest})
            return loss_fn(model, config, batch, key, totals=totals)

        (_, (metrics, counts)), grads = jax.value_and_grad(f, has_aux=True)(moved)
        return metrics, counts, grads

    n = config.train.micro_batches
    if n == 1:
        return part(batch, key)

    def split(x):  # every device keeps rows of its own in each part
        x = x.reshape(x.shape[0] // n, n, *x.shape[1:]).swapaxes(0, 1)
        return constrain(x, None, "batch", *(None,) * (x.ndim - 2))

    def add(sums, one):
        index, rows = one
        found = part(rows, jax.random.fold_in(key, index))
        # Without the barrier XLA joins the sum with the reduce-scatter before it, and fails.
        return jax.tree.map(jnp.add, sums, jax.lax.optimization_barrier(found)), None

    first = jax.tree.map(split, batch)
    shapes = jax.eval_shape(part, jax.tree.map(lambda x: x[0], first), key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, zeros, (jnp.arange(n), first))[0]


def eval_step(
    config: Config, num_skills: int, params: dict[str, Array], batch: dict[str, Array], key: Array
):
    """Metrics of a dev batch, the weight of each, and (loss sums, weights) by skill."""
    model = tree.build(config, params)
    text = position_losses(model, config, batch, key, train=False).text
    totals = total_weights(config, batch)
    _, (metrics, _) = loss_fn(model, config, batch, key, train=False, totals=totals)
    weights = {name: totals[WEIGHTED_BY[name]] for name in metrics}
    return metrics, weights, skill_losses(text, batch, num_skills)
