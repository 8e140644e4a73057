"""Fields of the config as they are given on a command line: --config.a.b=value."""

from __future__ import annotations

from collections.abc import Sequence

from tmi import config as config_lib
from tmi.config import Config, ConfigError


def check_overrides(arguments: Sequence[str]) -> None:
    """Raises ConfigError for a --config.a.b that is no field, naming those that are."""
    fields = list(config_lib.flatten(Config()))
    for arg in arguments:
        name = arg.split("=", 1)[0].lstrip("-").removeprefix("no")
        if not arg.startswith("-") or not name.startswith("config."):
            continue
        field = name.removeprefix("config.")
        if field in fields:
            continue
        section = field.split(".")[0] + "."
        here = [f.removeprefix(section) for f in fields if f.startswith(section)]
        where = f"config.{section[:-1]}" if here else "config"
        accepted = here or sorted({f.split(".")[0] for f in fields})
        raise ConfigError(
            f"config.{field} does not exist; accepted in {where}: {', '.join(accepted)}"
        )
