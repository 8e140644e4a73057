"""What the tests of all kernels share: the chips they are compiled for, and races."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.pallas import tpu as pltpu

# `make test-tpu` compiles nano's shapes for the first chip, which has the least memory, and
# `make test-tpu-all` all shapes for all.
FURTHER = ("v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1")
CHIPS = ("v5e:2x2", *(pytest.param(chip, marks=pytest.mark.tpu_all) for chip in FURTHER))


def shapes(table):
    """Those of a table by name, to be compiled for TPUs."""
    further = pytest.mark.tpu_all
    return [
        pytest.param(shape, id=name, marks=() if name.startswith("nano") else further)
        for name, shape in table.items()
    ]


@functools.cache
def device(topology_name: str):
    from jax.experimental import topologies

    return topologies.get_topology_desc(platform="tpu", topology_name=topology_name).devices[0]


@pytest.fixture(params=CHIPS)
def compile_for_tpu(request):
    """(f, *arguments as (shape, dtype)) -> f compiled for each kind of TPU in turn, by the real
    compiler: it raises if a kernel needs more fast memory than it asks for or the chip has."""
    on = jax.sharding.SingleDeviceSharding(device(request.param))

    def compiled(f, *arguments):
        args = [jax.ShapeDtypeStruct(size, dtype, sharding=on) for size, dtype in arguments]
        out = jax.jit(f).trace(*args).lower(lowering_platforms=("tpu",)).compile()
        assert "tpu_custom_call" in out.as_text()
        return out

    return compiled


@pytest.fixture
def race_free(capfd):
    """(f) -> f(interpret), where `interpret` simulates a TPU's memories and copies and looks for
    races; fails if it finds one."""

    def run(f):
        out = jax.block_until_ready(f(pltpu.InterpretParams(detect_races=True)))
        said = "".join(capfd.readouterr())
        assert "RACE" not in said, said
        return out

    return run


@pytest.fixture
def products():
    """(f, *arguments as (shape, dtype)) -> the distinct products of matrices in f's kernels, as
    (shapes and types, contracted axes). Nothing is computed."""

    def found(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                yield (*map(str, (v.aval for v in eqn.invars)), str(eqn.params))
            for inner in jax.tree.leaves(
                list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
            ):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from found(inner)

    def of(f, *arguments):
        args = [jax.ShapeDtypeStruct(size, jnp.dtype(dtype)) for size, dtype in arguments]
        return set(found(jax.make_jaxpr(f)(*args).jaxpr))

    return of
