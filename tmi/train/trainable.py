"""Which parameters a training moves, by optimizer.trainable; the others keep every bit."""

from __future__ import annotations

import fnmatch
import functools

from tmi.config import Config, ConfigError
from tmi.models import lora, tree

# What the published model does not have, and what reads its hidden states.
HEADS = (
    "flow.*", "speech.*", "hearing.*", "spelling.*", "waiting.*", "unembed.*", "clock.*",
    "tokens.stream", "streams.*",
)  # fmt: skip
PRESETS: dict[str, tuple[str, ...]] = {
    "all": ("*",),
    "heads": HEADS,
    "lora": (f"*{lora.DOWN}", f"*{lora.UP}"),
}


@functools.lru_cache(maxsize=8)
def moving(config: Config) -> frozenset[str]:
    """Names of the parameters that a step changes: by its gradient, or by the rule of the routers'
    balances.

    Raises ConfigError for a pattern that no parameter matches.
    """
    known, found = tree.names(config), set()
    for entry in config.optimizer.trainable:
        hit = {n for p in PRESETS.get(entry, (entry,)) for n in fnmatch.filter(known, p)}
        if not hit:
            raise ConfigError(
                f"config.optimizer.trainable: {entry!r} matches no parameter; accepted are "
                f"{', '.join(map(repr, PRESETS))} ('lora' with model.lora_rank > 0) and patterns "
                f"of names such as {known[len(known) // 2]!r} or 'flow.*'"
            )
        found |= hit
    return frozenset(found)


def trained(config: Config) -> frozenset[str]:
    """Names of those that a gradient moves."""
    return moving(config) & frozenset(tree.trained_names(config))
