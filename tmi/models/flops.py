"""Analytic model FLOPs: what the model needs, not what an implementation spends.

Look-ups, norms, padding, masked scores, remat and the optimizer do not count. A forward
multiply-add is 2 FLOPs, training is three forwards.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tmi.config import Config
from tmi.microturn import Stream, layout
from tmi.models import tree
from tmi.models.attention import attention_macs, bias_extent, heads_of
from tmi.models.embed import stem_shapes
from tmi.models.heads import LETTERS
from tmi.models.interaction import num_parameters
from tmi.models.transformer import dense_layers, spans


def position_macs(config: Config, length: int) -> float:
    """Multiply-adds of the transformer, the unembedding and the targets of training (what is heard,
    the wait) for one position of sessions of `length` positions."""
    m = config.model
    d = m.width
    active = m.num_experts_per_token + m.num_shared_experts
    total = 0.0
    for i, span in enumerate(spans(config)):
        heads, kv_heads, head_dim = heads_of(m, span)
        projections = 2 * heads * head_dim + 2 * kv_heads * head_dim
        if m.position_bias != "microturn":
            projections += heads * m.bias_rank
        if m.position_bias != "token":
            projections += heads * 2 * m.time_frequencies
        total += projections * d + attention_macs(m, span, length)
        if m.position_bias != "microturn":
            total += heads * m.bias_rank * bias_extent(m, span)
        if i in dense_layers(m):
            total += 3 * d * m.mlp_width
        else:
            total += 3 * d * m.expert_width * active + d * (m.num_experts + m.num_shared_experts)
        if m.position_bias != "token" and span.blocks:
            total += kv_heads * (2 * m.time_frequencies + 10 * max(0, m.clock_digits - 1)) * d
    if m.clock_features:
        total += d * (32 + 10 * m.clock_digits)
    if m.hearing_layer:
        total += d * d + d * config.text.vocab_size
    if m.spelling:
        total += d * LETTERS
    return total + d * m.waiting_bins + d * config.text.vocab_size


def tower_macs(config: Config) -> dict[str, float]:
    """Multiply-adds of one entry of each kind: an audio position, a video position, a speech patch
    (embed + flow loss), and of each further stream a position: its tower's parameters, each used
    once."""
    d, a, f, s = config.model.width, config.audio, config.flow, config.speech
    size = s.frames_per_position * s.num_mels
    video = sum(groups * rows * out for _, groups, rows, out in stem_shapes(config))
    flow = 2 * size * f.width + d * f.width + 32 * f.width + f.depth * 5 * f.width**2
    return {
        "audio": (a.frames_per_position + 1) * 2 * d * d if a.frames_per_position > 1 else 0.0,
        "video": float(video),
        "speech": (size + d) * f.feedback_width + f.draws * flow,
        **{name: float(num_parameters(t)) for name, t in tree.skeleton(config).streams.items()},
    }


def batch_flops(config: Config, batch: Mapping[str, np.ndarray]) -> float:
    """Training FLOPs of a batch's valid positions."""
    valid = int((batch["segment"] > 0).sum())
    sessions = int(sum(len(np.unique(row[row > 0])) for row in np.asarray(batch["segment"])))
    towers = tower_macs(config)
    kinds = {"audio": Stream.AUDIO_IN, "video": Stream.VIDEO_IN, "speech": Stream.AUDIO_OUT}
    kinds |= layout(config).stream_numbers
    count = {k: int((batch["stream"] == s).sum()) for k, s in kinds.items()}
    macs = valid * position_macs(config, max(1, valid // max(1, sessions)))
    return 6.0 * (macs + sum(towers[k] * n for k, n in count.items()))
