"""Small sessions and a small model, made once."""

import dataclasses

import jax
import numpy as np
import pytest

from tmi import config as config_lib
from tmi.microturn import Microturn, lay_out, layout
from tmi.models import tree


def small_config(**model) -> config_lib.Config:
    c = config_lib.Config()
    return dataclasses.replace(
        c,
        microturn=dataclasses.replace(c.microturn, kv_block=16),
        model=dataclasses.replace(
            c.model,
            width=32,
            num_layers=2,
            num_dense_layers=1,
            global_every=2,
            num_heads=2,
            num_kv_heads=1,
            head_dim=16,
            mlp_width=48,
            num_experts=4,
            expert_width=16,
            window=32,
            global_blocks=6,
            bias_extent=16,
            time_frequencies=4,
            **model,
        ),
        video=dataclasses.replace(c.video, stem_channels=(4, 8, 16)),
        flow=dataclasses.replace(c.flow, width=16, depth=1, feedback_width=8),
        data=dataclasses.replace(
            c.data, row_length=256, batch_size=1, audio_slots=160, video_slots=96, speech_slots=64
        ),
    )


def random_microturns(config, rng, count):
    lay = layout(config)
    turns = []
    for _ in range(count):
        mt = Microturn(
            audio=rng.integers(0, 16, (lay.audio_positions * lay.audio_frames, 80), np.uint8)
        )
        if rng.random() < 0.4:
            mt.video = rng.integers(0, 256, (lay.video_positions, 2, 40, 40, 3), np.uint8)
        if rng.random() < 0.3:
            mt.text_in = rng.integers(16, 512, rng.integers(1, lay.max_text_in + 1)).tolist()
        if rng.random() < 0.4:
            mt.text_out = rng.integers(16, 512, rng.integers(1, lay.max_text_out)).tolist()
        if rng.random() < 0.4:
            mt.speech = rng.normal(size=(lay.speech_positions * lay.speech_frames, 80)).astype(
                np.float32
            )
        turns.append(mt)
    return turns


@pytest.fixture(scope="session")
def config():
    return small_config()


@pytest.fixture(scope="session")
def params(config):
    p = tree.init(config, jax.random.key(0))
    rng = np.random.default_rng(0)
    # Taps and gates start at zero: give every part something to do.
    return {
        k: v + (0.1 * rng.normal(size=v.shape)).astype(np.float32) if "balance" not in k else v
        for k, v in p.items()
    }


@pytest.fixture(scope="session")
def session(config):
    turns = random_microturns(config, np.random.default_rng(1), 36)
    seq = lay_out(layout(config), turns)
    assert 150 < len(seq) <= 256
    return turns, seq
