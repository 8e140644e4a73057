"""The losses against their plain formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from tmi.microturn import EOM_ID, MAX_HEARD
from tmi.train.loss import hearing_loss


def test_hearing_is_the_mean_cross_entropy_of_the_words_tokens_and_of_end_where_there_are_none():
    logits = jax.random.normal(jax.random.key(0), (1, 3, 11))
    heard = np.full((1, 3, MAX_HEARD), -1)
    heard[0, 0, :3] = 7, 4, 7
    heard[0, 1, :1] = 5
    got = hearing_loss(logits, jnp.asarray(heard))
    log_p = jax.nn.log_softmax(logits)[0]
    want = [-(2 * log_p[0, 7] + log_p[0, 4]) / 3, -log_p[1, 5], -log_p[2, EOM_ID]]
    np.testing.assert_allclose(got[0], want, rtol=1e-5)
