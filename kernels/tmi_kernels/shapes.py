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


@dataclasses.dataclass(frozen=True)
class DotShape:
    """Of a dense product."""

    rows: int  # M
    width: int  # K, what is contracted
    out: int  # N


@dataclasses.dataclass(frozen=True)
class RaggedShape:
    """Of a product of rows with the weights of their groups."""

    rows: int  # M
    width: int  # K
    out: int  # N
    groups: int  # E


DOT = {
    # experiments/nano.py: gate and up together, and down, of a micro-turn and of a training batch.
    "nano": DotShape(rows=16, width=192, out=640),
    "nano_down": DotShape(rows=4096, width=320, out=192),
    # A dense model of a billion parameters.
    "1b": DotShape(rows=16, width=2048, out=16384),
    "1b_down": DotShape(rows=8192, width=8192, out=2048),
    # The published block's dense layers, and its vocabulary.
    "tml_small": DotShape(rows=16, width=4096, out=32768),
    "tml_small_down": DotShape(rows=4096, width=16384, out=4096),
    "tml_small_vocabulary": DotShape(rows=16, width=4096, out=201_024),
}

RAGGED_DOT = {
    "nano": RaggedShape(rows=8192, width=192, out=80, groups=8),
    # 64 experts in a model that uses a billion parameters a position.
    "1b": RaggedShape(rows=16384, width=2048, out=1024, groups=64),
    "1b_decode": RaggedShape(rows=64, width=2048, out=1024, groups=64),
    # One of four devices that share the published block's experts.
    "tml_small": RaggedShape(rows=24576, width=4096, out=2048, groups=64),
    "tml_small_down": RaggedShape(rows=24576, width=2048, out=4096, groups=64),
    "tml_small_decode": RaggedShape(rows=96, width=4096, out=2048, groups=64),
}

EXPERT_GEMV = {
    # experiments/nano.py: 8 routed experts, 2 a row.
    "nano": ExpertShape(rows=2, width=192, experts=8, expert_width=80, choices=2),
    # 64 experts in a model that uses a billion parameters a position, as in RAGGED_DOT.
    "1b": ExpertShape(rows=8, width=2048, experts=64, expert_width=1024, choices=4),
    # The published block: 256 routed experts, 6 a row.
    "tml_small": ExpertShape(rows=16, width=4096, experts=256, expert_width=2048, choices=6),
}


@dataclasses.dataclass(frozen=True)
class AttentionShape:
    """Of a layer in training (a row of `length`) and in decoding (a chunk behind a cache)."""

    heads: int  # H
    kv_heads: int  # K
    key_dim: int  # E: the head's width and time features, in whole groups
    dim: int  # d
    extent: int  # of the bias, positions
    window: int  # positions a query sees, if blocks is 0
    blocks: int  # kv_blocks that it sees, its own included
    kv_block: int
    length: int  # S
    chunk: int  # N, padded to whole tiles


ATTENTION = {
    # experiments/nano.py
    "nano_sliding": AttentionShape(4, 2, 72, 48, 64, 64, 0, 64, 2048, 32),
    "nano_global": AttentionShape(4, 2, 128, 48, 64, 64, 12, 64, 2048, 32),
    # A model of a billion parameters: width 2048, 16 heads, a session of half an hour.
    "1b_sliding": AttentionShape(16, 4, 160, 128, 512, 512, 0, 64, 4096, 64),
    "1b_global": AttentionShape(16, 4, 192, 128, 512, 512, 1024, 64, 4096, 64),
    # experiments/tml_small.py
    "tml_small_sliding": AttentionShape(32, 8, 160, 128, 512, 512, 0, 64, 4096, 80),
    "tml_small_global": AttentionShape(32, 8, 192, 128, 1024, 512, 8192, 64, 4096, 80),
}
