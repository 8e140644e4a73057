"""Small random checkpoints of the published format and inputs for them, made from numbers alone:
what makes the goldens, the test of them and the comparison with transformers see the same bits."""

from __future__ import annotations

import dataclasses
import pathlib
import typing
import zlib
from collections.abc import Mapping

import numpy as np
from safetensors.numpy import save_file

SMALL: dict[str, typing.Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 8,
    "sliding_window_size": 8,
    "d_rel": 4,
    "rel_extent": 12,
    "intermediate_size": 40,
    "moe_intermediate_size": 16,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "n_shared_experts": 2,
    "local_layer_ids": [0, 2],
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "max_position_embeddings": 512,
}
IMAGE, AUDIO = 94, 95  # the tokens in whose places patches and frames stand


@dataclasses.dataclass(frozen=True)
class Case:
    """`text`: what differs from SMALL. `padding`: positions before each row. `patches`, `frames`:
    per row; images and sounds."""

    name: str
    length: int
    text: Mapping[str, typing.Any] = dataclasses.field(default_factory=dict)
    padding: tuple[int, ...] = (0, 0)
    patches: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()
    patch: int = 8
    stem_layers: int = 3

    def config(self) -> dict[str, typing.Any]:
        """config.json, as it is handed to transformers."""
        return {
            "text_config": SMALL | dict(self.text),
            "vision_config": {"patch_size": self.patch, "n_layers": self.stem_layers},
            "audio_config": {"mel_vocab_size": 16},
            "image_token_id": IMAGE,
            "audio_token_id": AUDIO,
            "image_bos_token_id": 92,
            "audio_bos_token_id": 93,
        }

    def inputs(self) -> dict[str, np.ndarray]:
        """Arrays named as the published forward takes them."""
        rng = np.random.RandomState(zlib.crc32(self.name.encode()))
        ids = rng.randint(0, 90, (len(self.padding), self.length))
        mask = np.arange(self.length) >= np.array(self.padding)[:, None]
        out: dict[str, np.ndarray] = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
        free = [list(rng.permutation(np.flatnonzero(row))) for row in mask]
        for token, counts in ((IMAGE, self.patches), (AUDIO, self.frames)):
            for row, count in enumerate(counts):
                for _ in range(count):
                    ids[row, free[row].pop()] = token
        if self.patches:
            shape = (sum(self.patches), 2, self.patch, self.patch, 3)
            out["pixel_values"] = rng.standard_normal(shape).astype(np.float32)
        if self.frames:
            size = (len(self.frames), max(self.frames) + 1, 80)
            out["audio_input_ids"] = rng.randint(0, 16, size).astype(np.int32)
            out["audio_input_ids_mask"] = np.arange(size[1]) < np.array(self.frames)[:, None]
        return out


CASES = (
    Case("mixed", 37),
    Case("one_shared", 29, {"n_shared_experts": 1, "num_experts_per_tok": 3}, padding=(0, 11)),
    Case("log_scaling", 41, {"log_scaling_n_floor": 6, "route_scale": 2.5}, padding=(4, 0)),
    Case(
        "own_heads", 27,
        {
            "swa_num_attention_heads": 6, "swa_num_key_value_heads": 3, "swa_head_dim": 4,
            "num_hidden_layers": 4,
            "layer_types": ["hybrid", "hybrid", "hybrid_sliding", "hybrid_sliding"],
            "mlp_layer_types": ["sparse", "dense", "sparse", "dense"],
            "unpadded_vocab_size": 91,
        },
    ),
    Case(
        "widths", 19,
        {
            "layer_types": ["hybrid_sliding"] * 3, "conv_kernel_size": 3, "rms_norm_eps": 1e-5,
            "log_scaling_alpha": 0.3, "sliding_window_size": 5, "num_attention_heads": 2,
            "num_key_value_heads": 1, "logits_mup_width_multiplier": 3.0,
        },
        padding=(0, 3),
    ),
    Case("image", 33, padding=(0, 5), patches=(2, 3)),
    Case("audio", 35, {"layer_types": ["hybrid"] * 3}, padding=(7, 0), frames=(4, 2)),
    Case("image_audio", 31, {"unpadded_vocab_size": 90}, patches=(0, 4), frames=(3, 5)),
    Case(
        "long", 333,
        {"sliding_window_size": 70, "rel_extent": 100, "log_scaling_n_floor": 128},
        padding=(0,),
    ),
)  # fmt: skip


KEPT = {"long": 6}  # of a golden's positions every n-th is kept: 6th, or 2nd if not said


def random_case(seed: int) -> Case:
    """A case whose every choice is drawn."""
    rng = np.random.RandomState(seed)
    layers = int(rng.randint(2, 6))

    def kinds(*names: str) -> list[str]:
        return [names[i] for i in rng.randint(0, 2, layers)]

    def one(*values):
        return values[rng.randint(len(values))]

    kv, own_kv = int(rng.randint(1, 4)), int(rng.randint(1, 4))
    length = int(rng.randint(2, 90))
    experts = int(rng.randint(2, 9))
    text = {
        "num_hidden_layers": layers,
        "hidden_size": one(24, 32, 40),
        "num_attention_heads": kv * one(1, 2, 3),
        "num_key_value_heads": kv,
        "head_dim": one(4, 8, 12),
        "swa_num_attention_heads": own_kv * one(1, 2, 3),
        "swa_num_key_value_heads": own_kv,
        "swa_head_dim": one(4, 8, 10),
        "sliding_window_size": int(rng.randint(1, 40)),
        "rel_extent": int(rng.randint(1, 60)),
        "d_rel": int(rng.randint(1, 9)),
        "local_layer_ids": None,
        "layer_types": kinds("hybrid", "hybrid_sliding"),
        "mlp_layer_types": kinds("dense", "sparse"),
        "n_routed_experts": experts,
        "num_experts_per_tok": int(rng.randint(1, experts + 1)),
        "n_shared_experts": one(1, 2),
        "log_scaling_n_floor": one(None, 4, 20),
        "unpadded_vocab_size": one(None, 91),
        "conv_kernel_size": one(2, 4),
    }
    padding = tuple(one(0, int(rng.randint(0, length - 1))) for _ in range(one(1, 2, 3)))
    return Case(f"random{seed}", length, text, padding)


def weights(shapes: Mapping[str, typing.Any]) -> dict[str, np.ndarray]:
    """Tensors in the published spelling, each from its name alone, at scales that let every part
    be seen in the logits. (RandomState's stream is frozen, unlike Generator's.)"""
    out = {}
    for name, shape in shapes.items():
        rng = np.random.RandomState(zlib.crc32(name.encode()))
        x = rng.standard_normal(tuple(shape))
        if "norm" in name or "global_scale" in name:
            x = 1 + 0.3 * x
        elif "sconv" in name or name.endswith("gate.bias"):
            x = 0.3 * x
        elif not name.endswith(("embed.weight", "encoder.weight", "proj")):
            x = x / np.sqrt(shape[-1])
        out[name] = x.astype(np.float32)
    return out


def write(directory: pathlib.Path, config: str, shapes: Mapping[str, typing.Any]) -> pathlib.Path:
    """A checkpoint directory of `weights`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(config)
    save_file(weights(shapes), directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """max |a - b| / max |b|."""
    assert a.shape == b.shape and a.dtype == b.dtype == np.float32, (a.shape, b.shape, a.dtype)
    return float(np.abs(a - b).max() / np.abs(b).max())
