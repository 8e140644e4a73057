"""While it trains: does the sampler say what the trainer would? A session is streamed through the
weights of the moment, its values kept as they are computed, and recomputed by the packed forward.

Under `model.numerics='invariant'` the gap is 0.0 to the bit; under 'fast' it shows what rounding
makes of the same weights. Reinforcement learning needs it at 0: a gap is a policy that is not the
one that acted.
"""

from __future__ import annotations

import itertools

import jax
import numpy as np

from tmi.config import Config, ConfigError
from tmi.data import records
from tmi.decode import replay
from tmi.decode.recording import Recorder
from tmi.decode.stream import Decoder
from tmi.models import tree

POOL = 16  # sessions that are taken in turn


class Alignment:
    """Replays sessions of the dev corpus, one drawn each time.

    Of a session is compared what a training row holds, so that one program serves all.
    """

    def __init__(self, config: Config):
        """Raises CorpusError if data.dev_corpus cannot be read or holds no session, ConfigError
        where several processes train: each has but a part of the weights."""
        if jax.process_count() > 1:
            raise ConfigError(
                f"config.train.replay_every={config.train.replay_every}: the decoder that is "
                "replayed needs all weights in one process; accepted with several: 0"
            )
        corpus = records.open_corpus(config.data.dev_corpus, "dev")
        self._config = config
        self._sessions = list(itertools.islice(records.read_sessions(corpus), POOL))
        if not self._sessions:
            raise records.CorpusError(f"{corpus.path} has no session that can be read")
        self._decoder: Decoder | None = None

    def measure(self, step: int, params: dict[str, jax.Array]) -> dict[str, float]:
        """Figures of the session of `step`:

        logprob_gap       largest |difference| of log-probabilities of the sampled tokens
        logprob_gap_mean  their mean
        speech_gap        largest |difference| of the spoken mel, 0 if nothing was said
        differing         numbers of states, experts, logits, tokens and flow that differ in a bit
        microturns, tokens, patches   that were compared
        """
        config, params = tree.layer_by_layer(self._config, jax.device_get(params))
        if self._decoder is None:
            self._decoder = Decoder(config, params, slots=1, record=True)
        self._decoder.use(params)
        drawn = np.random.default_rng(step).integers(len(self._sessions))
        kept: list[Recorder] = []
        self._decoder.run([self._sessions[drawn]], recorded=lambda _, r: kept.append(r))
        arrays = kept[0].fitting(self._config.data).arrays()
        _, found = replay.computed(config, params, arrays, room=self._config.data)
        return gaps(arrays, found)


def gaps(arrays: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> dict[str, float]:
    """`Alignment.measure` of what the sampler recorded and what the trainer found."""
    tokens = arrays["tokens"][:, None]

    def chosen(logits: np.ndarray) -> np.ndarray:
        x = logits.astype(np.float64)
        top = x.max(axis=1, keepdims=True)
        rest = top + np.log(np.exp(x - top).sum(axis=1, keepdims=True))
        return np.take_along_axis(x - rest, tokens, axis=1)

    gap = np.abs(chosen(arrays["logits"]) - chosen(found["logits"]))
    differing, speech = 0, 0.0
    for name in replay.COMPUTED:
        if name in found:
            own = arrays[name].reshape(found[name].shape)
            differing += int((replay.bits(own) != replay.bits(found[name])).sum())
            if name == "patches" and own.size:
                speech = float(np.abs(own - found[name]).max())
    return {
        "logprob_gap": float(gap.max()), "logprob_gap_mean": float(gap.mean()),
        "speech_gap": speech, "differing": differing, "tokens": len(tokens),
        "patches": len(arrays["flow"]), "microturns": len(arrays["dmel"]),
    }  # fmt: skip
