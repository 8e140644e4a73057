"""A config as it is given on a command line: --config=F[:argument] --config.a.b=value."""

from __future__ import annotations

import pathlib
import re
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
        inside = [f.removeprefix(f"{field}.") for f in fields if f.startswith(f"{field}.")]
        if inside:
            raise ConfigError(
                f"config.{field} is a section and not given as a whole: config.{field}.NAME=VALUE "
                f"is accepted, NAME being one of {', '.join(inside)}"
            )
        here = [f.removeprefix(section) for f in fields if f.startswith(section)]
        where = f"config.{section[:-1]}" if here else "config"
        accepted = here or sorted({f.split(".")[0] for f in fields})
        raise ConfigError(
            f"config.{field} does not exist; accepted in {where}: {', '.join(accepted)}"
        )


def experiments(folder: pathlib.Path) -> list[str]:
    """The files there that define get_config()."""
    return [str(p) for p in sorted(folder.glob("*.py")) if is_experiment(p)]


def is_experiment(file: pathlib.Path) -> bool:
    return bool(re.search(r"^def get_config\(", file.read_text(), re.MULTILINE))


def parse(argv: list[str]) -> list[str]:
    """Parses all flags; returns what is none.

    Raises ConfigError for a field, a file or a value that cannot be, in one line.
    """
    check_overrides(argv[1:])
    if not any(a.split("=")[0].lstrip("-") == "config" for a in argv[1:]):
        loose = [a for a in argv[1:] if a.lstrip("-").startswith("config.")]
        if loose:
            raise ConfigError(f"{loose[0]} changes a field of --config=F, which is missing")
    for arg, following in zip(argv[1:], [*argv[2:], ""], strict=True):
        name, equals, value = arg.partition("=")
        value = value if equals else following
        file = pathlib.Path(value.split(":")[0])  # behind a colon: an argument of get_config
        if name.lstrip("-") == "config" and value and not file.is_file():
            near = ", ".join(experiments(file.parent))
            raise ConfigError(f"--config={value}: no such file; there are: {near}")
    try:
        return flags.FLAGS(argv)
    except flags.Error as e:
        text = str(e)
        if "Traceback" in text:  # of get_config: its last line says what it is
            what, last = text.split(": Error")[0], text.strip().splitlines()[-1]
            named = last.removeprefix("tmi.config.ConfigError: ")
            text = named if named != last else f"{what}: {last}"
            if "get_config() takes 0 positional" in last:
                text = f"{what}: its get_config() takes nothing behind a colon"
        text = re.sub(r"invalid literal for int\(\).*", "a whole number is accepted", text)
        raise ConfigError(text) from e


def parse_or_exit(argv: list[str]) -> list[str]:
    """`parse` for app.run: an error is one line on stderr, and the end."""
    try:
        return parse(argv)
    except (ConfigError, OSError, KeyError, AttributeError, TypeError, ValueError) as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(1)
