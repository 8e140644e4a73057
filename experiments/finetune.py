"""finetune: a published Inkling checkpoint becomes an interaction model.

Behind the colon stands the checkpoint's directory, as Hugging Face lays it out; its backbone and
towers are what training begins with. The flow head that speaks, the embeddings of speech and of
streams, the clock and the heads that only a loss reads are new; so are the towers of a text-only
checkpoint. By default the new parts and the unembedding are trained; then the rest may follow:

    python -m tmi.train --config=experiments/finetune.py:DIR --workdir=runs/heads --init_from=DIR
    python -m tmi.train --config=experiments/finetune.py:DIR --workdir=runs/lora \\
        --init_from=runs/heads --config.model.lora_rank=16 \\
        --config.optimizer.trainable="('heads', 'lora')"

Costs what a training of that size costs, less the optimizer's state of what is frozen. On several
devices give --config.train.mesh, as experiments/tml_small.py does.
"""

import pathlib

from tmi import config
from tmi.interop import fields, tensors
from tmi.media.text import VOCAB_SIZE, Tokenizer


def get_config(checkpoint: str = "") -> config.View:
    directory = pathlib.Path(checkpoint)
    if not checkpoint or not (directory / "config.json").is_file():
        raise config.ConfigError(
            f"--config=experiments/finetune.py:{checkpoint}: behind the colon the directory of a "
            "published checkpoint is accepted (config.json and *.safetensors)"
        )
    raw = tensors.read_json(directory / "config.json")
    published = fields.to_config(raw)
    c = config.to_config_dict(published)
    c.name = "finetune"
    c.data.corpus, c.data.dev_corpus = "build/corpus/train", "build/corpus/dev"

    vocabulary = directory / "tokenizer.json"
    if not vocabulary.is_file():
        if c.text.vocab_size > VOCAB_SIZE:
            raise config.ConfigError(
                f"{directory} holds no tokenizer.json, and its {c.text.vocab_size} tokens would be "
                "those of another: put the checkpoint's own there"
            )
    else:
        c.text.tokenizer = str(vocabulary)
        c.text.unpadded_vocab_size = Tokenizer.load(vocabulary).vocab_size
        c.text.vocab_size = max(c.text.vocab_size, c.text.unpadded_vocab_size)

    # What the published model does not have: speech, streams, a clock, and hearing as a target.
    c.speech.enabled = True
    m = c.model
    m.stream_embeddings = m.clock_features = True
    m.hearing_layer = -(-2 * m.num_layers // 3)
    # A minute of history in global layers, in place of all that the published model could see.
    positions = 300 * (round(c.microturn.seconds / c.audio.hop_s) + 4)
    m.global_blocks = min(m.global_blocks, -(-positions // c.microturn.kv_block))

    d = c.data
    d.row_length, d.batch_size = 2048, 2
    d.audio_slots, d.video_slots, d.speech_slots = 1600, 256, 160

    o = c.optimizer
    towers = ("dmel.*", "video.*") if fields.is_text_only(raw) else ()
    o.trainable = ("heads", *towers)
    o.muon_learning_rate, o.adam_learning_rate = 0.01, 1e-3
    t = c.train
    t.steps = 2000
    return c
