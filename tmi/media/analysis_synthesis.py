"""What speech loses on its way to mel and back: the ceiling of everything the model can say.

    python -m tmi.media.analysis_synthesis --wavs='DIR/*.wav'

Beside each wav lies its transcript, `<name>.txt`. Judges: pocketsphinx with a closed grammar of all
the transcripts, moonshine with open text, DNSMOS (Reddy et al. 2021). Needs the [eval] extra.
"""

import dataclasses
import glob
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import cast

import jax
import numpy as np
from absl import app, flags

from tmi.config import SpeechConfig
from tmi.decode import vocode
from tmi.evals.answers import normalise
from tmi.evals.moonshine import open_recogniser
from tmi.media import audio

_WAVS = flags.DEFINE_string(
    "wavs", None, "glob of audio files with a .txt beside each", required=True
)
_FIELDS = flags.DEFINE_multi_string(
    "speech", [], "field of the speech config to change, e.g. --speech=griffin_lim_iters=16"
)

SAMPLE_RATE = 16000  # of every judge


@dataclasses.dataclass(frozen=True)
class Clip:
    """An utterance: its wave float32 [N] and its words."""

    wave: np.ndarray
    words: list[str]


def read_clips(pattern: str) -> list[Clip]:
    """The audio files of a glob, each with the transcript beside it.

    Raises ValueError if there are none, FileNotFoundError if a transcript is missing.
    """
    clips = []
    for path in sorted(map(pathlib.Path, glob.glob(pattern))):
        transcript = path.with_suffix(".txt")
        if not transcript.is_file():
            raise FileNotFoundError(f"{path} has no transcript: expected {transcript}")
        clips.append(Clip(audio.load_wav(path), normalise(transcript.read_text("utf-8"))))
    if not clips:
        raise ValueError(f"--wavs={pattern}: no file matches")
    return clips


# Judges.


def grammar_recogniser(sentences: Sequence[list[str]]) -> Callable[[np.ndarray], list[str]]:
    """pocketsphinx that must hear one of `sentences`; [] if it hears none."""
    import pocketsphinx

    choices = sorted({" ".join(words) for words in sentences})
    grammar = f"#JSGF V1.0; grammar closed; public <said> = {' | '.join(choices)} ;"
    decoder = pocketsphinx.Decoder(lm=None, samprate=SAMPLE_RATE, loglevel="FATAL")
    unknown = sorted({w for words in sentences for w in words if not decoder.lookup_word(w)})
    if unknown:
        raise ValueError(f"pocketsphinx does not know these words of the transcripts: {unknown}")
    decoder.add_jsgf_string("closed", grammar)
    decoder.activate_search("closed")

    def recognise(wave: np.ndarray) -> list[str]:
        decoder.start_utt()
        decoder.process_raw(audio.to_int16(wave).tobytes(), full_utt=True)
        decoder.end_utt()
        heard = decoder.hyp()
        return heard.hypstr.split() if heard else []

    return recognise


def mean_opinion_score(wave: np.ndarray) -> tuple[float, float]:
    """DNSMOS of a wave: overall (P.835) and P.808, 1 to 5."""
    from speechmos import dnsmos

    scores = cast(dict, dnsmos.run(np.clip(wave, -1, 1), sr=SAMPLE_RATE))
    return float(scores["ovrl_mos"]), float(scores["p808_mos"])


def word_errors(wanted: Sequence[str], heard: Sequence[str]) -> int:
    """Substitutions, deletions and insertions (Levenshtein distance of the words)."""
    distance = list(range(len(heard) + 1))
    for i, word in enumerate(wanted, 1):
        diagonal, distance[0] = distance[0], i
        for j, other in enumerate(heard, 1):
            diagonal, distance[j] = (
                distance[j],
                min(diagonal + (word != other), distance[j] + 1, distance[j - 1] + 1),
            )
    return distance[-1]


# The report.


def judge(clips: Sequence[Clip], waves: Sequence[np.ndarray]) -> dict[str, float]:
    """Scores of `waves`, which should say what `clips` say. Errors in % of the words."""
    closed = grammar_recogniser([clip.words for clip in clips])
    opened = open_recogniser()
    num_words = sum(len(clip.words) for clip in clips)
    pairs = list(zip(clips, waves, strict=True))
    quality = np.mean([mean_opinion_score(wave) for wave in waves], axis=0)
    return {
        "pocketsphinx WER %": 100
        * sum(word_errors(clip.words, closed(wave)) for clip, wave in pairs)
        / num_words,
        "moonshine WER %": 100
        * sum(word_errors(clip.words, opened(wave)) for clip, wave in pairs)
        / num_words,
        "DNSMOS overall": float(quality[0]),
        "DNSMOS P.808": float(quality[1]),
    }


def log_mel_error_db(config: SpeechConfig, clip: np.ndarray, wave: np.ndarray) -> float:
    """Mean absolute distance of the log mels of two waves, dB."""
    distance = np.abs(audio.speech_mel(clip, config) - audio.speech_mel(wave, config)).mean()
    return float(distance * config.std * 20 / np.log(10))


def step_seconds(config: SpeechConfig, num_steps: int = 100) -> np.ndarray:
    """Wall time of single steps of a patch of noise, one stream, after compilation, sorted."""
    step = jax.jit(vocode.step, static_argnums=0)
    state = vocode.init(config)
    rng = np.random.default_rng(0)
    mel = rng.standard_normal((1, config.frames_per_position, config.num_mels)).astype(np.float32)
    times = []
    for _ in range(num_steps + 3):
        start = time.perf_counter()
        state, wave = step(config, state, mel)
        wave.block_until_ready()
        times.append(time.perf_counter() - start)
    return np.sort(times[3:])


def mel_statistics(config: SpeechConfig, clips: Sequence[Clip]) -> tuple[float, float]:
    """Mean and standard deviation of the ln mel: speech.mean and speech.std of a voice.

    Over the frames that are not silent: on average more than 0.3 nepers above the floor.
    """
    raw = dataclasses.replace(config, mean=0.0, std=1.0)
    mels = np.concatenate([audio.speech_mel(clip.wave, raw) for clip in clips])
    heard = mels[mels.mean(axis=1) > audio.silent_mel(raw) + 0.3]
    return float(heard.mean()), float(heard.std())


def changed(config: SpeechConfig, fields: Sequence[str]) -> SpeechConfig:
    """`config` with "name=value" fields changed, values in JSON."""
    values = dict(field.split("=", 1) for field in fields)
    unknown = set(values) - {field.name for field in dataclasses.fields(config)}
    if unknown:
        raise ValueError(f"--speech: no such field of SpeechConfig: {sorted(unknown)}")
    return dataclasses.replace(config, **{k: json.loads(v) for k, v in values.items()})


def main(_: Sequence[str]) -> None:
    config = changed(SpeechConfig(), _FIELDS.value)
    clips = read_clips(_WAVS.value)
    waves = [
        vocode.vocode(config, audio.speech_mel(clip.wave, config))[: len(clip.wave)]
        for clip in clips
    ]
    seconds = sum(len(clip.wave) for clip in clips) / SAMPLE_RATE
    print(f"{len(clips)} clips, {seconds:.1f} s, {sum(len(c.words) for c in clips)} words\n")

    original, resynthesised = judge(clips, [c.wave for c in clips]), judge(clips, waves)
    print(f"{'':22}{'original':>10}{'mel->wave':>11}")
    for name, value in original.items():
        print(f"{name:22}{value:10.2f}{resynthesised[name]:11.2f}")
    errors = [log_mel_error_db(config, c.wave, w) for c, w in zip(clips, waves, strict=True)]
    print(f"{'log mel error, dB':22}{0:10.2f}{np.mean(errors):11.2f}\n")

    times = step_seconds(config)
    patch_s = config.frames_per_position * config.hop / config.sample_rate
    delay_ms = 1000 * vocode.delay_samples(config) / config.sample_rate
    print(f"delay {delay_ms:g} ms")
    print(
        f"a step of {patch_s:g} s: median {1000 * np.median(times):.2f} ms, "
        f"p99 {1000 * np.quantile(times, 0.99):.2f} ms, "
        f"real-time factor {np.median(times) / patch_s:.4f}"
    )
    mean, std = mel_statistics(config, clips)
    print(f"ln mel of the frames that are not silent: mean {mean:.2f}, std {std:.2f}")


if __name__ == "__main__":
    app.run(main)
