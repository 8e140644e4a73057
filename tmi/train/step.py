"""One training step: pure, jitted, its state donated."""

from __future__ import annotations

import typing

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from tmi.config import Config
from tmi.models import tree
from tmi.train.loss import loss_fn, position_losses, skill_losses
from tmi.train.optimizer import make_optimizer


class TrainState(typing.NamedTuple):
    """Everything training carries from step to step. `params` and `ema` hold every array by name,
    balances included."""

    step: Int[Array, ""]
    params: dict[str, Array]
    ema: dict[str, Array]
    opt: optax.OptState


def split_balance(config: Config, params: dict[str, Array]) -> tuple[dict, dict]:
    trained = set(tree.trained_names(config))
    return {k: v for k, v in params.items() if k in trained}, {
        k: v for k, v in params.items() if k not in trained
    }


def init_state(config: Config, key: Array) -> TrainState:
    params = tree.init(config, key)
    trained, _ = split_balance(config, params)
    ema = jax.tree.map(jnp.copy, params)  # its own buffers: both are donated
    return TrainState(jnp.zeros((), jnp.int32), params, ema, make_optimizer(config).init(trained))


def balance_rule(balance: Array, count: Array, rate: float) -> Array:
    """Loss-free balancing (arXiv 2408.15664): raise the bias of experts below the mean load, lower
    the others."""
    return balance + rate * jnp.sign(jnp.mean(count) - count)


def train_step(
    config: Config, state: TrainState, batch: dict[str, Array]
) -> tuple[TrainState, dict[str, Array]]:
    """State and metrics after one batch. Randomness depends on train.seed and the step alone."""
    key = jax.random.fold_in(jax.random.key(config.train.seed), state.step)
    trained, balances = split_balance(config, state.params)

    def f(trained):
        return loss_fn(tree.build(config, {**trained, **balances}), config, batch, key)

    (_, (metrics, counts)), grads = jax.value_and_grad(f, has_aux=True)(trained)
    updates, opt = make_optimizer(config).update(grads, state.opt, trained)
    trained = dict(optax.apply_updates(trained, updates))  # pyright: ignore
    rate = config.model.router_bias_rate
    moe = sorted(balances, key=lambda n: int(n.split("layers.")[1].split(".")[0]))
    balances = {n: balance_rule(balances[n], counts[i], rate) for i, n in enumerate(moe)}
    params = {**trained, **balances}
    # A young average follows faster, so that short runs are not held back by their start.
    decay = jnp.minimum(config.optimizer.ema, (1.0 + state.step) / (10.0 + state.step))
    ema = {n: params[n] + decay * (state.ema[n] - params[n]) for n in params}
    metrics = {**metrics, "grad_norm": optax.global_norm(grads)}
    if counts.size:
        metrics["router/max_load"] = jnp.max(
            counts * counts.shape[1] / jnp.maximum(jnp.sum(counts, 1, keepdims=True), 1)
        )
    return TrainState(state.step + 1, params, ema, opt), metrics


def eval_step(
    config: Config, num_skills: int, params: dict[str, Array], batch: dict[str, Array], key: Array
):
    """Metrics of a dev batch, and (loss sums, weights) by skill."""
    model = tree.build(config, params)
    text = position_losses(model, config, batch, key, train=False).text
    _, (metrics, _) = loss_fn(model, config, batch, key, train=False)
    return metrics, skill_losses(text, batch, num_skills)
