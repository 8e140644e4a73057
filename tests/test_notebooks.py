"""Every notebook runs from top to bottom, and its .ipynb is its percent source, cell for cell."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import jupytext
import nbclient
import pytest

ROOT = Path(__file__).resolve().parent.parent
NANO = ROOT / os.environ.get("TMI_NANO", "assets/nano")
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))
# A notebook runs in 60 s on two quiet cores. Machines are not always quiet, so what is measured is
# the processor time, and a cell that hangs is ended much later.
PROCESSOR_S = 120.0
HANGS_S = 900

pytestmark = pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)


def shipped() -> str:
    """The checkpoint that notebooks stream through; fails if it is not there."""
    needed = ("config.json", "params.npz", "info.json", "example.session")
    missing = [name for name in needed if not (NANO / name).is_file()]
    if missing:
        pytest.fail(
            f"notebooks need the shipped checkpoint: {NANO} lacks {', '.join(missing)}. "
            "Export one with: python -m tmi.train.checkpoint --workdir=runs/nano --out=assets/nano "
            "(or name another export as TMI_NANO=DIR)",
            pytrace=False,
        )
    return str(NANO)


def processor_s() -> float:
    """Seconds of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_the_notebook_is_its_source(source):
    path = source.with_suffix(".ipynb")
    again = f"jupytext --update --to ipynb notebooks/{source.name}"
    assert path.is_file(), f"{path.name} is missing: {again}"
    made, kept = (
        [(cell.cell_type, cell.source) for cell in jupytext.read(p).cells] for p in (source, path)
    )
    assert kept == made, f"{path.name} is not what {source.name} says: {again}"
    stored = [i for i, cell in enumerate(jupytext.read(path).cells) if cell.get("outputs")]
    assert not stored, f"cells {stored} of {path.name} hold outputs: clear them, they go stale"


def test_the_notebook_runs(source, tmp_path):
    environment = {
        # Without the eight virtual devices of the other tests: a reader has none.
        **{name: value for name, value in os.environ.items() if name != "XLA_FLAGS"},
        # What a reader compiles once and keeps is compiled here in half the time.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false",
        "TMI_NANO": shipped(),
        "IPYTHONDIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    notebook = jupytext.read(source)
    client = nbclient.NotebookClient(
        notebook, kernel_name="python3", timeout=HANGS_S, startup_timeout=HANGS_S,
        resources={"metadata": {"path": str(source.parent)}},
    )  # fmt: skip
    before = processor_s()
    client.execute(env=environment)
    assert processor_s() - before <= PROCESSOR_S
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    shown = [o.data for o in outputs if "data" in o]
    assert any("image/png" in data for data in shown), "nothing was drawn"
    assert any("<audio" in data.get("text/html", "") for data in shown), "nothing can be heard"
