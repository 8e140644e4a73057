"""Every notebook runs from top to bottom, and its .ipynb is its percent source, cell for cell."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

pytest.importorskip("jupytext", reason="notebooks need the extra [notebook]")
pytest.importorskip("nbclient", reason="notebooks need the extra [notebook]")

import jupytext
import nbclient

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))
LIMIT_S = 60.0  # of a cell at most; of a notebook, in processor seconds of a quiet machine
