"""Slices, the compiled text's collectives, and the roofline's laws; a TPU compilation where libtpu
is."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from experiments import debug, nano
from tmi import config as config_lib
from tmi import libtpu
from tmi.aot import fit, hardware, hlo, page, program, roofline, text
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
        Collective("all-reduce", 8 * 4 * 4, 4, 5, False, dims=(8, 4)),
        Collective("all-gather", 8 * 4 * 2, 4, 1, False, dims=(8, 4)),
        Collective("reduce-scatter", 2 * 4 * 4 * 4, 4, 1, False, dims=(2, 4)),
    ]
    assert hlo.by_kind(hlo.collectives(TEXT))["all-reduce"] == {
        "count": 5, "bytes": 640, "largest": 128, "axes": {"": 640}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "trips", "unread"),
    [
        ("constant(5)", "constant(6)", 6, 0),
        ("s32[] constant", "u32[] constant", 5, 0),  # of products that XLA cuts into windows
        ("constant(5)", "parameter(1)", 3, 1),
        ("  ROOT %t", "  %n = s32[] constant(2)\n  %i.2 = s32[] add(%i, %n)\n  ROOT %t", 3, 0),
    ],
)  # fmt: skip
def test_a_loop_runs_as_often_as_its_condition_says_or_is_said_to_be_unread(
    old, new, trips, unread
):
    assert old in TEXT
    module = text.read(TEXT.replace(old, new), 3)
    assert module.times["body.1"] == trips and len(module.unread) == unread


@pytest.mark.parametrize(
    ("between", "beside"),
    [
        ("%b = f32[2] bitcast(%a)", False),
        ("%f = f32[2] fusion(%a), kind=kLoop, calls=%body.1", True),
        ("%d = f32[2] convolution(%a, %a), dim_labels=bf_io->bf", True),
    ],
)
def test_what_starts_and_ends_apart_is_beside_what_is_computed_between(between, beside):
    line = "  %ag = (bf16[2,4], bf16[8,4]) all-gather-start(%a), "
    changed = TEXT.replace("  %done =", f"  {between}\n  %done =")
    assert line in changed
    assert [c.asynchronous for c in hlo.collectives(changed)] == [False, beside, False]


def test_of_branches_the_one_counts_that_moves_most():
    few = """%few (p.3: f32[8,4]) -> f32[8,4] {
  %p.3 = f32[8,4] parameter(0)
  ROOT %once = f32[8,4]{1,0} ragged-all-to-all(%p.3), replica_groups={{0,1}}
}

"""
    body = TEXT[TEXT.index("%body.1 (") : TEXT.index("ENTRY")]
    many = body.replace("%body.1 (", "%many (").replace("all-reduce(", "ragged-all-to-all(")
    chosen = "  %c = f32[8,4] conditional(%i, %a, %a), branch_computations={%few, %many}\n"
    both = TEXT.replace("ENTRY", few + many.replace("[8,4]", "[16,4]") + "ENTRY")
    found = hlo.collectives(both.replace("  %w =", chosen + "  %w ="))
    moved = [c.bytes for c in found if c.kind == "ragged-all-to-all"]
    assert moved == [16 * 4 * 4]


BESIDE = """\
HloModule m

%fused_computation.1 (p: bf16[64]) -> (bf16[64], bf16[512]) {
  %all-gather.1 = bf16[512]{0} all-gather(%p), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
  ROOT %custom-call.1 = (bf16[64], bf16[512]) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.2 (p: bf16[64], q: bf16[8,8]) -> bf16[8,8] {
  %all-gather.2 = bf16[512]{0} all-gather(%p), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
  ROOT %dot.1 = bf16[8,8]{1,0} dot(%q, %q)
}

ENTRY %main (a: bf16[64], b: bf16[8,8]) -> bf16[8,8] {
  %async-collective-start.1 = (bf16[64], bf16[512]) fusion(%a), kind=kCustom, calls=%fused_computation.1
  %fusion.2 = bf16[8,8] fusion(%a, %b), kind=kOutput, calls=%async_collective_fusion.2
  %all-gather.3 = bf16[512]{0} all-gather(%a), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
  ROOT %copy.1 = bf16[8,8]{1,0} copy(%fusion.2)
}
"""  # noqa: E501


def test_a_gather_that_rides_in_other_fusions_counts_once_and_beside_them():
    found = hlo.collectives(BESIDE)
    assert [(c.kind, c.bytes, c.group, c.asynchronous) for c in found] == [
        ("all-gather", 1024, 8, True), ("all-gather", 1024, 8, False),
    ]  # fmt: skip


def test_flags_of_the_compiler_are_added_to_those_given(monkeypatch):
    given = "--xla_enable_async_all_gather=false --other=1"
    monkeypatch.setenv(libtpu.VARIABLE, given)
    libtpu.set_flags()
    libtpu.set_flags()
    flags = os.environ[libtpu.VARIABLE]
    assert flags.startswith(given) and flags.count("xla_enable_async_all_gather") == 1
    assert "--xla_tpu_enable_async_collective_fusion=true" in flags
    assert flags.count("--") == len(libtpu.FLAGS) + 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v9:2x2", "v4, v5e"),
        ("v5p", "v5p:4x4x4"),
        ("v5e:2x2x2", "AxB"),
        ("v5p:4x4", "AxBxC"),
        ("v5e:16x32", "256 chips at most"),
    ],
)
def test_a_wrong_topology_is_told_what_is_accepted(name, said):
    with pytest.raises(ValueError, match=said):
        hardware.parse(name)


def test_an_all_reduce_costs_its_two_halves_and_overlap_never_costs():
    where = hardware.parse("v5p:4x4x4")

    def seconds(kind):
        return roofline.ici_seconds(where, [Collective(kind, 10**9, 8, 3, False)])

    halves = seconds("all-gather") + seconds("reduce-scatter")
    assert seconds("all-reduce") == pytest.approx(halves)
    found = [Collective("all-reduce", 10**12, 8, 3, a) for a in (False, True)]
    line = roofline.roofline(where, 1e18, 1e17, 1e12, found)
    assert line.seconds(True) <= line.seconds() <= line.seconds(False)
    assert line.mfu(False) <= line.mfu() <= line.mfu(True) <= roofline.EFFICIENCY
    assert line.waited_s == line.beside_s == line.ici_s / 2
    waiting = roofline.roofline(where, 1e18, 1e17, 1e12, found[:1])
    assert waiting.seconds() == waiting.seconds(False)
    started = roofline.roofline(where, 1e18, 1e17, 1e12, found[1:])
    assert started.seconds() == started.seconds(True)


def test_a_group_has_the_links_of_the_sides_that_it_fills():
    assert roofline.spanned((4, 4, 8), 8) == (8,)
    assert roofline.spanned((4, 4, 8), 16) == (4, 4)
    assert roofline.spanned((4, 4, 8), 128) == (4, 4, 8)
    assert roofline.spanned((4, 4, 8), 2) == (2,)
    where = hardware.parse("v5p:4x4x8")

    def seconds(kind, group):
        return roofline.ici_seconds(where, [Collective(kind, 10**9, group, 1, False)])

    # As many bytes over three pairs of links as over one: a third of the time, and 127 / 128 of
    # them pass in place of 3 / 4.
    assert seconds("all-gather", 128) == pytest.approx(seconds("all-gather", 4) * 127 / 96 / 3)
    assert seconds("all-to-all", 128) == seconds("all-to-all", 8) == 2 * seconds("all-to-all", 4)


def test_small_slices_are_no_tori():
    def seconds(topology, group):
        where = hardware.parse(topology)
        return roofline.ici_seconds(where, [Collective("all-gather", 10**9, group, 1, False)])

    link = hardware.CHIPS["v5e"].link_bytes
    assert seconds("v5e:4x4", 4) == pytest.approx(1e9 * 3 / 4 / link)
    assert seconds("v5e:16x16", 16) == pytest.approx(1e9 * 15 / 16 / link / 2)
    assert seconds("v5p:2x2x4", 4) == 2 * seconds("v5p:4x4x4", 4)


def test_decoding_fits_meshes_whatever_the_training_batch():
    config = config_lib.from_config_dict(nano.get_config())  # two rows a batch
    for sizes in fit.meshes(config, 4, 64):
        assert fit.with_mesh(config, sizes, "decode").train.mesh == sizes
    with pytest.raises(config_lib.ConfigError, match="data.batch_size=2"):
        fit.with_mesh(config, (1, 4, 1, 1, 1), "train")


def test_the_page_has_a_row_for_each_report():
    report = {
        "config": "c", "topology": "v5p:4x4x4", "mesh": dict.fromkeys("abcde", 2), "fits": True,
        "bytes_per_device": {"parameters": 2**30, "cache": 2**31, "temporaries": 2**30},
        "bytes_limit": 95 * 2**30, "bytes_over": 0, "seconds": 0.05, "command": "python -m x",
    }  # fmt: skip
    made = page.page([
        {**report, "mode": "train", "positions": 2048, "expected_mfu": 0.5},
        {**report, "mode": "decode", "sessions": 64, "context": 32768, "fits": False,
         "bytes_over": 2**30},
    ])  # fmt: skip
    assert "4.0 of 95" in made and "50.0%" in made and "does not fit by 1.0" in made
    assert "64 x 32768" in made and made.count("    python -m x\n") == 2


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


@pytest.mark.parametrize(
    "message, gib",
    [
        ("the total memory required for HLO temporaries (99.12G) exceeds available HBM (95.74G).",
         3.38),
        ("Used 97.31G of 95.74G hbm. Exceeded hbm capacity by 1.57G.", 1.57),
        ("out of hbm", 0.0),
    ],
)  # fmt: skip
def test_what_is_too_much_is_read_off_the_compilers_message(message, gib):
    assert program.excess(message) == pytest.approx(gib * 2**30, abs=2**20)


@pytest.mark.tpu
def test_memory_counts_what_is_donated_once():
    """What is said to take a little less than there is compiles, a little more is refused."""
    where = hardware.parse("v5e:2x2")
    whole = NamedSharding(program.slice_mesh(where, (1, 4, 1, 1, 1)), PartitionSpec())

    def step(weights, x):
        @jax.checkpoint
        def layer(x, w):
            return x + jnp.tanh(x @ w) @ w.T, None

        grads = jax.grad(lambda ws: jnp.sum(jax.lax.scan(layer, x, ws)[0]))(weights)
        return weights - 0.1 * grads, 0.0

    def compiled(layers):
        args = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=whole)
                for shape in ((layers, 8192, 4096), (32768, 8192))]  # fmt: skip
        given = {"parameters": program.bytes_of(args)}
        made = program.compile_program(program.Program(step, tuple(args), (0,), given, 1.0, 0.0, 2))
        return made, given["parameters"] + made.temporaries

    fits, total = compiled(20)
    assert fits.text is not None and 0.9 * where.chip.hbm_bytes < total < where.chip.hbm_bytes
    assert compiled(24)[0].text is None


@pytest.mark.tpu
@pytest.mark.parametrize(
    "flags, fsdp, collective",
    [
        (("--topology=v5p", "--fit"), 4, "all-gather"),
        (("--topology=v5e:2x2", "--config.train.mesh=1,2,2,1,1",
          "--config.model.expert_exchange=ragged", "--config.model.grouped=ragged_dot"),
         2, "ragged-all-to-all"),
    ],
    ids=("fit", "ragged"),
)  # fmt: skip
def test_the_command_compiles_a_training_step(flags, fsdp, collective):
    done = subprocess.run(
        [sys.executable, "-m", "tmi.aot", "--config=experiments/debug.py",
         "--config.data.batch_size=4", *flags],
        capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}, check=True,
    )  # fmt: skip
    out = json.loads(done.stdout.splitlines()[-1])
    assert out["fits"] and collective in out["collectives"] and 0 < out["expected_mfu"] < 1
    assert out["topology"] in ("v5p:2x2x1", "v5e:2x2") and out["loops_unread"] == 0
    assert "fsdp" in out["collectives"]["all-gather"]["axes"] and "" not in {
        along for kind in out["collectives"].values() for along in kind["axes"]
    }
    state = {k: n for k, n in out["bytes_per_device"].items() if k not in ("batch", "temporaries")}
    assert sum(state.values()) < out["hbm_bytes"] and 0 < out["optimizer_seconds"] < out["seconds"]
    assert out["mesh"]["fsdp"] == fsdp and out["bottleneck"] in ("compute", "hbm", "ici")
