"""Where numerics are invariant eight devices compute the bits of one: rows and weights may lie
anywhere, and rows may travel to their experts in any way."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.conftest import small_config
from tests.test_sharding import batch_for
from tmi import numerics, sharding
from tmi.mesh import constrain, on
from tmi.models import exchange, tree


def config_on(mesh, exchange="padded"):
    c = small_config(numerics="invariant", expert_exchange=exchange)
    # A mixture with sliding attention, then one with global.
    model = dataclasses.replace(
        c.model, num_experts=8, num_layers=2, num_dense_layers=0, global_every=2
    )
    data = dataclasses.replace(c.data, row_length=128, batch_size=8, speech_slots=32)
    train = dataclasses.replace(c.train, mesh=mesh)
    return dataclasses.replace(c, model=model, data=data, train=train)


@numerics.by_config
def forward(config, params, batch):
    model = tree.build(config, params)
    out = model(batch, batch["speech"])
    # By rows, as the loss has them.
    rows = constrain(out.hidden[:, :2], "batch", None, None)
    noise = jnp.ones((*rows.shape[:2], batch["speech"].shape[-2] * batch["speech"].shape[-1]))
    noise = constrain(noise, "batch", None, None)
    return {
        "states": out.taps.states, "chosen": out.taps.chosen,
        "logits": model.unembed(out.hidden),
        "patch": model.flow.clean(noise, jnp.zeros(rows.shape[:2]), rows),
    }  # fmt: skip


def computed(config, params):
    mesh = sharding.make_mesh(config)
    places = sharding.param_shardings(config, mesh), sharding.batch_shardings(config, mesh)
    run = numerics.jit(
        "invariant", on(mesh, functools.partial(forward, config)),
        in_shardings=places, out_shardings=sharding.replicated(mesh),
    )  # fmt: skip
    return jax.device_get(run(*jax.device_put((params, batch_for(config)), places)))


@pytest.fixture(scope="module")
def alone():
    config = config_on((1, 1, 1, 1, 1))
    rng = np.random.default_rng(0)
    params = {
        k: np.asarray(v) + (0.1 * rng.normal(size=v.shape)).astype(np.float32)
        for k, v in tree.init(config, jax.random.key(0)).items()
    }
    return params, computed(config, params)


@pytest.mark.parametrize(
    ("mesh", "kind", "many"),
    [
        ((8, 1, 1, 1, 1), "padded", 0),
        ((1, 8, 1, 1, 1), "padded", 0),
        ((1, 1, 8, 1, 1), "padded", 0),
        ((1, 1, 8, 1, 1), "ring", 1024),
        ((2, 2, 2, 1, 1), "ring", 0),
    ],
)
def test_the_bits_do_not_depend_on_the_mesh(alone, mesh, kind, many, monkeypatch):
    monkeypatch.setattr(exchange, "MANY_ROWS", many)  # from which on they travel in turn
    params, want = alone
    got = computed(config_on(mesh, kind), params)
    assert all(np.isfinite(x).all() and x.any() for x in want.values())
    for name, x in want.items():
        np.testing.assert_array_equal(got[name], x, err_msg=name)
