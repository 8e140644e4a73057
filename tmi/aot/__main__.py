"""python -m tmi.aot --config=F --topology=v5p:4x4x4 [--mode=train|decode] [--fit --sessions
--context]

Compiles a config for a TPU slice on any machine. One JSON object on stdout, a table on stderr.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import pathlib
import sys
import time

from absl import app, flags
from ml_collections import config_flags

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

from tmi import libtpu  # noqa: E402

libtpu.set_flags()

from tmi import config as config_lib  # noqa: E402
from tmi.aot import hardware, hlo, program, roofline  # noqa: E402
from tmi.config import MESH_AXES, Config, ConfigError  # noqa: E402
from tmi.train.overrides import parse_or_exit  # noqa: E402

_CONFIG = config_flags.DEFINE_config_file("config", None, "experiments/<name>.py", lock_config=True)
_TOPOLOGY = flags.DEFINE_string("topology", None, "CHIP:AxBxC, or CHIP alone with --fit.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "decode"], "What is compiled.")
_FIT = flags.DEFINE_bool("fit", False, "Search the smallest slice, and its mesh, that fits.")
_PARAMETERS = flags.DEFINE_bool("parameters", False, "Only count the parameters, by part.")
_HLO = flags.DEFINE_string("hlo", None, "A file for the compiled program's text.")
_SESSIONS = flags.DEFINE_integer("sessions", 64, "Sessions of --mode=decode.", lower_bound=1)
_CONTEXT = flags.DEFINE_integer("context", 32768, "Positions each remembers.", lower_bound=1)


def report(config: Config, where: hardware.Slice, mode: str, sessions: int, context: int) -> dict:
    """What the contract names, for one slice and the config's mesh."""
    begun = time.monotonic()
    mesh = program.slice_mesh(where, config.train.mesh)
    if mode == "train":
        p = program.train_program(config, mesh)
    else:
        p = program.decode_program(config, mesh, sessions, context)
    compiled = program.compile_program(p)
    if mode == "train":
        sizes = {"positions": config.data.batch_size * config.data.row_length}
    else:
        sizes = {"sessions": sessions, "context": context, "passes": p.passes}
    memory = {**p.state, "temporaries": compiled.temporaries}
    limit = where.chip.hbm_bytes / where.chip.devices
    out = {
        "config": config.name,
        "mode": mode,
        "topology": where.name,
        "mesh": dict(zip(MESH_AXES, config.train.mesh, strict=True)),
        "fits": compiled.text is not None and sum(memory.values()) <= limit,
        "bytes_per_device": memory,
        "bytes_limit": int(limit),
        "bytes_over": compiled.over or max(0, int(sum(memory.values()) - limit)),
        "model_flops": p.model_flops,
        "parameters": program.count_parameters(config),
        "command": "python -m tmi.aot " + " ".join(sys.argv[1:]),
        **sizes,
        "compile_seconds": round(time.monotonic() - begun, 1),
    }
    if compiled.text is None:
        return out | {"message": compiled.message}
    if _HLO.value:
        pathlib.Path(_HLO.value).write_text(compiled.text)
    found = hlo.collectives(compiled.text, p.trips)
    # What is made on the way is written and read.
    moved = p.passes * sum(p.state.values()) + 2 * compiled.temporaries
    moved *= where.chip.devices
    line = roofline.roofline(where, p.model_flops, p.extra_flops, moved, found)
    return out | {
        "collectives": hlo.by_kind(found),
        "compute_seconds": line.compute_s,
        "hbm_seconds": line.hbm_s,
        "ici_seconds": line.ici_s,
        "ici_waited_seconds": line.waited_s,
        "seconds": line.seconds(),
        "expected_mfu": line.mfu(),
        "expected_mfu_full_overlap": line.mfu(True),
        "expected_mfu_no_overlap": line.mfu(False),
        "bottleneck": line.bottleneck,
    }


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


def fit(config: Config, chip: hardware.Chip, mode: str, sessions: int, context: int) -> dict:
    """The report of the smallest slice of `chip` that fits.

    Raises ConfigError if none does.
    """
    rows = config.data.batch_size // config.train.micro_batches if mode == "train" else sessions
    for where in hardware.smallest_first(chip):
        for sizes in meshes(config, where.num_devices, rows):
            train = dataclasses.replace(config.train, mesh=sizes)
            tried = dataclasses.replace(config, train=train)
            out = report(tried, where, mode, sessions, context)
            say(f"{where.name} mesh {sizes}: {'fits' if out['fits'] else 'does not fit'}")
            if out["fits"]:
                return out
    raise ConfigError(f"--fit: no slice of {chip.name} of up to 512 chips holds {config.name}")


def table(out: dict) -> str:
    """What people read."""
    gib = 2**30
    lines = [f"{out['config']} {out['mode']} on {out['topology']}, mesh {out['mesh']}"]
    if not out["fits"]:
        lines.append(f"  DOES NOT FIT, by {out['bytes_over'] / gib:.2f} GiB a device")
    for kind, size in out["bytes_per_device"].items():
        lines.append(f"  {kind:<12} {size / gib:9.3f} GiB")
    lines.append(f"  {'of':<12} {out['bytes_limit'] / gib:9.3f} GiB")
    counts = out["parameters"]
    lines.append(f"  parameters {counts['total']:,}, active {counts['active']:,}")
    for kind, c in out.get("collectives", {}).items():
        lines.append(f"  {kind:<20} {c['count']:6.0f} x, {c['bytes'] / 2**20:12.1f} MiB a device")
    if "seconds" in out:
        lines.append(
            f"  {out['model_flops']:.3g} model FLOPs; compute {out['compute_seconds']:.3g} s, HBM "
            f"{out['hbm_seconds']:.3g} s, ICI {out['ici_seconds']:.3g} s: {out['bottleneck']}"
        )
        lines.append(
            f"  {out['seconds']:.3g} s; MFU {out['expected_mfu']:.1%} (full overlap "
            f"{out['expected_mfu_full_overlap']:.1%}, none {out['expected_mfu_no_overlap']:.1%})"
        )
    return "\n".join(lines)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parameter_table(counts: dict[str, int]) -> str:
    """What people read."""
    return "\n".join(f"  {part:<18} {size:>18,}" for part, size in counts.items())


def main(_) -> None:
    topology = _TOPOLOGY.value or ""
    if _CONFIG.value is None or not (topology or _PARAMETERS.value):
        raise app.UsageError(
            "--config=experiments/NAME.py and --topology=v5p:4x4x4 are needed, or --parameters"
        )
    try:
        config = config_lib.from_config_dict(_CONFIG.value)
        if _PARAMETERS.value:
            counts = program.count_parameters(config)
            say(f"parameters of {config.name}\n{parameter_table(counts)}")
            print(json.dumps({"config": config.name, "parameters": counts}))
            return
        rest = (_MODE.value, _SESSIONS.value, _CONTEXT.value)
        if _FIT.value:
            name = topology.split(":")[0]
            if name not in hardware.CHIPS:
                raise ValueError(f"--topology={name!r}: accepted are {', '.join(hardware.CHIPS)}")
            out = fit(config, hardware.CHIPS[name], *rest)
        else:
            where = hardware.parse(topology)
            if math.prod(config.train.mesh) == 1:  # not chosen
                mesh = (1, where.num_devices, 1, 1, 1)
                config = dataclasses.replace(
                    config, train=dataclasses.replace(config.train, mesh=mesh)
                )
            out = report(config, where, *rest)
    except (ConfigError, ValueError, RuntimeError) as error:
        raise SystemExit(str(error)) from None
    say(table(out))
    print(json.dumps(out))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_or_exit)
