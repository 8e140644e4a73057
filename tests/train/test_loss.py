"""The losses against their plain formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from tmi.microturn import EOM_ID, MAX_HEARD, SPEAK_ID, Stream
from tmi.models.heads import waiting_class
from tmi.train.loss import hearing_loss, spelling_loss, waits


def test_hearing_is_the_mean_cross_entropy_of_the_words_tokens_and_of_end_where_there_are_none():
    logits = jax.random.normal(jax.random.key(0), (1, 3, 11))
    heard = np.full((1, 3, MAX_HEARD), -1)
    heard[0, 0, :3] = 7, 4, 7
    heard[0, 1, :1] = 5
    got = hearing_loss(logits, jnp.asarray(heard))
    log_p = jax.nn.log_softmax(logits)[0]
    want = [-(2 * log_p[0, 7] + log_p[0, 4]) / 3, -log_p[1, 5], -log_p[2, EOM_ID]]
    np.testing.assert_allclose(got[0], want, rtol=1e-5)


def test_spelling_is_the_sum_of_the_letters_binary_cross_entropies():
    logits = jax.random.normal(jax.random.key(0), (1, 3, 26))
    letters = jnp.asarray([[0b101, 0, 1 << 25]])
    p = np.asarray(jax.nn.sigmoid(logits))[0]
    sounds = np.zeros((3, 26))
    sounds[0, [0, 2]], sounds[2, 25] = 1, 1
    want = -np.sum(np.log(np.where(sounds, p, 1 - p)), axis=1)
    np.testing.assert_allclose(spelling_loss(logits, letters)[0], want, rtol=1e-5)


def test_waits_count_the_microturns_until_the_session_next_has_words():
    # One position in, one out a micro-turn; two sessions, each of which speaks once.
    a, t = Stream.AUDIO_IN, Stream.TEXT_OUT
    word = 7
    batch = {
        "stream": jnp.asarray([[a, t, a, t, a, t, t, a, t, a, t, a, t]]),
        "microturn": jnp.asarray([[0, 0, 1, 1, 2, 2, 2, 3, 3, 0, 0, 1, 1]]),
        "segment": jnp.asarray([[1] * 9 + [2] * 4]),
        "text_target": jnp.asarray(
            [[EOM_ID, -1, EOM_ID, -1, word, SPEAK_ID, -1, SPEAK_ID, -1, EOM_ID, -1, word, EOM_ID]]
        ),
    }
    want = [2, -1, 1, -1, 0, -1, -1, -1, -1, 1, -1, 0, -1]
    np.testing.assert_array_equal(waits(batch)[0], want)


def test_waiting_classes_are_exact_at_first_and_grow_by_a_tenth():
    classes = np.asarray(waiting_class(jnp.arange(400), 48))
    np.testing.assert_array_equal(classes[:9], np.arange(9))
    assert (np.diff(classes) >= 0).all() and classes[-1] == 47
    lengths = np.bincount(classes)[8:-1]
    starts = np.flatnonzero(np.diff(classes, prepend=-1))[8:-1]
    assert (lengths <= 1 + 0.1 * starts).all()
