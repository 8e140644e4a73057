"""Slices, the compiled text's collectives, and the roofline's laws; a TPU compilation where libtpu
is."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from experiments import debug, nano
from tmi import config as config_lib
from tmi.aot import hardware, hlo, program, roofline
from tmi.aot.hlo import Collective

TEXT = """HloModule jit_f, entry_computation_layout={()->f32[]}

%cond.1 (p.1: (s32[], f32[8,4])) -> pred[] {
  %p.1 = (s32[], f32[8,4]) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %n.1 = s32[] constant(5)
  ROOT %lt = pred[] compare(%i.1, %n.1), direction=LT
}

%body.1 (p.2: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p.2 = (s32[], f32[8,4]) parameter(0)
  %x.2 = f32[8,4] get-tuple-element(%p.2), index=1
  %ar.2 = f32[8,4]{1,0} all-reduce(%x.2), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %t.2 = (s32[], f32[8,4]) tuple(%i.2, %ar.2)
}

ENTRY %main (a: bf16[2,4]) -> f32[] {
  %a = bf16[2,4] parameter(0)
  %ag = (bf16[2,4], bf16[8,4]) all-gather-start(%a), replica_groups=[1,4]<=[4], dimensions={0}
  %done = bf16[8,4] all-gather-done(%ag)
  %w = (s32[], f32[8,4]) while(%init), condition=%cond.1, body=%body.1
  ROOT %r = f32[2,4] reduce-scatter(%x), replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%add
}
"""


def test_collectives_in_a_loop_count_as_often_as_it_runs():
    assert hlo.collectives(TEXT) == [
        Collective("all-reduce", 8 * 4 * 4, 4, 5, False),
        Collective("all-gather", 8 * 4 * 2, 4, 1, True),
        Collective("reduce-scatter", 2 * 4 * 4 * 4, 4, 1, False),
    ]
    assert hlo.by_kind(hlo.collectives(TEXT))["all-reduce"] == {"count": 5, "bytes": 640}


@pytest.mark.parametrize(
    ("text", "said"),
    [("v9:2x2", "v4, v5e"), ("v5p", "v5p:4x4x4"), ("v5e:2x2x2", "AxB"), ("v5p:4x4", "AxBxC")],
)
def test_a_wrong_topology_is_told_what_is_accepted(text, said):
    with pytest.raises(ValueError, match=said):
        hardware.parse(text)


def test_slices_grow_by_two_and_parse_back():
    for chip in hardware.CHIPS.values():
        slices = hardware.smallest_first(chip)
        assert [s.num_chips for s in slices] == [2**i for i in range(2, 10)]
        assert all(hardware.parse(s.name) == s for s in slices)


def test_an_all_reduce_costs_its_two_halves_and_overlap_never_costs():
    chip = hardware.CHIPS["v5p"]

    def seconds(kind):
        return roofline.ici_seconds(chip, [Collective(kind, 10**9, 8, 3, False)])

    halves = seconds("all-gather") + seconds("reduce-scatter")
    assert seconds("all-reduce") == pytest.approx(halves)
    line = roofline.roofline(
        chip, 64, 1e18, 1e17, 1e12, [Collective("all-reduce", 10**9, 8, 3, False)]
    )
    assert line.seconds(True) <= line.seconds(False)
    assert line.mfu(False) <= line.mfu(True) <= roofline.EFFICIENCY


@pytest.mark.parametrize("experiment", [debug, nano])
def test_parts_of_the_parameters_sum_to_all(experiment):
    config = config_lib.from_config_dict(experiment.get_config())
    parts = program.count_parameters(config)
    assert sum(n for k, n in parts.items() if k not in ("total", "active")) == parts["total"]
    assert 0 < parts["active"] < parts["total"]


def test_a_mesh_of_another_size_is_refused():
    config = config_lib.from_config_dict(debug.get_config())
    with pytest.raises(config_lib.ConfigError, match=r"v5e:2x2 has 4 devices"):
        program.slice_mesh(hardware.parse("v5e:2x2"), config.train.mesh)


@pytest.mark.tpu
def test_the_command_compiles_a_training_step():
    done = subprocess.run(
        [sys.executable, "-m", "tmi.aot", "--config=experiments/debug.py", "--topology=v5e:2x2",
         "--config.data.batch_size=4"],
        capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}, check=True,
    )  # fmt: skip
    out = json.loads(done.stdout.splitlines()[-1])
    assert out["fits"] and out["collectives"] and 0 < out["expected_mfu"] < 1
    assert out["mesh"]["fsdp"] == 4 and out["bottleneck"] in ("compute", "hbm", "ici")
