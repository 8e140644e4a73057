"""A kernel compiled for a machine that it cannot run on raises, in words.

The platform is known only when a program is lowered: a model may be compiled for a TPU on a machine
that has none. So the check is an operation of the program, an identity that lowers on one platform.
"""

from __future__ import annotations

import jax
from jax.extend.core import Primitive
from jax.interpreters import mlir

_only_on = Primitive("only_on")
_only_on.def_abstract_eval(lambda x, **_: x)
_only_on.def_impl(lambda x, **_: x)


def _lower(ctx, x, *, platform: str, op: str, implementation: str):
    here = ctx.module_context.platforms
    if any(p != platform for p in here):
        raise NotImplementedError(
            f"{op}: implementation={implementation!r} runs on {platform} and is compiled for "
            f"{', '.join(here)} here; 'reference' is accepted everywhere"
        )
    return [x]


mlir.register_lowering(_only_on, _lower)


def only_on(x: jax.Array, platform: str, *, op: str, implementation: str) -> jax.Array:
    """`x`. Compiling the program that holds this for another platform than `platform` ("tpu",
    "cuda") raises NotImplementedError naming `op` and its `implementation`."""
    return _only_on.bind(x, platform=platform, op=op, implementation=implementation)
