"""What is printed: all that the contract names whether it fits or not, and what is tried first."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from experiments import debug
from tests.aot.test_aot import TEXT
from tests.models.test_flops import product_macs
from tmi import config as config_lib
from tmi.aot import fit, hardware, page, program, report, roofline
from tmi.aot.report import Asked
from tmi.config import MESH_AXES, ConfigError
from tmi.models import tree
from tmi.train.optimizer import make_optimizer, muon_macs, uses_muon
from tmi.train.step import split_trained

WHERE = hardware.parse("v5e:2x2")
CONTRACT = {
    "fits", "bytes_per_device", "collectives", "model_flops", "seconds", "expected_mfu",
    "bottleneck", "loops_unread", "optimizer_seconds",
}  # fmt: skip


@pytest.fixture
def config():
    c = config_lib.from_config_dict(debug.get_config())
    return dataclasses.replace(c, train=dataclasses.replace(c.train, mesh=(1, 4, 1, 1, 1)))


def refused(p):
    return program.Compiled(None, 0, 123, "too large for hbm")


def test_what_does_not_fit_has_every_field_and_nothing_made_up(config, monkeypatch):
    monkeypatch.setattr(program, "compile_program", refused)
    p = program.Program(print, (), (), {"parameters": 2**30}, 1e9, 0.0, 1)
    out = report.report(config, WHERE, Asked(), p)
    assert out.keys() >= CONTRACT and out["fits"] is False and out["bytes_over"] == 123
    nulls = CONTRACT - {"fits", "bytes_per_device", "model_flops"}
    assert all(out[k] is None for k in nulls)
    assert out["bytes_per_device"] == {"parameters": 2**30, "temporaries": None}
    assert "DOES NOT FIT" in report.table(out) and "does not fit" in page.page([out])


def test_a_loop_of_unknown_length_is_told(config, monkeypatch, capsys):
    unread = TEXT.replace("constant(5)", "parameter(1)")
    monkeypatch.setattr(program, "compile_program", lambda p: program.Compiled(unread, 2**20, 0))
    p = program.Program(print, (), (), {"parameters": 2**30}, 1e9, 0.0, 1)
    out = report.report(config, WHERE, Asked(), p)
    assert out["loops_unread"] == 1 and out["collectives"]["all-reduce"]["count"] == 1
    assert "loops that do not say how often they run: 1 (w)" in capsys.readouterr().err
    assert out["collectives"]["all-gather"]["axes"] == {"fsdp": 64}
    assert out.keys() >= CONTRACT and out["fits"] and "optimizer" in report.table(out)


def test_what_is_too_large_before_anything_is_computed_is_not_compiled(config, monkeypatch, capsys):
    def cpus(where, sizes):
        devices = jax.devices()[: where.num_devices]
        return jax.make_mesh(sizes, MESH_AXES, devices=devices)

    monkeypatch.setattr(program, "slice_mesh", cpus)
    monkeypatch.setattr(program, "compile_program", lambda p: pytest.fail("compiled"))
    chip = dataclasses.replace(WHERE.chip, hbm_bytes=1e5, most_chips=4)
    with pytest.raises(ConfigError, match="no slice of v5e of up to 4 chips"):
        fit.fit(config, chip, Asked())
    told = capsys.readouterr().err
    assert "v5e:2x2 mesh (1, 4, 1, 1, 1): not compiled, state alone is" in told


def test_the_optimizer_is_beside_nothing():
    where = hardware.parse("v5p:4x4x4")
    plain = roofline.roofline(where, 1e18, 1e17, 1e12, [])
    line = roofline.roofline(where, 1e18, 1e17, 1e12, [], 1e15, 1e11)
    for overlap in (None, True, False):
        added = line.seconds(overlap) - plain.seconds(overlap)
        assert added == pytest.approx(line.optimizer_s)
    assert line.optimizer_hbm_s + line.hbm_s == pytest.approx(plain.hbm_s)
    assert line.optimizer_compute_s == pytest.approx(plain.compute_s / 1100)


def test_products_of_the_optimizer_are_counted(config):
    params = jax.eval_shape(lambda k: tree.fresh(config, k), jax.random.key(0))
    moved = split_trained(config, params)[0]
    optimizer = make_optimizer(config)
    state = jax.eval_shape(optimizer.init, moved)
    counted = product_macs(optimizer.update, moved, state, moved)
    muon = [x.shape for n, x in moved.items() if uses_muon(n, x.shape)]
    assert counted == sum(map(muon_macs, muon)) > 0
