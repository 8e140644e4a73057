"""Word accuracy of the *spoken* output: what a recogniser that hears only the sound makes of it.

pocketsphinx with one closed grammar of whole sentences, those the corpus' model voice may say (at
least 100). The output is free running and everything said counts: words of the text stream without
sound are deletions, sound without words is insertions. The text stream says where a sentence
begins, never what it is. Beside the model's figure stand the voice's own recordings, the same
through mel and back (what the waveform stage costs), and chance.

A few utterances of two words and more are also heard by moonshine, which knows no grammar: words
wrong, left out or added over words to be said. Single words are the grammar's alone: of the voice's
own recordings moonshine gets 4 % of the words wrong in sentences and 40 % one by one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor

import numpy as np

from tmi.config import SpeechConfig
from tmi.data.records import SessionRecord
from tmi.evals import moonshine, onsets
from tmi.evals.answers import PHRASE_GAP_S, normalise
from tmi.evals.baselines import utterances
from tmi.evals.scoring import Metric, Row, Trial, row
from tmi.evals.trace import SAMPLE_RATE, Trace

SUITE = "Spoken-syn"
MIN_SENTENCES = 100
MAX_UTTERANCES = 400  # scored per system; a seeded choice if there are more
MAX_OPEN = 60  # of them heard by moonshine, at a tenth of a second each
MIN_OPEN_WORDS = 2
LONGEST_S = 4.0  # of an utterance's last word, with what is heard after it
PAD_S = 0.25
ASR = "pocketsphinx-grammar"
METRICS = (
    Metric("word accuracy", "right", per="words", asr=ASR),
    Metric("words understood", "hits", per="words", asr=ASR),
    Metric("sentences understood", "exact", asr=ASR),
)
OPEN_METRICS = (
    Metric("word error rate", "errors", per="words", asr=moonshine.NAME, lower_is_better=True),
)

Words = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Spoken:
    """One utterance as it sounds: float32 [n] at 16 kHz, and the words it should hold."""

    scenario: str
    words: Words
    wave: np.ndarray


class GrammarError(ValueError):
    """The corpus' sentences make no grammar; the message says why."""


def sentences(phrases: Iterable[str]) -> list[Words]:
    """The grammar's sentences as words. GrammarError if they are fewer than MIN_SENTENCES."""
    found = sorted({tuple(normalise(p)) for p in phrases} - {()})
    if len(found) < MIN_SENTENCES:
        raise GrammarError(
            f"a closed grammar of {len(found)} sentences judges too kindly; at least "
            f"{MIN_SENTENCES} are accepted (manifest.json: model_phrases)"
        )
    return found


def utterances_of(trace: Trace, truth: dict, grammar: Sequence[Words]) -> list[Spoken]:
    """All that the model said, sentence by sentence; text to be written only is left out."""
    written = [
        (t["region"][0], t["region"][1])
        for t in truth["trials"]
        if t["suite"] == "Typed" or t["category"] == "typed"
    ]
    words = [(w, start) for text, start, _ in trace.words() for w in normalise(text)]
    words = [(w, t) for w, t in words if not any(s <= t < e for s, e in written)]
    groups = _groups(words, grammar)
    starts = [g[0][1] for g in groups]
    taken = np.zeros(len(trace.activity), bool)
    out = []
    ends = [*starts[1:], trace.duration_s + 1.0][: len(groups)]  # nothing said: no end either
    for group, after in zip(groups, ends, strict=True):
        start, last = group[0][1], group[-1][1]
        stop = _sound_end(trace.activity, last, min(after, last + LONGEST_S))
        taken[_frame(start) : _frame(stop)] = True
        wave = trace.output_audio[_sample(start) : _sample(stop)]
        out.append(Spoken(trace.id, tuple(w for w, _ in group), wave))
    for s, e in onsets.segments(trace.activity & ~taken):
        if e - s >= 0.1:
            wave = trace.output_audio[_sample(s) : _sample(min(e, s + LONGEST_S))]
            out.append(Spoken(trace.id, (), wave))
    return out


def recordings_of(record: SessionRecord) -> list[Spoken]:
    """The synthesiser's own recordings of the session: the voice's ceiling."""
    out = []
    for u in utterances(record):
        words = tuple(w for _, text in u.words for w in normalise(text))
        out.append(Spoken(record.id, words, u.wave))
    return out


def through_mel(spoken: Spoken, config: SpeechConfig) -> Spoken:
    """The same sound after the ground-truth mel and the waveform stage: the flow head's ceiling."""
    from tmi.decode.vocode import vocode
    from tmi.media.audio import speech_mel

    # Whole seconds, so that few shapes are compiled.
    wave = np.pad(spoken.wave, (0, -len(spoken.wave) % SAMPLE_RATE))
    sound = np.asarray(vocode(config, speech_mel(wave, config)))[: len(spoken.wave)]
    return dataclasses.replace(spoken, wave=sound.astype(np.float32))


def choose(spoken: Sequence[Spoken], seed: int, most: int = MAX_UTTERANCES) -> list[Spoken]:
    """At most `most` of them, by a seeded draw, in their order."""
    if len(spoken) <= most:
        return list(spoken)
    picked = np.random.default_rng(seed).choice(len(spoken), most, replace=False)
    return [spoken[i] for i in sorted(picked)]


def recognise(spoken: Sequence[Spoken], grammar: Sequence[Words], pool: Executor) -> list[Words]:
    """What the recogniser hears, one sentence of the grammar or nothing each."""
    waves = [_to_bytes(s.wave) for s in spoken]
    hear = functools.partial(_hear, tuple(grammar))
    return list(pool.map(hear, waves, chunksize=8))


def trials(spoken: Sequence[Spoken], heard: Sequence[Words]) -> list[Trial]:
    out = []
    for s, hypothesis in zip(spoken, heard, strict=True):
        hits, errors = align(s.words, hypothesis)
        values = {
            "words": float(len(s.words)),
            "hits": float(hits),
            "right": float(len(s.words) - errors),
            "errors": float(errors),
        }
        if s.words:
            values["exact"] = float(s.words == hypothesis)
        out.append(Trial(s.scenario, "spoken", values))
    return out


def chance(spoken: Sequence[Spoken], heard: Sequence[Words], seed: int) -> list[Trial]:
    """The trials of what was heard, each held against another utterance."""
    order = np.random.default_rng(seed).permutation(len(heard))
    return trials(spoken, [heard[i] for i in order])


def rows(
    system: str, found: Sequence[Trial], seed: int, metrics: Sequence[Metric] = METRICS
) -> list[Row]:
    return [row(SUITE, m, system, found, seed) for m in metrics]


def open_rows(system: str, spoken: Sequence[Spoken], seed: int, pool: Executor) -> list[Row]:
    """The word error rate by moonshine of at most MAX_OPEN of the utterances that are sentences.

    Raises moonshine.UnavailableError if it cannot be loaded.
    """
    some = choose([s for s in spoken if len(s.words) >= MIN_OPEN_WORDS], seed, MAX_OPEN)
    heard = moonshine.recognise([s.wave for s in some], pool)
    return rows(system, trials(some, heard), seed, OPEN_METRICS)


def align(wanted: Sequence[str], said: Sequence[str]) -> tuple[int, int]:
    """(hits, errors) of the alignment with the fewest errors, then the most hits."""
    best = [(j, 0) for j in range(len(said) + 1)]  # (errors, -hits)
    for i, w in enumerate(wanted, 1):
        before, best = best, [(i, 0)]
        for j, s in enumerate(said, 1):
            e, h = before[j - 1]
            swap = (e, h - 1) if w == s else (e + 1, h)
            drop, insert = before[j], best[j - 1]
            best.append(min(swap, (drop[0] + 1, drop[1]), (insert[0] + 1, insert[1])))
    return -best[-1][1], best[-1][0]


_SOUNDS = {
    "ch": "CH", "ll": "Y", "qu": "K", "rr": "R", "sh": "SH", "th": "TH", "ce": "S EH", "ci": "S IY",
    "a": "AA", "b": "B", "c": "K", "d": "D", "e": "EH", "f": "F", "g": "G", "h": "", "i": "IY",
    "j": "HH", "k": "K", "l": "L", "m": "M", "n": "N", "o": "OW", "p": "P", "q": "K", "r": "R",
    "s": "S", "t": "T", "u": "UW", "v": "V", "w": "W", "x": "K S", "y": "Y", "z": "S", "'": "",
}  # fmt: skip


def as_spelled(word: str) -> str:
    """Phones (ARPAbet) of a word that the dictionary lacks, as Spanish would read it."""
    phones, i = [], 0
    while i < len(word):
        size = 2 if word[i : i + 2] in _SOUNDS else 1
        phones.append(_SOUNDS.get(word[i : i + size], ""))
        i += size
    return " ".join(p for p in phones if p) or "SIL"


def _groups(
    words: list[tuple[str, float]], grammar: Sequence[Words]
) -> list[list[tuple[str, float]]]:
    """Cuts the text stream into sentences: the longest of the grammar that stands there, else up to
    the next one.
    """
    known, longest = set(grammar), max(map(len, grammar))
    groups: list[list[tuple[str, float]]] = []
    loose = False  # the last group is no sentence of the grammar and may grow
    i = 0
    while i < len(words):
        run = 1
        while run < min(longest, len(words) - i) and _close(words[i + run - 1], words[i + run]):
            run += 1
        texts = tuple(w for w, _ in words[i : i + run])
        size = next((n for n in range(run, 0, -1) if texts[:n] in known), 0)
        if size:
            groups.append(words[i : i + size])
        elif loose and _close(groups[-1][-1], words[i]):
            groups[-1].append(words[i])
        else:
            groups.append([words[i]])
        loose = not size
        i += max(size, 1)
    return groups


def _close(a: tuple[str, float], b: tuple[str, float]) -> bool:
    return b[1] - a[1] <= PHRASE_GAP_S


def _sound_end(mask: np.ndarray, start_s: float, limit_s: float) -> float:
    """Where the sound of a word that starts at `start_s` ends: 0.3 s of silence follow."""
    end = start_s + 0.4
    for s, e in onsets.segments(mask[_frame(start_s) : _frame(limit_s)], 0.3):
        if start_s + s <= end:
            end = max(end, start_s + e)
    return min(end, limit_s)


def _frame(time_s: float) -> int:
    return round(time_s / onsets.FRAME_S)


def _sample(time_s: float) -> int:
    return round(time_s * SAMPLE_RATE)


def _to_bytes(wave: np.ndarray) -> bytes:
    pad = np.zeros(round(PAD_S * SAMPLE_RATE), np.float32)
    wave = np.concatenate([pad, np.nan_to_num(wave), pad])
    # Digital silence breaks the recogniser's features; this noise is 30 dB below the softest
    # speech.
    wave = wave + np.random.default_rng(0).normal(0, 1e-4, len(wave))
    return (np.clip(wave, -1, 1) * 32767).astype(np.int16).tobytes()


@functools.lru_cache(maxsize=2)
def _recogniser(grammar: tuple[Words, ...]):
    import pocketsphinx

    # Batch normalisation: an utterance is heard alike whatever came before it.
    decoder = pocketsphinx.Decoder(lm=None, loglevel="FATAL", cmn="batch")
    for word in sorted({w for sentence in grammar for w in sentence}):
        if not decoder.lookup_word(word):
            decoder.add_word(word, as_spelled(word), True)
    choices = " | ".join(" ".join(s) for s in grammar)
    decoder.add_jsgf_string("said", f"#JSGF V1.0; grammar said; public <said> = {choices};")
    decoder.activate_search("said")
    return decoder


def _hear(grammar: tuple[Words, ...], samples: bytes) -> Words:
    decoder = _recogniser(grammar)
    decoder.start_utt()
    decoder.process_raw(samples, full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return tuple(hypothesis.hypstr.split()) if hypothesis else ()
