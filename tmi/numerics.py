"""The numerics policy of a model, `config.model.numerics`: what its products may depend on.

'invariant': a position's bits depend on its session's history alone, not on what else is computed
in the call: other sessions, the chunk that it came in, the capacity of a cache, the training row.
So what a live session computed the trainer recomputes to the same bits. 'fast': plain XLA.

What it takes, on CPUs in f32 (tests/models/test_bits.py asserts it, docs/LOG.md has what was
measured): products contract both operands on their last axis, over whole rows or over
blocks of keys that begin with the session and are summed in order; never of a single row, which XLA
multiplies by another kernel; sums over an axis are products with ones or written out.

XLA for CPUs has a library for what is large enough (YNNPACK). Its products have the same bits for
any rows and batch, which XLA's own have not; but it computes sums and exponentials, and what it
fuses with products, in ways of its own. So what is compiled by `jit` under 'invariant' gets the
library's products and nothing else of it.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from absl import logging
from jaxtyping import Array

POLICIES = ("invariant", "fast")

# Of `compiler_options`, which jax has no other name for.
PRODUCTS_ALONE = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
SHOWN_ON = "0.10."  # of jax: where tests find the bits of 'invariant' equal

_policy = contextvars.ContextVar("numerics", default="fast")


@contextlib.contextmanager
def use(policy: str) -> Iterator[None]:
    """What is traced within follows `policy`. Raises ValueError for one that does not exist."""
    if policy not in POLICIES:
        raise ValueError(f"numerics {policy!r}; accepted: {', '.join(map(repr, POLICIES))}")
    token = _policy.set(policy)
    try:
        yield
    finally:
        _policy.reset(token)


def invariant() -> bool:
    """Whether what is traced now is to be invariant."""
    return _policy.get() == "invariant"


def zero(like: Array) -> Array:
    """Zeros, float32, of the shape of integers that are never negative, where bits matter: what a
    sum of products begins with. Of a b + c d a compiler may round either product first; it does not
    know that these are zeros."""
    if not invariant():
        return jnp.zeros(like.shape, jnp.float32)
    return jnp.where(like < 0, 1.0, 0.0)


def rounded(x: Array) -> Array:
    """`x`, where bits matter as a number of its own: a product that is added to something may be
    computed with it and rounded once, in one program and not in another."""
    most = float(jnp.finfo(jnp.float32).max)
    return jax.lax.clamp(-most, x, most) if invariant() else x


def by_config(f: Callable) -> Callable:
    """`f`, which has an argument `config`, traced under the policy of that."""
    signature = inspect.signature(f)

    @functools.wraps(f)
    def traced(*args, **kwargs):
        with use(signature.bind(*args, **kwargs).arguments["config"].model.numerics):
            return f(*args, **kwargs)

    return traced


def jit(policy: str, f: Callable, **kwargs):
    """`jax.jit` of what follows a policy, for the devices that jax computes on by default. Warns
    once where these, or this jax, are not known to keep the bits of 'invariant'."""
    options, backend = None, jax.default_backend()
    if policy == "invariant" and backend == "cpu":
        options = PRODUCTS_ALONE
        if not jax.__version__.startswith(SHOWN_ON):
            logging.log_first_n(
                logging.WARNING,
                "model.numerics='invariant' is shown to hold on jax %sx (Python 3.11), and this is "
                "jax %s: calls of a single row may differ in their last bits.",
                1, SHOWN_ON, jax.__version__,
            )  # fmt: skip
    elif policy == "invariant":
        logging.log_first_n(
            logging.WARNING,
            "model.numerics='invariant' is shown to hold on CPUs alone: on %s sessions may differ "
            "in their last bits between calls. 'fast' promises nothing and says so.", 1, backend,
        )  # fmt: skip
    return jax.jit(f, compiler_options=options, **kwargs)
