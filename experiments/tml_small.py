"""tml_small: the 276B-A12B interaction model, in the published shape of Inkling-Small with our
dMel, hMLP and speech.

Nobody trains it on a laptop; anybody can ask what it is and what it would take:

    python -m tmi.aot --config=experiments/tml_small.py --parameters
    python -m tmi.aot --config=experiments/tml_small.py --topology=v5p:4x4x8

docs/pods reads the reports. Mesh and batch are those of 128 chips; 512 take
--config.train.mesh=2,64,4,1,1 --config.data.batch_size=3072.
"""

from tmi import config


def get_config() -> config.View:
    c = config.default()
    c.name = "tml_small"

    m = c.model
    m.width, m.num_layers, m.num_dense_layers, m.global_every = 4096, 42, 2, 6
    m.num_heads, m.num_kv_heads, m.head_dim = 32, 8, 128
    m.mlp_width, m.expert_width = 16384, 2048
    m.num_experts, m.num_experts_per_token, m.num_shared_experts = 256, 6, 2
    m.route_scale, m.logit_divisor, m.qk_gain = 8.0, 16.0, 1.0
    m.window, m.bias_extent, m.global_bias_extent = 512, 512, 1024
    m.log_scaling_floor = 128_000
    m.embedding_norm = m.mlp_scale = True
    # All of a session of an hour and more; the micro-turn bias needs as long a period.
    m.global_blocks, m.time_frequencies, m.time_max_microturns = 8192, 16, 32768
    m.scan_layers, m.dtype = True, "bfloat16"
    m.grouped, m.expert_exchange = "ragged_dot", "ring"
    m.attention_kernel = "pallas_tpu"

    c.text.vocab_size = 201_024
    c.audio.frames_per_position = 1  # published: a position every 50 ms
    c.video.rows, c.video.cols = 6, 8  # 240 x 320 pixels
    c.video.stem_channels = (128, 320, 4800)
    f = c.flow
    f.width, f.depth, f.feedback_width, f.draws = 2048, 6, 1024, 2

    d = c.data
    d.row_length, d.batch_size = 4096, 768  # 3.1M positions a step
    d.audio_slots, d.video_slots, d.speech_slots = 1536, 1536, 384
    o = c.optimizer
    o.muon, o.moment_dtype, o.ema = False, "bfloat16", 0.0
    t = c.train
    t.remat, t.loss_chunks = True, 16
    t.mesh = (1, 32, 4, 1, 1)
    return c
