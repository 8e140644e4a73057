"""The smallest model with every part: for tests and for looking at shapes.

Costs seconds and learns nothing worth hearing. Needs a corpus of any kind:

    python -m tmi.train --config=experiments/debug.py --workdir=runs/debug \\
        --config.data.corpus=DIR --config.data.dev_corpus=DIR
"""

from tmi import config


def get_config() -> config.View:
    c = config.default()
    c.name = "debug"
    c.video.stem_channels = (4, 8, 16)

    m = c.model
    m.width, m.num_layers, m.num_dense_layers, m.global_every = 32, 2, 1, 2
    m.num_heads, m.num_kv_heads, m.head_dim = 2, 1, 16
    m.mlp_width, m.num_experts, m.num_experts_per_token, m.expert_width = 48, 4, 2, 16
    m.window, m.global_blocks, m.bias_rank, m.bias_extent, m.time_frequencies = 32, 2, 4, 16, 4
    m.hearing_layer, m.spelling = 1, True
    c.flow.width, c.flow.depth, c.flow.feedback_width, c.flow.draws = 32, 1, 16, 1

    d = c.data
    d.row_length, d.batch_size = 128, 4
    d.audio_slots, d.video_slots, d.speech_slots = 64, 16, 24
    d.num_threads, d.prefetch = 1, 2

    c.optimizer.warmup_steps = 2
    t = c.train
    t.steps, t.log_every, t.eval_every, t.eval_batches, t.save_every = 6, 2, 3, 2, 3
    return c
