"""python -m tmi.aot.page docs/pods

Reads the reports `*.json` of a folder and writes its README.md: a row for each, and what they say.
"""

from __future__ import annotations

import json
import pathlib
import sys

GIB = 2**30
HEAD = """# What tml_small takes on TPU slices

Compiled by the real TPU compiler on a machine without one; nothing was run. Each row is a report
beside this page, made by the command below; `python -m tmi.aot.page docs/pods` writes the page from
them. Seconds are those of a roofline (`tmi/aot/roofline.py`): the rates that the vendor publishes,
matrix products at 70 % of their peak, recomputed products counted; communication that the compiled
program does not overlap is added to computation. Meshes are data x fsdp x expert x sequence x
tensor. A micro-turn is the longest there is: its passes read all weights for the input, for as many
tokens as fit and for speech.
"""
# As long as a report lacks what reports have had since.
OLDER = """
Reports marked * are older than what counts bytes of HBM instruction by instruction: they have two
sweeps over the temporaries in its place, a hundredth of what a step moves where attention's scores
lie in HBM. Nor do they count the optimizer's seconds, collectives in loops of windowed products, or
gathers of whole parameters. Their seconds are lower bounds, far off, and show no bar met.
"""
TRAIN = (
    "slice", "mesh", "positions a step", "GiB a device", "of that state", "seconds",
    "compute / HBM / waited for ICI", "expected MFU", "all overlapped / nothing",
    "collectives, GiB a device",
)  # fmt: skip
DECODE = (
    "slice", "mesh", "sessions x positions", "GiB a device", "weights", "cache", "passes",
    "milliseconds", "compute / HBM / waited for ICI", "bottleneck",
)  # fmt: skip


def page(reports: list[dict]) -> str:
    """Markdown of reports as `python -m tmi.aot` prints them."""
    train = [train_row(r) for r in reports if r["mode"] == "train"]
    decode = [decode_row(r) for r in reports if r["mode"] == "decode"]
    out = [HEAD]
    if any(map(is_older, reports)):
        out.append(OLDER)
    for title, names, rows in (
        ("Training", TRAIN, train), ("Decoding one micro-turn", DECODE, decode),
    ):  # fmt: skip
        if rows:
            line = row(["---"] * len(names))
            out.append("".join([f"\n## {title}\n\n", row(list(names)), line, *rows]))
    commands = "".join(f"    {r['command']}\n" for r in reports if "command" in r)
    return "".join(out) + (f"\n## Commands\n\n{commands}" if commands else "")


def train_row(r: dict) -> str:
    whole, state = memory(r), held(r) - temporaries(r)
    kinds = ", ".join(
        f"{kind} {c['bytes'] / GIB:.1f}" for kind, c in (r.get("collectives") or {}).items()
    )
    cells = [
        place(r), mesh(r), f"{r.get('positions', 0):,}", whole, f"{state / GIB:.1f}",
        cell(r, "seconds", ".2f"), parts(r, ".2f"), cell(r, "expected_mfu", ".1%"),
        " / ".join(cell(r, f"expected_mfu_{o}_overlap", ".1%") for o in ("full", "no")),
        kinds,
    ]  # fmt: skip
    return row(cells)


def decode_row(r: dict) -> str:
    kinds = r["bytes_per_device"]
    cells = [
        place(r), mesh(r), f"{r.get('sessions')} x {r.get('context')}", memory(r),
        f"{kinds['parameters'] / GIB:.1f}", f"{kinds['cache'] / GIB:.1f}", str(r.get("passes", 1)),
        cell(r, "seconds", ".1f", 1000), parts(r, ".1f", 1000), r.get("bottleneck") or "",
    ]  # fmt: skip
    return row(cells)


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"


def mesh(r: dict) -> str:
    return " x ".join(str(n) for n in r["mesh"].values())


def cell(r: dict, field: str, form: str, times: float = 1) -> str:
    """Of a field that a report may lack, or have as null where nothing was compiled."""
    value = r.get(field)
    return "" if value is None else format(times * value, form)


def place(r: dict) -> str:
    return r["topology"] + "*" * is_older(r)


def is_older(r: dict) -> bool:
    return "loops_unread" not in r


def parts(r: dict, form: str, times: float = 1) -> str:
    names = ("compute_seconds", "hbm_seconds", "ici_waited_seconds")
    return " / ".join(cell(r, name, form, times) for name in names)


def temporaries(r: dict) -> int:
    return r["bytes_per_device"].get("temporaries") or 0


def held(r: dict) -> int:
    """Bytes of a device, as far as they are known."""
    return sum(n or 0 for n in r["bytes_per_device"].values())


def memory(r: dict) -> str:
    """What a device holds, of what it has; said so where that is too much."""
    used, limit = held(r), r["bytes_limit"]
    if not r["fits"]:
        return f"does not fit by {r['bytes_over'] / GIB:.1f}"
    return f"{used / GIB:.1f} of {limit / GIB:.0f}"


def main(folder: pathlib.Path) -> None:
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not reports:
        raise SystemExit(f"{folder} has no report: python -m tmi.aot ... > {folder}/NAME.json")
    (folder / "README.md").write_text(page(reports))
    print(f"{folder / 'README.md'}: {len(reports)} reports")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(pathlib.Path(sys.argv[1]))
