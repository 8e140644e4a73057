"""How far back is a key? By tokens, by micro-turns, or both: the demo's model under each scheme.

Token distance is the published block's; a micro-turn has as many positions as happened in it, so
that seconds cannot be read off it. docs/LOG.md holds what came out.

    python -m tmi.train --config=experiments/ablate_position.py:token --workdir=runs/position_token
"""

from collections.abc import Iterator

from experiments import demo
from tmi import config

SCHEMES = ("token", "microturn", "both")


def get_config(scheme: str = "both") -> config.View:
    """scheme: model.position_bias, given behind the file's name and a colon."""
    c = demo.get_config()
    c.name = f"position_{scheme}"
    c.model.position_bias = scheme
    return c


def sweep() -> Iterator[config.View]:
    for scheme in SCHEMES:
        yield get_config(scheme)
