"""nano: the shipped model, 5.46M parameters, all skills.

A micro-turn has one audio position, one patch of 40x40 pixels when a frame comes, and one speech
patch of 200 ms while the model speaks. Six layers of width 192, four of them mixtures of eight
experts.

What is shipped cost 23 hours on two CPU cores that did other work besides: 42,500 steps of 4096
positions in legs, each begun with the weights of the last or a mean of the last ones, most of them
on a corpus of their own: 5,000 to 20,000 sessions of another --seed, in the last three up to half
of the users by --flite_share. Each leg's command and the losses on dev are in
assets/nano/info.json, what it reaches in README.md and docs/LOG.md. A first leg:

    python -m data_pipelines.synthetic --out=build/corpus/train --split=train --sessions=20000
    python -m data_pipelines.synthetic --out=build/corpus/dev --split=dev --sessions=200
    python -m tmi.train --config=experiments/nano.py --workdir=runs/nano
    python -m tmi.train.checkpoint --workdir=runs/nano --out=build/nano

A further leg begins with the shipped weights: add --init_from=assets/nano and another --workdir.
"""

from tmi import config


def get_config() -> config.View:
    c = config.default()
    c.name = "nano"
    c.model.expert_width = 80  # 96 would be 5.7M parameters
    c.model.clock_digits = 4
    c.model.hearing_layer = 4  # of 6: the global layer at the end reads what was said
    c.model.spelling = True  # sounds are learnt from each micro-turn of speech
    c.model.waiting_bins = 48
    c.model.router_bias_rate = 5e-3
    c.model.numerics = "invariant"  # what it said live can be recomputed to the bit

    d = c.data
    d.row_length, d.batch_size = 2048, 2
    d.audio_slots, d.video_slots, d.speech_slots = 1024, 240, 144
    # Times and cues are learnt last, counting what is seen first.
    d.skill_weights = (
        ("answer", 2.8), ("charades", 0.7), ("cuespeak", 6.5), ("interruption", 3.2),
        ("overlap", 2.0), ("refusal", 3.2), ("repcount", 0.5), ("timespeak", 7.0),
        ("translation", 3.0), ("typed", 0.9), ("watch", 2.0),
    )  # fmt: skip
    d.corpus, d.dev_corpus = "build/corpus/train", "build/corpus/dev"

    c.decode.silent_bias = -0.75  # a word half heard is answered rather than not (by dev)

    t = c.train
    t.steps = 5500
    t.due_weight, t.timed_weight = 0.3, 3.0  # one position in two hundred is a named time
    t.spelling_weight = 0.1
    t.hearing_weight = 3.0  # words of unheard voices are what it lacks
    t.replay_every = 1000  # is the sampler the trainer, to the bit? With several hosts: 0
    t.log_every, t.eval_every, t.save_every, t.eval_batches = 10, 250, 250, 8
    return c
