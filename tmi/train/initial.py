"""What a training begins with, --init_from: the averaged weights of another, or a published
checkpoint.

Only what the source cannot have begins anew: heads that only a loss reads, changes of weights
(LoRA), and, where it is a published model, all that makes it an interaction model. What is added to
a published model's hidden states begins at zero, so that it starts as the model that was published.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Mapping

import jax
from jaxtyping import Array

from tmi import compiled, sharding
from tmi.config import Config, ConfigError, differing_fields
from tmi.interop import origin
from tmi.models import lora, tree
from tmi.models.interaction import TRAINING_ONLY
from tmi.paths import PathLike
from tmi.train import checkpoint
from tmi.train.checkpoint import CheckpointError
from tmi.train.step import TrainState, state_of

# Modules that no published model has, and those that a text-only one lacks.
ADDED, TOWERS = ("flow", "speech", "clock", "streams", *TRAINING_ONLY), ("dmel", "video")
# Theirs, beside those: added to the input of the transformer, or to the scores of attention.
QUIET = ("tokens.stream", "clock.weight", "attention.time", "attention.time_key")
BEGIN_AT_ZERO = (
    "clock.digits",
    "attention.clock_key",
)  # a model that gets them is at first what it was
SECTIONS = ("model.", "flow.", "audio.", "video.", "text.", "speech.", "microturn.", "streams")


def begin(config: Config, source: PathLike, shardings: typing.Any) -> tuple[TrainState, list[dict]]:
    """A fresh state, optimizer included, around the weights of `source`, placed as `shardings` (a
    TrainState of them) say; and the legs of training behind them.

    Raises ConfigError if the model there has other parameters or shapes, CheckpointError if it
    cannot be read.
    """
    if origin.is_published(source):
        params, legs = published(config, source, shardings.params), []
    else:
        params, legs = from_workdir(config, source, shardings.params)
    build = functools.partial(state_of, config)
    return jax.jit(build, out_shardings=shardings)(params), legs


def from_workdir(
    config: Config,
    source: PathLike,
    shardings: Mapping[str, jax.sharding.Sharding] | None = None,
) -> tuple[dict[str, Array], list[dict]]:
    """`shardings`: where each parameter goes, so that no device holds the whole."""
    theirs, params, info = checkpoint.read(source, shardings=shardings)
    missing = {
        n for n in tree.names(config)
        if n not in params
        and (n.split(".")[0] in TRAINING_ONLY or lora.is_lora(n) or n.endswith(BEGIN_AT_ZERO))
    }  # fmt: skip
    placed = {n: shardings[n] for n in missing} if shardings else None
    params = params | fresh(config, missing, placed)
    _check(config, theirs, {n: tuple(x.shape) for n, x in params.items()}, source)
    return params, info["legs"]


def published(
    config: Config, source: PathLike, shardings: Mapping[str, jax.sharding.Sharding]
) -> dict[str, Array]:
    """Read tensor by tensor, each device its part: no host holds the whole."""
    from tmi.interop import backbone  # which reads safetensors: of use here alone

    want = sharding.param_shapes(config)
    try:
        theirs = backbone.Backbone(str(source), config)
        have = theirs.shapes
        towers = () if "dmel.table" in have else TOWERS
        new = {n for n in want if n not in have and _is_added(n, towers)}
        _check(config, theirs.config, have | {n: want[n] for n in new}, source)
        params = {
            n: jax.make_array_from_callback(
                have[n], shardings[n], functools.partial(theirs.part, n)
            )
            for n in have
        }
    except backbone.InteropError as e:
        raise CheckpointError(f"--init_from={source}: {e}") from e
    made = fresh(config, new, {n: shardings[n] for n in new})
    return params | {n: x * 0 if n.endswith(QUIET) else x for n, x in made.items()}


def _is_added(name: str, towers: tuple[str, ...]) -> bool:
    module = name.split(".")[0]
    return module in (*ADDED, *towers) or name.endswith(QUIET) or lora.is_lora(name)


def fresh(config: Config, names: set[str], shardings: Mapping | None = None) -> dict[str, Array]:
    """Of a new model these parameters alone."""
    if not names:
        return {}

    def make(key):
        params = tree.fresh(config, key)
        return {n: params[n] for n in sorted(names)}

    made = compiled.once(make, out_shardings=dict(shardings) if shardings else None)
    return made(jax.random.key(config.train.seed))


def _check(config: Config, theirs: Config, have: Mapping[str, tuple], source: PathLike) -> None:
    want = sharding.param_shapes(config)
    if want == have:
        return
    wrong = [n for n in sorted({*want, *have}) if want.get(n) != have.get(n)]
    fields = [f for f in differing_fields(theirs, config) if f.startswith(SECTIONS)]
    raise ConfigError(
        f"--init_from={source}: its parameters do not fit this config, {wrong[0]} is "
        f"{have.get(wrong[0])} there and {want.get(wrong[0])} here; differing (there -> "
        f"here): {'; '.join(fields)}"
    )
