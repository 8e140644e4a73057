"""A config as it is given on a command line: --config=experiments/NAME.py --config.a.b=value."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

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


def parse(argv: list[str]) -> list[str]:
    """All flags, as absl does it.

    Raises ConfigError for what does not exist; what a config file or ml_collections raises passes.
    """
    check_overrides(argv[1:])
    if not any(a.split("=")[0].lstrip("-") == "config" for a in argv[1:]):
        loose = [a for a in argv[1:] if a.lstrip("-").startswith("config.")]
        if loose:
            raise ConfigError(f"{loose[0]} changes a field of --config=F, which is missing")
    for arg in argv[1:]:
        name, _, value = arg.partition("=")
        file = pathlib.Path(value.split(":")[0])  # behind a colon: an argument of get_config
        if name.lstrip("-") == "config" and value and not file.is_file():
            near = sorted(str(p) for p in file.parent.glob("[a-z]*.py"))
            raise ConfigError(f"--config={value}: no such file; there are: {', '.join(near)}")
    try:
        return flags.FLAGS(argv)
    except flags.Error as e:
        raise ConfigError(str(e)) from e


def parse_or_exit(argv: list[str]) -> list[str]:
    """`parse`, as app.run(main, flags_parser=...) takes it: an error is one line."""
    try:
        return parse(argv)
    except (ConfigError, OSError, KeyError, AttributeError, TypeError, ValueError) as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(1)
