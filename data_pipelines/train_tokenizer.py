"""Trains the byte-level BPE vocabulary that tmi/media/text.py loads.

    python -m data_pipelines.train_tokenizer                 # writes tmi/media/vocab/bpe512.json
    python -m data_pipelines.synthetic --list_phrases --split=train |
        python -m data_pipelines.train_tokenizer --phrases=- --out=other.json

Without --phrases it trains on the words below, first those that the model itself says, and the same
words give the same file. A checkpoint is bound to its vocabulary: write another one under another
name.
"""

from __future__ import annotations

import collections
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from absl import app, flags
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tmi.media.text import NUM_SPECIALS, SPECIALS, VOCAB_DIR, VOCAB_SIZE

NUM_MERGES = 24  # pieces for the words that are no token of their own; the rest are whole words

# What the model says, then what the user types, then common words while there is room.
WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty start stop the answer is word opposite a
red blue green yellow orange brown pink black white purple
hot cold big small fast slow high low happy sad wet dry hard soft full empty rich poor
day night early late strong weak up down
apple river music garden window paper cat dog banana snow sun house bird fish rabbit snake
tea now go time done ready beep hey lunch home mhm watch out
perro casa luna sol agua amigo mano mesa pan flor amor verde blanco rojo rio grande hola pronto
camisa arroz moon water friend hand table bread flower love hello soon shirt rice
monday tuesday wednesday thursday friday saturday sunday
january february march april may june july august september october november december
grass sky coal blood mud milk carrot sorry i can not help with that mix eggs and flour use salt soap
put some in bank paint brush ask what they need for way make fire
you say tell me which how much of to plus add after an be colour do get give got has if it know
listen name okay please repeat so think want would
yes no thirty forty fifty seconds second every count said hundred then when each
left right who where why many before again until
""".split()


def train(texts: Iterable[str], vocab_size: int = VOCAB_SIZE) -> str:
    """The vocabulary file (tokenizers JSON) learnt from `texts`.

    Ids are the specials, the 256 bytes, the merges, and then whole words, the most frequent of
    `texts` (of equal ones the earlier), looked up before any merging. Plain BPE would spend a token
    on every stage towards a word; so a small vocabulary holds three times the words. The specials
    stand in the vocabulary for their ids only: they are not `added_tokens`, and the pattern that
    splits words never leaves "<" beside a letter, so that no text becomes one.

    Raises ValueError if `texts` hold too little for `vocab_size`, or that is too small.
    """
    room = vocab_size - NUM_SPECIALS - 256 - NUM_MERGES
    if room < 0:
        raise ValueError(f"vocab_size={vocab_size}: accepted are {vocab_size - room} or more")
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = collections.Counter(
        word for text in texts for word, _ in splitter.pre_tokenize_str(text)
    )
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - room,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(splitter.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(words, trainer)
    content = json.loads(tokenizer.to_str())

    vocabulary = content["model"]["vocab"]
    whole = [word for word, _ in words.most_common() if word not in vocabulary][:room]
    vocabulary |= {word: len(vocabulary) + i for i, word in enumerate(whole)}
    if len(vocabulary) != vocab_size:
        raise ValueError(
            f"the texts give {len(vocabulary)} tokens, not vocab_size={vocab_size}: accepted are "
            "more texts or a smaller vocabulary"
        )
    content["model"]["ignore_merges"] = True  # the library's name for: whole words first
    content["added_tokens"] = []
    content["pre_tokenizer"] = json.loads(splitter.__getstate__())
    content["decoder"] = json.loads(decoders.ByteLevel().__getstate__())
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def default_texts() -> list[str]:
    """The built-in training list: each word after a space."""
    return [f" {word}" for word in WORDS]


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}: texts come by --phrases=FILE")
    f, texts = flags.FLAGS, default_texts()
    if path := f.phrases:
        source = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        texts = [f" {line.strip()}" for line in source.splitlines() if line.strip()]
    Path(f.out).write_text(train(texts, f.vocab_size), encoding="utf-8")
    print(f"{f.out}: {f.vocab_size} tokens from {len(texts)} texts")


if __name__ == "__main__":
    flags.DEFINE_string("phrases", None, "A file of texts, one a line, or - for stdin.")
    flags.DEFINE_string("out", str(VOCAB_DIR / "bpe512.json"), "Where the vocabulary goes.")
    flags.DEFINE_integer("vocab_size", VOCAB_SIZE, "Tokens: specials, bytes, merges, words.")
    app.run(main)
