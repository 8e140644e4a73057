"""How fast a training step is, as a share of the machine's matmul ceiling: one JSON object on
stdout.

    python -m tmi.train.measure --config=experiments/nano.py [--steps=10] [--transformers]

The batch is one of the config's corpus. With --transformers (extra [oracle]) the published block of
the same shape, as PyTorch's transformers has it, trains on as many tokens beside ours, both with
Adam on all cores, eager and compiled, a step of each in turn. Ours hears, sees and speaks as well;
theirs reads tokens alone.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import time
import typing
from collections.abc import Callable

import jax
import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

from tmi import command, compiled, large_pages, machine, sharding
from tmi import config as config_lib
from tmi.config import Config
from tmi.data.pipeline import train_batches
from tmi.models import flops
from tmi.train.loop import compiled_step, state_shardings
from tmi.train.overrides import parse_or_exit
from tmi.train.step import init_state

_CONFIG = config_flags.DEFINE_config_file("config", None, "experiments/<name>.py")
_STEPS = flags.DEFINE_integer("steps", 10, "Steps that are timed.", lower_bound=1)
_TRANSFORMERS = flags.DEFINE_bool("transformers", False, "PyTorch's model beside ours.")
WARM_UP = 2

Step = Callable[[], None]


def our_step(config: Config, batch: dict[str, np.ndarray]) -> Step:
    mesh = sharding.make_mesh(config)
    run = compiled_step(config, mesh)
    shardings = state_shardings(config, mesh)
    make = compiled.once(lambda key: init_state(config, key), out_shardings=shardings)
    state = make(jax.random.key(0))
    placed = jax.device_put(batch, sharding.batch_shardings(config, mesh))

    def step() -> None:
        nonlocal state
        state, values = run(state, placed)
        jax.block_until_ready((state, values))

    return step


def their_step(config: Config, rows: int, length: int, compiled: bool) -> Step:
    """Raises ImportError without the extra [oracle]."""
    from tmi.interop import fields

    torch: typing.Any = importlib.import_module("torch")
    transformers: typing.Any = importlib.import_module("transformers")
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    raw = fields.from_config(fields.published_shape(config))
    made: typing.Any = transformers.InklingForConditionalGeneration(
        transformers.InklingConfig(**raw)
    )
    model = torch.compile(made) if compiled else made
    adam = torch.optim.Adam(made.parameters(), lr=1e-4)
    ids = torch.randint(16, config.text.vocab_size, (rows, length))

    def step() -> None:
        adam.zero_grad(set_to_none=True)
        logits = model(input_ids=ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1)
        )
        loss.backward()
        adam.step()

    return step


def seconds(steps: dict[str, Step], count: int) -> dict[str, list[float]]:
    """Of `count` rounds in which each takes a step in turn; every other round goes backwards, since
    whoever comes first pays for what its neighbour left in the caches."""
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    found: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(count):
        for name, step in list(steps.items())[:: 1 if i % 2 == 0 else -1]:
            begun = time.perf_counter()
            step()
            found[name].append(time.perf_counter() - begun)
    return found


def measure(config: Config, count: int, beside: bool) -> dict[str, typing.Any]:
    batches = train_batches(config)
    batch = next(batches)
    batches.close()
    rows, length = batch["stream"].shape
    adam = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, muon=False))
    steps = {"ours": our_step(config, batch)}
    failed: dict[str, str] = {}
    if beside:
        steps["ours, Adam"] = our_step(adam, batch)
        for name, compiled in (("transformers, eager", False), ("transformers, compiled", True)):
            try:
                steps[name] = their_step(config, rows, length, compiled)
                steps[name]()
            except Exception as e:  # whatever its compiler lacks here
                steps.pop(name, None)
                failed[name] = f"{type(e).__name__}: {str(e).splitlines()[0]}"
    ceiling = machine.matmul_ceiling()
    found = seconds(steps, count)
    ceiling = max(ceiling, machine.matmul_ceiling())
    median = {name: float(np.median(x)) for name, x in found.items()}
    rate = flops.batch_flops(config, batch) / median["ours"]
    out: dict[str, typing.Any] = {
        "config": config.name,
        "positions": rows * length,
        "valid": round(float((batch["segment"] > 0).mean()), 3),
        "ceiling_gflops": round(ceiling / 1e9, 1),
        "gflops": round(rate / 1e9, 1),
        "share_of_ceiling": round(rate / ceiling, 3),
        "seconds": {n: [round(min(x), 3), round(median[n], 3), round(max(x), 3)]
                    for n, x in found.items()},
        "tokens_per_second": {n: round(rows * length / s) for n, s in median.items()},
    }  # fmt: skip
    theirs = [s for n, s in median.items() if n.startswith("transformers")]
    if theirs:
        out["times_transformers"] = round(min(theirs) / median["ours, Adam"], 2)
    return out | ({"failed": failed} if failed else {})


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    compiled.keep()
    with command.one_line(config_lib.ConfigError, OSError, ValueError):
        config = config_lib.from_config_dict(_CONFIG.value)
        print(json.dumps(measure(config, _STEPS.value, _TRANSFORMERS.value), indent=1))


if __name__ == "__main__":
    large_pages.restart_with("tmi.train.measure")
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_or_exit)
