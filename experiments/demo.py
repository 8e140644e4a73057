"""demo: what `make demo` trains from nothing, three skills and a small model.

It is shown how to answer when the user has ended (answer), to speak at given times (timespeak) and
to count repetitions aloud that it sees (repcount). Its minutes suffice to count (OBO 82.5, a timer
55) and for half of the answers' times; named times take nano's hours (docs/LOG.md). Four layers of
width 128, two of them mixtures of experts.

Costs about eight minutes on two CPU cores. Its scores stand in the demo's report, beside those of
the shipped nano (experiments/nano.py), which has trained longer on more.

    make demo
"""

from tmi import config

SKILLS = ("answer", "timespeak", "repcount")


def get_config() -> config.View:
    c = config.default()
    c.name = "demo"
    c.data.corpus, c.data.dev_corpus = "build/demo/corpus/train", "build/demo/corpus/dev"

    m = c.model
    m.width, m.num_layers, m.num_dense_layers, m.global_every = 128, 4, 2, 2
    m.num_heads, m.num_kv_heads, m.head_dim = 4, 2, 32
    m.mlp_width, m.expert_width = 256, 64
    m.clock_digits = 3
    m.hearing_layer = 2  # the two layers after it work with what was said
    m.router_bias_rate = 5e-3

    # Longer rows are fuller: .89 instead of .80 of the positions hold something.
    d = c.data
    d.row_length, d.batch_size = 2048, 2
    d.audio_slots, d.video_slots, d.speech_slots = 960, 320, 128

    t = c.train
    t.steps = 430
    t.log_every, t.eval_every, t.save_every, t.eval_batches = 10, 100, 100, 4
    return c
