"""The published Inkling block and nothing of ours: what `tmi.interop.inkling export` can write.

It hears and sees and writes text, but does not speak; no micro-turn bias, clock, stream embeddings
or hearing layer. Small, for tests and as a start for what shall go back into the published format:

    python -m tmi.train --config=experiments/published.py --workdir=runs/published
    python -m tmi.interop.inkling export --workdir=runs/published --out=build/published
"""

from tmi import config


def get_config() -> config.View:
    c = config.default()
    c.name = "published"
    c.data.corpus, c.data.dev_corpus = "build/corpus/train", "build/corpus/dev"

    # One frame of 50 ms a position; patches in one linear layer, the published plan for depth 1.
    c.audio.frames_per_position, c.audio.power_floor = 1, 1e-10
    c.video.folds, c.video.stem_channels = ((2, 40),), ()
    c.video.gelu, c.video.pixels = "erf", "clip"
    c.speech.enabled, c.data.speech_slots = False, 0

    m = c.model
    m.width, m.num_layers, m.num_dense_layers, m.global_every = 128, 6, 1, 6
    m.num_heads, m.num_kv_heads, m.head_dim = 4, 2, 32
    m.mlp_width, m.num_experts, m.num_experts_per_token, m.expert_width = 320, 8, 2, 80
    m.num_shared_experts, m.route_scale, m.logit_divisor = 2, 8.0, 1.0
    m.window, m.bias_extent, m.global_bias_extent = 64, 64, 128
    m.global_blocks = 2048  # of microturn.kv_block positions: all of any row
    m.position_bias, m.qk_gain = "token", 1.0
    m.clock_features = m.stream_embeddings = False
    m.embedding_norm = m.mlp_scale = True

    c.data.row_length, c.data.batch_size = 1024, 4
    c.data.audio_slots, c.data.video_slots = 768, 160
    c.train.steps, c.train.eval_every, c.train.save_every = 1000, 250, 250
    return c
