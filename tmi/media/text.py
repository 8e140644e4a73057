"""Text to tokens and back: byte-level BPE with special tokens that no text can produce.

A spoken or typed word is written with a leading space and in lower case (" seven"): words are split
before their space, so that the tokens of a sentence are those of its words one after another.
"""

from __future__ import annotations

import codecs
import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import pre_tokenizers

PAD, EOM, SPEAK = 0, 1, 2  # filler; micro-turn ends silent; text ends and speech follows
NUM_SPECIALS = 16
SPECIALS = ("<pad>", "<eom>", "<speak>", *(f"<reserved_{i}>" for i in range(3, NUM_SPECIALS)))
VOCAB_SIZE = 512  # specials + 256 bytes + merges + whole words
VOCAB_DIR = Path(__file__).parent / "vocab"


def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes each byte as a printable character: the inverse of that table.

    Source: GPT-2's `bytes_to_unicode`. Printable Latin-1 stands for itself, the rest for 256 up.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def _without_added(vocabulary: str) -> str:
    """The same vocabulary, which then reads "<|end|>" as seven plain characters."""
    return json.dumps(json.loads(vocabulary) | {"added_tokens": [], "post_processor": None})


def vocabularies() -> list[str]:
    """Names of the vocabularies of tmi/media/vocab."""
    return sorted(p.stem for p in VOCAB_DIR.glob("*.json"))


class Tokenizer:
    """Tokens of one vocabulary. `decode(encode(text)) == text` for every text.

    Ids: 0-15 the specials, 16-271 the bytes, then merges, then whole words (" seven" is one token).
    """

    def __init__(self, vocabulary: str) -> None:
        """`vocabulary` is the content of a file that data_pipelines/train_tokenizer.py wrote, or
        of a published model's tokenizer.json, whose first ids then give way to the specials:
        `moved` is by how much (0 in the first case), and no text produces its added tokens.

        Raises ValueError if it is no such vocabulary.
        """
        try:
            self._bpe = tokenizers.Tokenizer.from_str(vocabulary)
            size = self._bpe.get_vocab_size()
            self.moved = 0
            first = tuple(self._bpe.id_to_token(i) for i in range(NUM_SPECIALS))
            damaged = first != SPECIALS and set(first) & set(SPECIALS)
            if first != SPECIALS and not damaged:
                self.moved = size
                self._bpe = tokenizers.Tokenizer.from_str(_without_added(vocabulary))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"not a vocabulary of the tokenizers library: {error}") from error
        names = [self._bpe.id_to_token(i) or "" for i in range(size)]
        byte = _byte_of_character()
        alphabet = set(pre_tokenizers.ByteLevel.alphabet())
        if damaged or self._bpe.get_added_tokens_decoder() or not alphabet <= set(names):
            raise ValueError(
                f"a vocabulary must begin with {', '.join(SPECIALS[:3])}, ... {SPECIALS[-1]}, hold "
                "all 256 bytes and no added tokens, as data_pipelines/train_tokenizer.py writes "
                "it, or be the tokenizer.json of a published model with byte-level BPE"
            )
        self._bytes = [b""] * NUM_SPECIALS + [
            bytes(byte[c] for c in name) for name in names[NUM_SPECIALS:]
        ]
        if self.moved:
            self._bytes += [bytes(byte[c] for c in name) for name in names[:NUM_SPECIALS]]
        self.vocab_size = len(self._bytes)

    @classmethod
    def load(cls, name: str | Path = "bpe512") -> Tokenizer:
        """The vocabulary `name`: one of tmi/media/vocab, or a path. Raises FileNotFoundError."""
        return _load(str(name))

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, never a special one: "<speak>" in a text is seven plain characters.

        Raises ValueError as `check`.
        """
        self.check(text)
        ids = self._bpe.encode(text, add_special_tokens=False).ids
        return [i + self.moved if i < NUM_SPECIALS else i for i in ids] if self.moved else ids

    @staticmethod
    def check(text: str) -> None:
        """Raises ValueError for half a surrogate pair, which no UTF-8 can hold."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"character {error.start} of the text is {text[error.start]!r}, half a surrogate "
                "pair; accepted is any Unicode text that UTF-8 can hold"
            ) from error

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`. Specials are silent; bytes that are no UTF-8 become U+FFFD.

        Raises ValueError for an id outside the vocabulary.
        """
        return self.to_bytes(ids).decode("utf-8", errors="replace")

    def to_bytes(self, ids: Iterable[int]) -> bytes:
        """The UTF-8 bytes of `ids`, which may end within a character. Raises as `decode`."""
        return b"".join(map(self._bytes_of, ids))

    def encode_word(self, word: str) -> list[int]:
        """Token ids of one word of a transcript, written as the corpus writes it: " word"."""
        return self.encode(f" {word.strip().lower()}")

    def stream(self) -> TextStream:
        """A decoder that is fed token by token."""
        return TextStream(self)

    def _bytes_of(self, token: int) -> bytes:
        if not 0 <= token < self.vocab_size:
            raise ValueError(f"token {token}: accepted are 0 to {self.vocab_size - 1}")
        return self._bytes[token]


class TextStream:
    """Decodes tokens as they come: text is given out as soon as its bytes are complete.

    All that `push` and `close` return, joined, equals `decode` of all the tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, ids: Sequence[int] | int) -> str:
        """The text that `ids` (one or several) complete; may be empty. Raises as `decode`."""
        tokens = [ids] if isinstance(ids, int) else ids
        return self._utf8.decode(self._tokenizer.to_bytes(tokens))

    def close(self) -> str:
        """What is left at the end: U+FFFD if the last character never came whole."""
        return self._utf8.decode(b"", final=True)


@functools.cache
def _load(name: str) -> Tokenizer:
    path = VOCAB_DIR / f"{name}.json"
    if not path.exists():
        path = Path(name)
    if not path.is_file():
        known = ", ".join(vocabularies())
        raise FileNotFoundError(f"no vocabulary {name!r}; accepted are {known} or a path to a file")
    return Tokenizer(path.read_text(encoding="utf-8"))
