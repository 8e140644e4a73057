"""Named shapes: tests, benchmarks and tuning speak of the same ones."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class ExpertShape:
    """Of a decode step's routed experts."""

    rows: int  # T
    width: int  # D
    experts: int  # E
    expert_width: int  # F
    choices: int  # N, of a row


EXPERT_GEMV = {
    # experiments/nano.py: 8 routed experts, 2 a row.
    "nano": ExpertShape(rows=2, width=192, experts=8, expert_width=80, choices=2),
    # The published block: 256 routed experts, 6 a row.
    "tml_small": ExpertShape(rows=16, width=4096, experts=256, expert_width=2048, choices=6),
}
