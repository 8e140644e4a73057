"""What invariant numerics cost: a training step and streaming micro-turns under 'invariant' and
'fast', interleaved in one run, first one and then the other before.

    python kernels/benchmarks/numerics.py --workdir=assets/nano --corpus=build/corpus/dev

Ratios are medians over pairs of neighbours in time: what else the machine does falls on both.
Prints one JSON object.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time

import numpy as np
from absl import app, flags, logging
from turns import inputs

from tmi.config import Config
from tmi.data.records import open_corpus, read_sessions
from tmi.decode.stream import Decoder
from tmi.models import tree
from tmi.train.checkpoint import restore_params

_WORKDIR = flags.DEFINE_string("workdir", None, "A workdir or shipped checkpoint.", required=True)
_CORPUS = flags.DEFINE_string(
    "corpus", "build/corpus/dev", "Its sessions are streamed, and trained on."
)
_SESSIONS = flags.DEFINE_list("sessions", ["1", "8", "32"], "Sessions side by side.")
_PAIRS = flags.DEFINE_integer("pairs", 12, "Pairs of training steps; 0: none.")
_TURNS = flags.DEFINE_integer("turns", 150, "Pairs of micro-turns; 0: none.")
_WARM = flags.DEFINE_integer("warm", 100, "Micro-turns that go before.")
POLICIES = ("fast", "invariant")


def under(config: Config, policy: str) -> Config:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, numerics=policy))


def summary(seconds: dict[str, list[float]]) -> dict:
    """Milliseconds (best, median) of each policy, and the ratio of pairs (quartiles)."""
    ratio = np.array(seconds["invariant"]) / np.array(seconds["fast"])
    ms = {n: [round(min(x) * 1e3, 2), round(float(np.median(x)) * 1e3, 2)] for n, x in
          seconds.items()}  # fmt: skip
    return {
        "best_and_median_ms": ms,
        "ratio_of_medians": round(ms["invariant"][1] / ms["fast"][1], 3),
        "ratio_of_best": round(ms["invariant"][0] / ms["fast"][0], 3),
        "ratio_of_pairs": [round(float(q), 3) for q in np.quantile(ratio, (0.25, 0.5, 0.75))],
    }


def training(config: Config, corpus: str, steps: int) -> dict:
    from tmi.data.pipeline import train_batches
    from tmi.train.measure import our_step, seconds

    config = dataclasses.replace(config, data=dataclasses.replace(config.data, corpus=corpus))
    batches = train_batches(config)
    batch = next(batches)
    batches.close()
    return summary(seconds({p: our_step(under(config, p), batch) for p in POLICIES}, steps))


def streaming(config: Config, params: dict, corpus: str, slots: int, warm: int, count: int) -> dict:
    records = read_sessions(open_corpus(corpus))
    decoders = {p: Decoder(under(config, p), params, slots) for p in POLICIES}
    heard = [inputs(decoders["fast"], next(records), warm + count) for _ in range(slots)]
    found: dict[str, list[float]] = {p: [] for p in POLICIES}
    for m, turns in enumerate(zip(*heard, strict=True)):
        for p, decoder in list(decoders.items())[:: 1 if m % 2 == 0 else -1]:
            begun = time.perf_counter()
            decoder.step(turns, [m == 0] * slots)
            if m >= warm:
                found[p].append(time.perf_counter() - begun)
    return summary(found)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    stacked, weights = restore_params(_WORKDIR.value)
    config, params = tree.layer_by_layer(stacked, weights)
    out: dict = {}
    if _TURNS.value:
        for n in map(int, _SESSIONS.value):
            found = streaming(config, params, _CORPUS.value, n, _WARM.value, _TURNS.value)
            out[f"micro-turn of {n} sessions"] = found
            print(f"{n} sessions: {found['ratio_of_pairs']}", file=sys.stderr)
    if _PAIRS.value:
        out["training step"] = training(stacked, _CORPUS.value, _PAIRS.value)
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    app.run(main)
