"""A config's step as the compiler sees it: shapes and shardings, no array."""

from __future__ import annotations

import collections
import dataclasses
import functools
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import mesh_utils, topologies
from jax.sharding import AxisType, Mesh

from tmi import sharding
from tmi.aot import hardware
from tmi.aot.hardware import Slice
from tmi.config import MESH_AXES, Config, ConfigError
from tmi.data.batch import abstract_batch, room
from tmi.decode.step import init_state as init_stream
from tmi.decode.step import input_chunk, max_chunk, microturn_step
from tmi.mesh import RULES, SERVING, ShardingRules, on
from tmi.microturn import Stream, layout
from tmi.models import flops, tree
from tmi.models.layers import F32
from tmi.train.optimizer import muon_macs, uses_muon
from tmi.train.step import init_state, split_trained, train_step

PARTS = {
    "tokens": "text embedding", "unembed": "text unembedding", "dmel": "dMel tower",
    "video": "hMLP tower", "speech": "speech in", "flow": "flow head",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Program:
    """Ready to be compiled. `state`: bytes of one device by kind."""

    function: Any
    arguments: tuple
    donated: tuple[int, ...]
    state: dict[str, int]
    model_flops: float
    extra_flops: float  # recomputed
    passes: int  # of decoding: how often it reads all weights, at most
    trips: int = 1  # of a loop whose length the data decides, at most
    optimizer_flops: float = 0.0
    optimizer_bytes: int = 0  # of one device
    # Parameters: shape, and whether FSDP alone makes it whole, a layer at a time.
    wholes: dict[str, tuple[tuple[int, ...], bool]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """text is None if it does not fit; `over`: bytes too many on one device."""

    text: str | None
    temporaries: int
    over: int
    message: str = ""


def slice_mesh(where: Slice, sizes: tuple[int, ...]) -> Mesh:
    """A mesh of sizes over the slice's devices.

    Raises ConfigError if they are of another number, and what `devices_of` raises.
    """
    if math.prod(sizes) != where.num_devices:
        raise ConfigError(
            f"config.train.mesh={sizes!r} cannot work: {where.name} has {where.num_devices} "
            f"devices, and accepted are five sizes ({', '.join(MESH_AXES)}) of that product"
        )
    found = devices_of(where)
    devices = mesh_utils.create_device_mesh(sizes, devices=found, allow_split_physical_axes=True)
    return Mesh(devices, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def devices_of(where: Slice) -> Sequence[Any]:
    """Of a slice that is not there, as the TPU's compiler knows them.

    Raises RuntimeError saying how to get libtpu, or that there is no such slice.
    """
    options: dict[str, Any] = {}
    if where.chip.config_name:
        options["chip_config_name"] = where.chip.config_name
    if where.num_chips < 4:  # a part of a host
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=where.name, **options
        ).devices
    except Exception as error:
        said = str(error).splitlines()[0]
        if importlib.util.find_spec("libtpu") or os.environ.get("TPU_LIBRARY_PATH"):
            raise RuntimeError(
                f"the TPU compiler knows no slice {where.name}: {said}; accepted is for instance "
                f"{hardware.example(where.chip)}"
            ) from error
        raise RuntimeError(
            f"no TPU compiler: {said}. It comes with the extra [tpu]: pip install -e '.[tpu]', and "
            "runs with JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1"
        ) from error
    assert len(found) == where.num_devices, f"{where.name}: {len(found)} devices"
    return found


def train_program(config: Config, mesh: Mesh) -> Program:
    """One training step over the config's global batch."""
    rows = math.prod(mesh.shape[a] for a in ("data", "fsdp"))
    if config.data.batch_size % rows:
        raise ConfigError(
            f"config.data.batch_size={config.data.batch_size} cannot work: mesh data x fsdp is "
            f"{rows}, and a multiple of it is accepted"
        )
    shape = jax.eval_shape(functools.partial(init_state, config), jax.random.key(0))
    placed = sharding.state_shardings(config, shape, mesh)
    state = _placed(shape, placed)
    batch = {
        k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.batch_shardings(config, mesh))
        for k, x in abstract_batch(config).items()
    }
    model = _training_flops(config)
    moved = split_trained(config, state.params)[0]
    muon = [x.shape for n, x in moved.items() if config.optimizer.muon and uses_muon(n, x.shape)]
    # Gradients are read for their norm, and again to be used; all else is read and written.
    passed = 2 * (2 * bytes_of(moved) + bytes_of(state.opt) + bytes_of(state.ema))
    return Program(
        on(mesh, functools.partial(train_step, config)), (state, batch), (0,),
        {
            "parameters": bytes_of(state.params), "average": bytes_of(state.ema),
            "optimizer": bytes_of(state.opt), "batch": bytes_of(batch),
        },
        model, model / 3 if config.train.remat else 0.0, 1,
        optimizer_flops=2.0 * sum(map(muon_macs, muon)), optimizer_bytes=passed,
        wholes=wholes(config, mesh, RULES),
    )  # fmt: skip


def decode_program(config: Config, mesh: Mesh, sessions: int, context: int) -> Program:
    """One micro-turn of `sessions` sessions that remember `context` positions: the longest, of a
    full input, as many tokens as fit, and speech."""
    rows = math.prod(mesh.shape[a] for a in ("data", "fsdp"))
    if sessions % rows:
        raise ConfigError(
            f"--sessions={sessions} cannot work: mesh data x fsdp is {rows}, and a multiple of it "
            "is accepted"
        )
    block = config.microturn.kv_block
    model = dataclasses.replace(config.model, global_blocks=-(-context // block), scan_layers=False)
    config = dataclasses.replace(config, model=model)
    shapes = sharding.param_shapes(config)
    where = sharding.param_shardings(config, mesh, SERVING)

    def weight(name: str) -> jax.ShapeDtypeStruct:
        dtype = "float32" if name.split(".")[-1] in F32 else config.model.dtype
        return jax.ShapeDtypeStruct(shapes[name], dtype, sharding=where[name])

    params = {n: weight(n) for n in shapes}

    def per_session(values):
        where = sharding.session_shardings(values, sessions, mesh)
        return _placed(values, where)

    state = per_session(jax.eval_shape(functools.partial(init_stream, config, sessions)))
    chunk = per_session(input_chunk(config, [None] * sessions))
    mask = per_session(jax.ShapeDtypeStruct((sessions,), jnp.bool_))
    seed = per_session(jax.ShapeDtypeStruct((sessions,), jnp.uint32))
    lay = layout(config)
    written = lay.max_text_out + lay.speech_positions
    positions = sessions * (max_chunk(config) + written)
    return Program(
        on(mesh, functools.partial(microturn_step, config), SERVING),
        (params, state, chunk, mask, mask, seed), (1,),
        {"parameters": bytes_of(params), "cache": bytes_of(state), "batch": bytes_of(chunk)},
        2.0 * positions * flops.position_macs(config, context), 0.0, 1 + written, lay.max_text_out,
        wholes=wholes(config, mesh, SERVING),
    )  # fmt: skip


def wholes(
    config: Config, mesh: Mesh, rules: ShardingRules
) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Matrices that are divided -> (shape, whether FSDP makes them whole where they are used). It
    does where they lie on 'fsdp' alone, or on 'expert' too where they are no expert's; but not all
    layers of a stack at once."""
    out = {}
    names = tree.logical_axes(config)
    for name, shape in sharding.param_shapes(config).items():
        axes = names[name]
        over: set[str] = set()
        for part in rules.spec(axes, shape, mesh):
            over |= {part} if isinstance(part, str) else set(part or ())
        stack = axes[:1] == ("layers",)
        layer = shape[1:] if stack else shape
        if not over or sum(n > 1 for n in layer) < 2:
            continue
        allowed = {"fsdp"} if "experts" in axes else {"fsdp", "expert"}
        out[name] = layer, over <= allowed
        if stack and shape[0] > 1:
            out[f"{name} of all layers"] = shape, False
    return out


def compile_program(program: Program) -> Compiled:
    """By the TPU's compiler; a program that does not fit is a result, not an error."""
    jitted = jax.jit(program.function, donate_argnums=program.donated)
    lowered = jitted.trace(*program.arguments).lower(lowering_platforms=("tpu",))
    try:
        compiled = lowered.compile()
    except Exception as error:
        message = str(error)
        if "hbm" not in message.lower():
            raise
        return Compiled(None, 0, excess(message), message.splitlines()[0])
    memory = compiled.memory_analysis()
    assert memory is not None
    # The peak is what the compiler holds against the memory there is, and refuses. Not
    # temp_size_in_bytes: it accepts programs of which that alone is more than all memory.
    made = memory.peak_memory_in_bytes - memory.argument_size_in_bytes
    return Compiled(compiled.as_text(), max(0, made), 0)


def excess(message: str) -> int:
    """Bytes too many, of either way in which the compiler says so; 0 if it does not."""
    size = r"([\d.]+)([KMG])"
    told = re.search(rf"[Ee]xceeded[^\d]*{size}", message)
    if told is None:
        told = re.search(rf"\({size}\) exceeds available HBM \({size}\)", message)
    if told is None:
        return 0
    sizes = [float(n) * 2 ** {"K": 10, "M": 20, "G": 30}[unit]
             for n, unit in zip(told.groups()[::2], told.groups()[1::2], strict=True)]  # fmt: skip
    return int(sizes[0] - sum(sizes[1:]))


def bytes_of(values) -> int:
    """Of one device's shards."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape) if x.sharding else x.shape) * x.dtype.itemsize
        for x in jax.tree.leaves(values)
    )


def count_parameters(config: Config) -> dict[str, int]:
    """By part, the whole, and what one position uses (`active`: a token's experts in place of all
    of them)."""
    parts: dict[str, int] = collections.defaultdict(int)
    m = config.model
    names = tree.logical_axes(config)
    for name, shape in sharding.param_shapes(config).items():
        parts[part_of(name, "experts" in names[name])] += math.prod(shape)
    total = sum(parts.values())
    idle = 1 - m.num_experts_per_token / m.num_experts
    return {**parts, "total": total, "active": total - round(idle * parts["experts"])}


def part_of(name: str, expert: bool) -> str:
    """Which part of the model an array belongs to, for people."""
    if expert:
        return "experts"
    words = name.split(".")
    if "shared" in words[-1]:
        return "shared experts"
    if words[0] != "transformer":
        return PARTS.get(words[0], words[0])
    if "attention" in words:
        return "attention"
    return "dense layers" if words[-2] == "mlp" and words[-1] in ("gate", "up", "down") else "rest"


def _placed(shapes, shardings):
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def _training_flops(config: Config) -> float:
    """Of a full batch: every position valid, every slot used that positions leave room for."""
    d = config.data
    rows = d.batch_size
    macs = rows * d.row_length * flops.position_macs(config, d.row_length)
    slots = room(config)
    towers = flops.tower_macs(config)
    kinds = (("audio", Stream.AUDIO_IN), ("video", Stream.VIDEO_IN), ("speech", Stream.AUDIO_OUT))
    macs += rows * sum(towers[name] * slots[stream] for name, stream in kinds)
    return 6.0 * macs
