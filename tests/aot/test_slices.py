"""Slices that can be had: what the launcher and the TPU's compiler accept."""

from __future__ import annotations

import jax
import pytest

from experiments import topologies
from tmi.aot import hardware, program
from tmi.mesh import on, one_cpu

CHIPS = list(hardware.CHIPS.values())


@pytest.mark.parametrize("chip", CHIPS, ids=lambda c: c.name)
def test_slices_grow_by_two_to_what_can_be_rented(chip):
    slices = hardware.smallest_first(chip)
    most = min(512, chip.most_chips).bit_length()
    assert [s.num_chips for s in slices] == [2**i for i in range(2, most)]
    assert all(hardware.parse(s.name) == s for s in slices)
    for s in slices:
        assert topologies.parse(s.name).devices == s.num_devices
    assert topologies.KINDS[chip.name].most_chips == chip.most_chips


def test_without_its_compiler_the_command_says_where_it_comes_from(monkeypatch):
    def missing(**_):
        raise RuntimeError("TPU support not installed")

    monkeypatch.setattr(program.topologies, "get_topology_desc", missing)
    monkeypatch.setattr(program.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(RuntimeError, match=r"pip install -e '.\[tpu\]'"):
        program.devices_of(hardware.parse("v5p:2x2x1"))


@pytest.mark.tpu
@pytest.mark.parametrize("chip", CHIPS, ids=lambda c: c.name)
def test_the_compiler_knows_every_slice_and_its_devices(chip):
    one = hardware.Slice(chip, (1,) * chip.torus_axes)
    for where in (one, *hardware.smallest_first(chip)):
        assert len(program.devices_of(where)) == where.num_devices


@pytest.mark.tpu
@pytest.mark.parametrize("name", ["v5p:1x2x2", "v5e:3x5", "v4:3x2x2"])
def test_a_slice_that_cannot_be_is_not_a_missing_compiler(name):
    with pytest.raises(RuntimeError, match=f"knows no slice {name}") as told:
        program.devices_of(hardware.parse(name))
    assert "pip install" not in str(told.value)


@pytest.mark.tpu
def test_one_chip_is_no_cpu():
    mesh = program.slice_mesh(hardware.parse("v5e:1x1"), (1, 1, 1, 1, 1))
    seen = []
    jax.make_jaxpr(on(mesh, lambda x: seen.append(one_cpu()) or x))(1.0)
    assert seen == [False]
