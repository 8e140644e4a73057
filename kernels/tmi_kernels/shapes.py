"""Named shapes: tests, benchmarks and tuning speak of the same ones."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class ExpertShape:
    """Of a decode step's experts. `experts` and `choices` count the shared experts too."""

    rows: int  # T
    width: int  # D
    experts: int  # E
    expert_width: int  # F
    choices: int  # N, of a row


EXPERT_GEMV = {
    # experiments/nano.py: 8 routed experts, 2 a row, and a shared one.
    "nano": ExpertShape(rows=2, width=192, experts=9, expert_width=80, choices=3),
    # The published block: 256 routed experts, 6 a row, and two shared ones.
    "tml_small": ExpertShape(rows=16, width=4096, experts=258, expert_width=2048, choices=8),
}
