"""The tensors of a published checkpoint and our parameters, one rule for each.

Two spellings are read: that of the published files (`model.llm...`, gate and up interleaved in one
tensor), which is also written, and that of the modules of transformers, for the whole model and
for the backbone alone.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable

import numpy as np

from tmi.config import Config
from tmi.interop.tensors import InteropError
from tmi.models.transformer import dense_layers

PUBLISHED, MODULES, BACKBONE = "published", "modules", "backbone"
CARRIED = "model.mtp."  # multi-token prediction: kept, not used

# ours: (published, modules), below a layer.
LAYER = {
    "attention_norm.gain": ("attn_norm.weight", "input_layernorm.weight"),
    "attention.q": ("attn.wq_du.weight", "self_attn.q_proj.weight"),
    "attention.k": ("attn.wk_dv.weight", "self_attn.k_proj.weight"),
    "attention.v": ("attn.wv_dv.weight", "self_attn.v_proj.weight"),
    "attention.rel": ("attn.wr_du.weight", "self_attn.r_proj.weight"),
    "attention.out": ("attn.wo_ud.weight", "self_attn.o_proj.weight"),
    "attention.q_norm.gain": ("attn.q_norm.weight", "self_attn.q_norm.weight"),
    "attention.k_norm.gain": ("attn.k_norm.weight", "self_attn.k_norm.weight"),
    "attention.bank": ("attn.rel_logits_proj.proj", "self_attn.rel_logits_proj.proj"),
    "mlp_norm.gain": ("mlp_norm.weight", "post_attention_layernorm.weight"),
}
CONVOLUTIONS = {
    "attention.k_conv.taps": ("attn.k_sconv.weight", "self_attn.k_sconv.conv1d.weight"),
    "attention.v_conv.taps": ("attn.v_sconv.weight", "self_attn.v_sconv.conv1d.weight"),
    "attention_conv.taps": ("attn_sconv.weight", "attn_sconv.conv1d.weight"),
    "mlp_conv.taps": ("mlp_sconv.weight", "mlp_sconv.conv1d.weight"),
}
ROUTER = {
    "mlp.router": ("mlp.gate.weight", "mlp.gate.weight"),
    "mlp.balance": ("mlp.gate.bias", "mlp.gate.e_score_correction_bias"),
}
# ours: (published, modules, modules of the backbone alone).
TOP = {
    "tokens.table": (
        "model.llm.embed.weight",
        "model.language_model.embed_tokens.weight",
        "model.embed_tokens.weight",
    ),
    "tokens.norm.gain": (
        "model.llm.embed_norm.weight",
        "model.language_model.embed_tokens.embed_norm.weight",
        "model.embed_tokens.embed_norm.weight",
    ),
    "transformer.final_norm.gain": (
        "model.llm.norm.weight",
        "model.language_model.norm.weight",
        "model.norm.weight",
    ),
    "unembed.table": ("model.llm.unembed.weight", "lm_head.weight", "lm_head.weight"),
}
LAYERS = {
    PUBLISHED: "model.llm.layers.",
    MODULES: "model.language_model.layers.",
    BACKBONE: "model.layers.",
}

Arrays = tuple[np.ndarray, ...]


class Rule(typing.NamedTuple):
    """`read` makes ours of theirs, `write` theirs of ours; both take and give one array a name."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    read: Callable[..., Arrays]
    write: Callable[..., Arrays]


def _same(*x: np.ndarray) -> Arrays:
    return x


def _transposed(x: np.ndarray) -> Arrays:
    return (x.T,)


def _taps(x: np.ndarray) -> Arrays:
    """[D, 1, W], the nearest position last -> [W, D], the nearest first."""
    return (x[:, 0, ::-1].T,)


def _kernel(x: np.ndarray) -> Arrays:
    return (x[::-1].T[:, None],)


def _scalar(x: np.ndarray) -> Arrays:
    return (x.reshape(()),)


def _vector(x: np.ndarray) -> Arrays:
    return (x.reshape((1,)),)


def _interleaved(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Two [*, F, D] -> [*, 2 F, D], row by row."""
    both = np.stack([gate, up], axis=-2)
    return both.reshape(*gate.shape[:-2], -1, gate.shape[-1])


def _dense_read(both: np.ndarray) -> Arrays:
    return both[0::2], both[1::2]


def _dense_write(gate: np.ndarray, up: np.ndarray) -> Arrays:
    return (_interleaved(gate, up),)


def _experts_read(both: np.ndarray) -> Arrays:
    """[E, 2 F, D], gate and up interleaved -> gates, ups."""
    return both[:, 0::2], both[:, 1::2]


def _halves_read(both: np.ndarray) -> Arrays:
    """[E, 2 F, D], as transformers' modules hold it: gate before up."""
    width = both.shape[1] // 2
    return both[:, :width], both[:, width:]


def _halves_write(gate: np.ndarray, up: np.ndarray) -> Arrays:
    return (np.concatenate([gate, up], axis=1),)


def _layer_rules(c: Config, i: int, spelling: str) -> Iterable[Rule]:
    column = 0 if spelling == PUBLISHED else 1
    own, their = f"transformer.layers.{i}.", f"{LAYERS[spelling]}{i}."

    def rule(theirs: tuple[str, ...], ours: tuple[str, ...], read, write) -> Rule:
        return Rule(tuple(their + n for n in theirs), tuple(own + n for n in ours), read, write)

    for name, spelled in LAYER.items():
        yield rule((spelled[column],), (name,), _same, _same)
    for name, spelled in CONVOLUTIONS.items():
        yield rule((spelled[column],), (name,), _taps, _kernel)
    gate_up = ("mlp.gate", "mlp.up")
    if i in dense_layers(c.model):
        yield rule(("mlp.global_scale",), ("mlp.scale",), _scalar, _vector)
        if spelling == PUBLISHED:
            yield rule(("mlp.w13_dn.weight",), gate_up, _dense_read, _dense_write)
            yield rule(("mlp.w2_md.weight",), ("mlp.down",), _same, _same)
        else:
            for name in ("gate", "up", "down"):
                yield rule((f"mlp.{name}_proj.weight",), (f"mlp.{name}",), _same, _same)
        return

    for name, spelled in ROUTER.items():
        yield rule((spelled[column],), (name,), _same, _same)
    yield rule(("mlp.gate.global_scale",), ("mlp.scale",), _scalar, _vector)
    shared_gate_up = ("mlp.shared_gate", "mlp.shared_up")
    if spelling == PUBLISHED:
        w13, w2 = ("mlp.experts.w13_weight",), ("mlp.experts.w2_weight",)
        yield rule(w13, gate_up, _experts_read, _dense_write)
        yield rule(w2, ("mlp.down",), _same, _same)
        w13 = ("mlp.shared_experts.shared_w13_weight",)
        w2 = ("mlp.shared_experts.shared_w2_weight",)
        yield rule(w13, shared_gate_up, _experts_read, _dense_write)
        yield rule(w2, ("mlp.shared_down",), _same, _same)
        return
    yield rule(("mlp.experts.gate_up_proj",), gate_up, _halves_read, _halves_write)
    yield rule(("mlp.experts.down_proj",), ("mlp.down",), _same, _same)
    for name in ("gate", "up", "down"):
        yield rule((f"mlp.shared_experts.{name}_proj",), (f"mlp.shared_{name}",), _same, _same)


def _tower_rules(c: Config, spelling: str) -> Iterable[Rule]:
    published = spelling == PUBLISHED
    audio = "model.audio." if published else "model.audio_tower."
    visual = "model.visual." if published else "model.vision_tower."
    table = "encoder.weight" if published else "embed_audio_tokens.embed_audio_tokens.weight"
    norm = "final_norm.weight" if published else "norm.weight"
    yield Rule((audio + table,), ("dmel.table",), _transposed, _transposed)
    yield Rule((audio + norm,), ("dmel.norm.gain",), _same, _same)
    linear = "layers.linear_{}.weight" if published else "encoder_layers.{}.projection.weight"
    norm = "layers.norm_{}.weight" if published else "encoder_layers.{}.layer_norm.weight"
    last = len(c.video.folds) - 1
    for i in range(last + 1):
        name = "video.fold_time" if i == last else f"video.fold{i + 1}"
        yield Rule((visual + linear.format(i),), (name,), _same, _same)
        if i < last:
            yield Rule((visual + norm.format(i),), (f"video.norms.{i}.gain",), _same, _same)
    yield Rule((visual + "final_norm.weight",), ("video.final_norm.gain",), _same, _same)


def rules(c: Config, spelling: str = PUBLISHED) -> list[Rule]:
    """One for each tensor of a checkpoint, in the order in which they are written."""
    column = (PUBLISHED, MODULES, BACKBONE).index(spelling)
    out = [Rule((spelled[column],), (name,), _same, _same) for name, spelled in TOP.items()]
    for i in range(c.model.num_layers):
        out += _layer_rules(c, i, spelling)
    if spelling != BACKBONE:
        out += _tower_rules(c, spelling)
    return out


def spelling_of(names: Iterable[str]) -> str:
    """Which of the spellings a checkpoint's names are in."""
    found = {s for s, prefix in LAYERS.items() for n in names if n.startswith(prefix)}
    if len(found) != 1:
        begins = ", ".join(f"{p}0." for p in LAYERS.values())
        raise InteropError(
            f"the tensors are spelled in {len(found)} ways; layers whose names begin with one of "
            f"{begins} are accepted"
        )
    return found.pop()
