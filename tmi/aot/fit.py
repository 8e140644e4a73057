"""The smallest slice, and its mesh, that a config fits on."""

from __future__ import annotations

import dataclasses
import itertools

from tmi.aot import hardware
from tmi.aot.report import Asked, build, limit, report, say
from tmi.config import Config, ConfigError


def meshes(config: Config, devices: int, rows: int) -> list[tuple[int, ...]]:
    """Meshes of so many devices worth a try, fsdp first: batch axes divide `rows`, expert and
    tensor their dimensions."""
    m = config.model
    powers = [2**i for i in range(devices.bit_length()) if 2**i <= devices]
    out = []
    for expert, tensor in itertools.product(powers, powers):
        fsdp = devices // (expert * tensor)
        if fsdp < 1 or fsdp * expert * tensor != devices or rows % fsdp:
            continue
        if m.num_experts % expert or m.num_kv_heads % tensor:
            continue
        out.append((1, fsdp, expert, 1, tensor))
    return sorted(out, key=lambda s: (s[4], s[2]))


def with_mesh(config: Config, sizes: tuple[int, ...], mode: str) -> Config:
    """The config on a mesh of these sizes; decoding has no batch, and so none that must fit it."""
    train, data = dataclasses.replace(config.train, mesh=sizes), config.data
    if mode == "decode":
        rows = sizes[0] * sizes[1] * train.micro_batches * data.shards
        data = dataclasses.replace(data, batch_size=rows)
    return dataclasses.replace(config, train=train, data=data)


def fit(config: Config, chip: hardware.Chip, asked: Asked) -> dict:
    """The report of the smallest slice of `chip` that fits. What is too large before anything is
    computed is not compiled.

    Raises ConfigError if none does.
    """
    parts = config.train.micro_batches
    rows = config.data.batch_size // parts if asked.mode == "train" else asked.sessions
    slices = hardware.smallest_first(chip)
    for where in slices:
        for sizes in meshes(config, where.num_devices, rows):
            tried = with_mesh(config, sizes, asked.mode)
            p = build(tried, where, asked)
            state = sum(p.state.values())
            if state > limit(where):
                say(
                    f"{where.name} mesh {sizes}: not compiled, state alone is {state / 2**30:.2f} "
                    f"GiB of {limit(where) / 2**30:.2f}"
                )
                continue
            out = report(tried, where, asked, p)
            say(f"{where.name} mesh {sizes}: {'fits' if out['fits'] else 'does not fit'}")
            if out["fits"]:
                return out
    raise ConfigError(
        f"--fit: no slice of {chip.name} of up to {slices[-1].num_chips} chips holds {config.name}"
    )
