"""What is read off a compiled text: groups, the mesh's axes, whole parameters, bytes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from experiments import debug
from tmi import config as config_lib
from tmi.aot import hardware, hlo, program, text, traffic
from tmi.mesh import RULES, SERVING
from tmi.models.exchange import ROWS_OF_ALL

MESH = {"data": 1, "fsdp": 2, "expert": 2, "sequence": 1, "tensor": 2}


def collective(groups: str, op: str = "all-reduce", shape: str = "f32[8]") -> str:
    return f"""ENTRY %main (a: f32[8]) -> f32[8] {{
  %a = f32[8]{{0}} parameter(0)
  ROOT %r = {shape}{{0}} {op}(%a), channel_id=1, {groups}, to_apply=%add
}}
"""


@pytest.mark.parametrize(
    ("groups", "size", "axes"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", 4, "expert,tensor"),
        ("{}", 8, "fsdp,expert,tensor"),
        ("[4,2]<=[8]", 2, "tensor"),
        ("[4,2]<=[2,4]T(1,0)", 2, "fsdp"),
        ("[2,4]<=[4,2]T(1,0)", 4, "fsdp,expert"),
        ("[4,2]<=[2,2,2]T(2,0,1)", 2, "expert"),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_0'}", 4, "fsdp,expert"),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_0','axis_1'}", 8, "fsdp,expert,tensor"),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_0':(2)2}", 2, "expert"),
        ("mesh['axis_0'=8,'axis_1'=1] {'axis_0':(1)4}", 4, "fsdp,expert"),
        ("mesh['axis_0'=2,'axis_1'=1,'axis_2'=4], device_ids=([4,2]T(1,0)) {'axis_2'}", 4,
         "fsdp,expert"),
    ],
)  # fmt: skip
def test_every_spelling_of_groups_is_read(groups, size, axes):
    (found,) = hlo.collectives(collective(f"replica_groups={groups}"), mesh=MESH)
    assert found.group == size and ",".join(found.axes) == axes
    assert hlo.by_kind([found])["all-reduce"]["axes"] == {axes: 32}


def test_a_permutation_lies_along_the_axes_on_which_anybody_sends():
    pairs = "source_target_pairs={{0,0},{1,2},{2,1},{3,3}}"
    (found,) = hlo.collectives(collective(pairs, "collective-permute"), mesh=MESH)
    assert found.group == 2 and found.axes == ("expert", "tensor")


def test_a_parameter_that_is_gathered_whole_is_named():
    gather = collective("replica_groups={{0,1}}", "all-gather", "bf16[16,1,8]")
    found = hlo.collectives(gather, mesh=MESH)
    shapes = {"w": ((8, 16), False), "by fsdp": ((16, 8), True), "other": ((8, 8), False)}
    assert hlo.whole_gathers(found, shapes) == {"w": 256}
    of_rows = f'metadata={{op_name="jit(f)/{ROWS_OF_ALL}/all_gather"}}'
    rows = gather.replace("to_apply=%add", of_rows)
    assert not hlo.whole_gathers(hlo.collectives(rows, mesh=MESH), shapes)


def test_fsdp_makes_whole_what_lies_on_its_axes_and_one_layer_at_a_time():
    config = config_lib.from_config_dict(debug.get_config())
    mesh = jax.sharding.AbstractMesh(tuple(MESH.values()), tuple(MESH))
    train = program.wholes(config, mesh, RULES)
    banks = [by for shape, by in train.values() if shape[0] == config.model.num_experts]
    assert banks and not any(banks)
    assert train["clock.weight"][1] and not train["unembed.table"][1]
    served = program.wholes(config, mesh, SERVING)
    assert served and not any(by for _, by in served.values())


TEXT = """HloModule m

%cond (p: (s32[], bf16[4,8], bf16[3,4,8])) -> pred[] {
  %p = (s32[], bf16[4,8], bf16[3,4,8]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] constant(3)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%sliced (a: bf16[3,4,8], i: s32[], x: bf16[4,8]) -> bf16[4,8] {
  %a.1 = bf16[3,4,8]{2,1,0} parameter(0)
  %i.1 = s32[] parameter(1)
  %x.1 = bf16[4,8]{1,0} parameter(2)
  %s.1 = bf16[1,4,8]{2,1,0} dynamic-slice(%a.1, %i.1), dynamic_slice_sizes={1,4,8}
  %b.1 = bf16[4,8]{1,0} bitcast(%s.1)
  ROOT %y.1 = bf16[4,8]{1,0} add(%b.1, %x.1)
}

%body (p: (s32[], bf16[4,8], bf16[3,4,8])) -> (s32[], bf16[4,8], bf16[3,4,8]) {
  %q = (s32[], bf16[4,8], bf16[3,4,8]) parameter(0)
  %i.2 = s32[] get-tuple-element(%q), index=0
  %x.2 = bf16[4,8]{1,0:S(1)} get-tuple-element(%q), index=1
  %a.2 = bf16[3,4,8]{2,1,0} get-tuple-element(%q), index=2
  %y.2 = bf16[4,8]{1,0:S(1)} fusion(%a.2, %i.2, %x.2), kind=kLoop, calls=%sliced
  ROOT %t = (s32[], bf16[4,8], bf16[3,4,8]) tuple(%i.2, %y.2, %a.2)
}

%updated (a: bf16[3,4,8], x: bf16[1,4,8]) -> bf16[3,4,8] {
  %a.3 = bf16[3,4,8]{2,1,0} parameter(0)
  %x.3 = bf16[1,4,8]{2,1,0} parameter(1)
  %zero = s32[] constant(0)
  ROOT %u.3 = bf16[3,4,8]{2,1,0} dynamic-update-slice(%a.3, %x.3, %zero)
}

ENTRY %main (x: bf16[4,8], a: bf16[3,4,8]) -> bf16[3,4,8] {
  %x = bf16[4,8]{1,0} parameter(0)
  %a = bf16[3,4,8]{2,1,0} parameter(1)
  %start = (bf16[4,8]{1,0:S(1)}, bf16[4,8]{1,0}, u32[]) copy-start(%x)
  %near = bf16[4,8]{1,0:S(1)} copy-done(%start)
  %w = (s32[], bf16[4,8], bf16[3,4,8]) while(%init), condition=%cond, body=%body
  %y = bf16[1,4,8]{2,1,0:S(1)} bitcast(%near)
  ROOT %u = bf16[3,4,8]{2,1,0} fusion(%a, %y), kind=kLoop, calls=%updated
}
"""


def test_bytes_are_those_of_what_is_used_as_often_as_it_runs():
    one = 4 * 8 * 2
    index = 4
    assert traffic.hbm_bytes(text.read(TEXT)) == one + 3 * (one + index) + one


@pytest.mark.parametrize(("said", "counted"), [(100, 100), (10**9, 2 * 4096 + 64)])
def test_a_kernel_moves_what_it_says_and_at_most_what_it_is_given(said, counted):
    given = """
ENTRY %main (cache: bf16[2048], new: bf16[32]) -> bf16[2048] {
  %cache = bf16[2048]{0} parameter(0)
  %new = bf16[32]{0} parameter(1)
  ROOT %kernel = bf16[2048]{0} custom-call(%cache, %new), custom_call_target="tpu_custom_call", \
backend_config={"cost_estimate":{"flops":"0","bytes_accessed":"SAID"}}
}
"""
    module = text.read(given.replace("SAID", str(said)))
    assert traffic.hbm_bytes(module) == counted


@pytest.mark.tpu
def test_a_compiled_loop_reads_its_weights_once_a_layer():
    whole = NamedSharding(
        program.slice_mesh(hardware.parse("v5e:2x2"), (1, 4, 1, 1, 1)), PartitionSpec()
    )

    def forward(weights, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    shapes = ((16, 4096, 4096), (2048, 4096))
    args = [jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=whole) for s in shapes]
    made = program.compile_program(program.Program(forward, tuple(args), (), {}, 1.0, 0.0, 1))
    assert made.text is not None
    module = text.read(made.text)
    least = program.bytes_of(args) + program.bytes_of(args[1])
    assert not module.unread and least <= traffic.hbm_bytes(module) < 1.1 * least
