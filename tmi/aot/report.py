"""What is printed of a compiled program: for machines and for people."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
import time

from tmi.aot import hardware, hlo, program, roofline, text, traffic
from tmi.aot.program import Program
from tmi.config import MESH_AXES, Config

# What only a compiled program tells; null where it does not fit.
COMPILED = (
    "collectives", "loops_unread", "whole_gathers", "hbm_bytes", "compute_seconds", "hbm_seconds",
    "optimizer_seconds", "ici_seconds", "ici_waited_seconds", "seconds", "expected_mfu",
    "expected_mfu_full_overlap", "expected_mfu_no_overlap", "bottleneck",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is compiled, and a file for the compiled text."""

    mode: str = "train"
    sessions: int = 64
    context: int = 32768
    hlo: str | None = None


def build(config: Config, where: hardware.Slice, asked: Asked) -> Program:
    """For one slice and the config's mesh."""
    mesh = program.slice_mesh(where, config.train.mesh)
    if asked.mode == "train":
        return program.train_program(config, mesh)
    return program.decode_program(config, mesh, asked.sessions, asked.context)


def limit(where: hardware.Slice) -> float:
    """Bytes of a device."""
    return where.chip.hbm_bytes / where.chip.devices


def report(config: Config, where: hardware.Slice, asked: Asked, p: Program | None = None) -> dict:
    """What the contract names, for one slice and the config's mesh. `p`: what `build` makes."""
    begun = time.monotonic()
    p = p or build(config, where, asked)
    compiled = program.compile_program(p)
    if asked.mode == "train":
        sizes = {"positions": config.data.batch_size * config.data.row_length}
    else:
        sizes = {"sessions": asked.sessions, "context": asked.context, "passes": p.passes}
    used = sum(p.state.values()) + compiled.temporaries
    out = {
        "config": config.name,
        "mode": asked.mode,
        "topology": where.name,
        "mesh": dict(zip(MESH_AXES, config.train.mesh, strict=True)),
        "fits": compiled.text is not None and used <= limit(where),
        "bytes_per_device": {
            **p.state, "temporaries": None if compiled.text is None else compiled.temporaries,
        },
        "bytes_limit": int(limit(where)),
        "bytes_over": compiled.over or max(0, int(used - limit(where))),
        "model_flops": p.model_flops,
        "parameters": program.count_parameters(config),
        "command": "python -m tmi.aot " + " ".join(sys.argv[1:]),
        **sizes,
        "compile_seconds": round(time.monotonic() - begun, 1),
        **dict.fromkeys(COMPILED),
    }  # fmt: skip
    if compiled.text is None:
        return out | {"message": compiled.message}
    if asked.hlo:
        pathlib.Path(asked.hlo).write_text(compiled.text)
    return out | measured(where, p, compiled.text, out["mesh"])


def measured(where: hardware.Slice, p: Program, compiled: str, mesh: dict[str, int]) -> dict:
    """COMPILED, of the compiled text."""
    module = text.read(compiled, p.trips)
    found = hlo.collectives(module, mesh=mesh)
    moved = traffic.hbm_bytes(module)
    line = roofline.roofline(
        where, p.model_flops, p.extra_flops, moved * where.chip.devices, found,
        p.optimizer_flops, p.optimizer_bytes * where.chip.devices,
    )  # fmt: skip
    if module.unread:
        say(
            f"loops that do not say how often they run: {len(module.unread)} "
            f"({', '.join(module.unread[:5])}); what is in them counts {p.trips} times"
        )
    return {
        "collectives": hlo.by_kind(found),
        "loops_unread": len(module.unread),
        "whole_gathers": hlo.whole_gathers(found, p.wholes),
        "hbm_bytes": moved,
        "compute_seconds": line.compute_s,
        "hbm_seconds": line.hbm_s,
        "optimizer_seconds": line.optimizer_s,
        "ici_seconds": line.ici_s,
        "ici_waited_seconds": line.waited_s,
        "seconds": line.seconds(),
        "expected_mfu": line.mfu(),
        "expected_mfu_full_overlap": line.mfu(True),
        "expected_mfu_no_overlap": line.mfu(False),
        "bottleneck": line.bottleneck,
    }


def table(out: dict) -> str:
    """What people read."""
    gib = 2**30
    lines = [f"{out['config']} {out['mode']} on {out['topology']}, mesh {out['mesh']}"]
    if not out["fits"]:
        lines.append(f"  DOES NOT FIT, by {out['bytes_over'] / gib:.2f} GiB a device")
    for kind, size in out["bytes_per_device"].items():
        told = "        ?" if size is None else f"{size / gib:9.3f}"
        lines.append(f"  {kind:<12} {told} GiB")
    lines.append(f"  {'of':<12} {out['bytes_limit'] / gib:9.3f} GiB")
    counts = out["parameters"]
    lines.append(f"  parameters {counts['total']:,}, active {counts['active']:,}")
    for kind, c in (out["collectives"] or {}).items():
        lines.append(
            f"  {kind:<20} {c['count']:6.0f} x, {c['bytes'] / 2**20:12.1f} MiB a device, "
            f"{c['largest'] / 2**20:.1f} at most, along {' / '.join(c['axes'])}"
        )
    for name, size in (out["whole_gathers"] or {}).items():
        lines.append(f"  WHOLE on each device: {name}, {size / 2**20:.1f} MiB")
    if out["seconds"] is not None:
        lines.append(
            f"  {out['model_flops']:.3g} model FLOPs; compute {out['compute_seconds']:.3g} s, HBM "
            f"{out['hbm_seconds']:.3g} s, optimizer {out['optimizer_seconds']:.3g} s, ICI "
            f"{out['ici_seconds']:.3g} s: {out['bottleneck']}"
        )
        lines.append(
            f"  {out['seconds']:.3g} s; MFU {out['expected_mfu']:.1%} (full overlap "
            f"{out['expected_mfu_full_overlap']:.1%}, none {out['expected_mfu_no_overlap']:.1%})"
        )
    return "\n".join(lines)


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
