"""How long should a micro-turn be? The demo's model at 0.2, 0.4 and 1.0 s.

A longer one costs fewer output positions a second and reacts later. Each member costs what the demo
costs, and has corpora of its own: answers begin where an output of its clock may.

    for s in 0.2 0.4 1; do for split in train:2500 dev:60; do
      python -m data_pipelines.synthetic --out=build/tick_$s/${split%:*} --split=${split%:*} \\
        --sessions=${split#*:} --skills=answer,timespeak,repcount --microturn_seconds=$s --workers=2
    done; done
    python -m tmi.train --config=experiments/ablate_tick.py:0.4 --workdir=runs/tick_0.4
"""

import math
from collections.abc import Iterator

from experiments import demo
from tmi import config

SECONDS = (0.2, 0.4, 1.0)


def get_config(seconds: str | float = 0.2) -> config.View:
    """seconds: the length of a micro-turn, given behind the file's name and a colon."""
    try:
        length = float(seconds)
    except ValueError:
        length = math.nan
    if not 0 < length < math.inf:
        raise config.ConfigError(
            f"--config=experiments/ablate_tick.py:{seconds}: behind the colon the seconds of a "
            f"micro-turn are accepted, such as {', '.join(map(str, SECONDS))}"
        )
    c = demo.get_config()
    factor = length / c.microturn.seconds
    c.name = f"tick_{length:g}"
    c.microturn.seconds = length
    corpora = f"build/tick_{length:g}"
    c.data.corpus, c.data.dev_corpus = f"{corpora}/train", f"{corpora}/dev"
    # As many tokens and as long a memory of time a second, whatever the length.
    c.microturn.max_text_in = round(factor * c.microturn.max_text_in)
    c.microturn.max_text_out = round(factor * c.microturn.max_text_out)
    c.model.time_max_microturns = round(c.model.time_max_microturns / factor)
    return c


def sweep() -> Iterator[config.View]:
    for seconds in SECONDS:
        yield get_config(seconds)
