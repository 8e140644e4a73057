"""Laws of the tokenizer: lossless, specials out of reach of any text, streaming equals one-shot."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines import train_tokenizer
from tmi import microturn
from tmi.media import text
from tmi.media.text import EOM, NUM_SPECIALS, PAD, SPEAK, SPECIALS, VOCAB_DIR, Tokenizer

TOKENIZER = Tokenizer.load("bpe512")
texts = st.text() | st.lists(
    st.sampled_from([*SPECIALS, "<", ">", " seven", "seven", " ", "\n", "é", "🙂", "can't"])
).map("".join)
ids = st.lists(st.integers(0, TOKENIZER.vocab_size - 1))


@given(texts)
def test_decode_undoes_encode_and_no_text_gives_a_special(content):
    tokens = TOKENIZER.encode(content)
    assert all(NUM_SPECIALS <= t < text.VOCAB_SIZE for t in tokens)
    assert TOKENIZER.decode(tokens) == content


@pytest.mark.parametrize("name", SPECIALS)
def test_the_name_of_a_special_is_plain_text(name):
    for content in (name, f" {name}", f"say {name}{name} now"):
        tokens = TOKENIZER.encode(content)
        assert min(tokens) >= NUM_SPECIALS
        assert TOKENIZER.decode(tokens) == content


def test_specials_have_their_ids_and_are_silent():
    assert (SPECIALS[PAD], SPECIALS[EOM], SPECIALS[SPEAK]) == ("<pad>", "<eom>", "<speak>")
    assert (microturn.PAD_ID, microturn.EOM_ID, microturn.SPEAK_ID) == (PAD, EOM, SPEAK)
    assert TOKENIZER.decode([PAD, *TOKENIZER.encode(" go"), SPEAK, EOM]) == " go"


@given(ids, st.data())
def test_streaming_gives_the_text_of_one_shot_for_any_chunks(tokens, data):
    stream, parts, rest = TOKENIZER.stream(), [], tokens
    while rest:
        n = data.draw(st.integers(1, len(rest)))
        parts.append(stream.push(rest[:n]))
        rest = rest[n:]
    assert "".join([*parts, stream.close()]) == TOKENIZER.decode(tokens)


@given(texts)
def test_streaming_never_holds_back_a_whole_character(content):
    stream, given_out, fed = TOKENIZER.stream(), "", b""
    for token in TOKENIZER.encode(content):
        given_out += stream.push(token)
        fed += TOKENIZER.to_bytes([token])
        assert given_out == fed.decode("utf-8", errors="ignore")
    assert stream.close() == ""


@given(st.lists(st.sampled_from([*train_tokenizer.WORDS, "zebra", "quickly", "naïve"])))
def test_the_tokens_of_a_sentence_are_those_of_its_words(words):
    joined = TOKENIZER.encode("".join(f" {w}" for w in words))
    assert joined == [t for w in words for t in TOKENIZER.encode_word(w)]


def test_common_words_are_single_tokens():
    common = train_tokenizer.WORDS[: train_tokenizer.WORDS.index("would") + 1]
    assert [w for w in common if len(TOKENIZER.encode_word(w)) != 1] == []
    assert TOKENIZER.encode_word(" Seven ") == TOKENIZER.encode(" seven")


def test_the_shipped_vocabulary_is_what_the_script_trains():
    shipped = (VOCAB_DIR / "bpe512.json").read_text(encoding="utf-8")
    assert train_tokenizer.train(train_tokenizer.default_texts()) == shipped
    assert TOKENIZER.vocab_size == text.VOCAB_SIZE


def test_errors_say_what_is_accepted(tmp_path):
    with pytest.raises(ValueError, match="0 to 511"):
        TOKENIZER.decode([512])
    with pytest.raises(ValueError, match="character 1 .* surrogate"):
        TOKENIZER.encode("a\ud800")
    with pytest.raises(FileNotFoundError, match="accepted are bpe512"):
        Tokenizer.load("bpe9")
    with pytest.raises(ValueError, match="not a vocabulary"):
        Tokenizer("{}")
    with pytest.raises(ValueError, match="more texts"):
        train_tokenizer.train([" one two"])
    other = json.loads((VOCAB_DIR / "bpe512.json").read_text(encoding="utf-8"))
    other["model"]["vocab"]["<silence>"] = other["model"]["vocab"].pop("<eom>")
    (tmp_path / "other.json").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(ValueError, match="must begin with <pad>, <eom>, <speak>"):
        Tokenizer.load(tmp_path / "other.json")
