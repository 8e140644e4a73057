"""The ceilings are measured once per process; the matmul compiles for a TPU."""

import json

import jax
import jax.numpy as jnp
import pytest

from tmi import machine


def test_ceilings_are_positive_and_measured_once():
    for measure in (
        lambda: machine.matmul_ceiling(n=64, repeats=2),
        lambda: machine.memory_bandwidth(megabytes=1, repeats=2),
    ):
        assert measure() > 0
        assert measure() == measure()  # a second measurement would differ in some digit


def test_description_can_be_written_as_json():
    described = machine.describe()
    assert json.loads(json.dumps(described)) == described
    assert described["cores"] >= 1
    assert described["num_devices"] == jax.device_count()


@pytest.mark.parametrize("wrong", [{"n": 0}, {"repeats": 0}])
def test_wrong_sizes_are_named(wrong):
    with pytest.raises(ValueError, match="accepted are 1 or more"):
        machine.matmul_ceiling(**wrong)


def test_wrong_bandwidth_sizes_are_named():
    with pytest.raises(ValueError, match="megabytes=0"):
        machine.memory_bandwidth(megabytes=0)


@pytest.mark.tpu
def test_products_contracted_on_the_last_axes_compile_for_a_tpu():
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    mesh = jax.sharding.Mesh(topology.devices, ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x = jax.ShapeDtypeStruct((256, 256), jnp.float32, sharding=sharding)

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.dot_general(a, b, (((1,), (1,)), ((), ())))

    compiled = jax.jit(product).trace(x, x).lower(lowering_platforms=("tpu",)).compile()
    assert "all-gather" in compiled.as_text()
