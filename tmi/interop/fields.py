"""config.json of a published Inkling checkpoint <-> our Config.

Fields that the file leaves out have the defaults of transformers (models.inkling, >= 5.23); both
its spellings and those of the published files are read.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping

from tmi import config as config_lib
from tmi.config import Config
from tmi.interop.stem import stem_plan
from tmi.interop.tensors import InteropError
from tmi.media.text import NUM_SPECIALS, Tokenizer
from tmi.models.transformer import dense_layers, spans

MULTIMODAL, TEXT_ONLY = "inkling_mm_model", "inkling_text"
SLIDING, GLOBAL = "hybrid_sliding", "hybrid"
TOKEN_IDS = {
    "image_token_id": 200054,
    "audio_token_id": 200053,
    "image_bos_token_id": 200005,
    "audio_bos_token_id": 200020,
}
POWER_FLOOR = 1e-10  # of the published feature extractor
# What a section leaves out.
TEXT: dict[str, typing.Any] = {
    "vocab_size": 201024, "unpadded_vocab_size": None, "hidden_size": 6144,
    "num_hidden_layers": 66, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128,
    "swa_num_attention_heads": 64, "swa_num_key_value_heads": 16, "swa_head_dim": 128,
    "sliding_window_size": 512, "d_rel": 16, "rel_extent": 1024, "log_scaling_n_floor": None,
    "log_scaling_alpha": 0.1, "local_layer_ids": None, "layer_types": None,
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "conv_kernel_size": 4,
    "mlp_layer_types": None, "dense_mlp_idx": 0, "intermediate_size": 24576,
    "dense_intermediate_size": None, "hidden_act": "silu", "moe_intermediate_size": 3072,
    "n_routed_experts": 256, "num_experts_per_tok": 6, "n_shared_experts": 2,
    "shared_expert_sink": True, "route_scale": 8.0, "logits_mup_width_multiplier": 24.0,
}  # fmt: skip
AUDIO: dict[str, typing.Any] = {"n_mel_bins": 80, "mel_vocab_size": 256}
VISION: dict[str, typing.Any] = {
    "patch_size": 40, "temporal_patch_size": 2, "num_channels": 3, "n_layers": 24,
}  # fmt: skip
SPELLINGS = {  # the other names of a field
    "sliding_window_size": "sliding_window",
    "max_position_embeddings": "model_max_length",
    "conv_kernel_size": "sconv_kernel_size",
    "n_routed_experts": "num_local_experts",
    "logits_mup_width_multiplier": "embedding_multiplier",
    "n_mel_bins": "num_codebooks",
    "mel_vocab_size": "codebook_size",
    "n_layers": "num_hidden_layers",
}


def _spelled(name: str) -> tuple[str, ...]:
    return (name, SPELLINGS[name]) if name in SPELLINGS else (name,)


def _read(section: Mapping | None, defaults: Mapping) -> dict[str, typing.Any]:
    given = section or {}

    def value(name: str, default):
        found = next((given[n] for n in _spelled(name) if n in given), default)
        number = isinstance(default, int | float) and not isinstance(default, bool)
        if number and (isinstance(found, bool) or not isinstance(found, int | float)):
            raise InteropError(f"config.json: {name}={found!r}; a number is accepted")
        return found

    return {name: value(name, default) for name, default in defaults.items()}


def is_text_only(raw: Mapping) -> bool:
    """Whether config.json is that of a backbone without towers. Raises InteropError if it is of
    neither kind."""
    kind = raw.get("model_type")
    if kind not in (MULTIMODAL, TEXT_ONLY):
        raise InteropError(
            f"config.json has model_type={kind!r}; accepted are {MULTIMODAL!r} and {TEXT_ONLY!r}"
        )
    return kind == TEXT_ONLY


# -- theirs to ours ------------------------------------------------------------------------------


def to_config(raw: Mapping) -> Config:
    """The Config of a model that computes what the checkpoint's does.

    Raises InteropError naming the field that this code does not know how to compute.
    """
    text_only = is_text_only(raw)
    t = _read(raw if text_only else raw.get("text_config"), TEXT)
    for where, section in (("", raw), ("text_config.", raw.get("text_config") or {})):
        if section.get("quantization_config"):
            raise InteropError(
                f"config.json: {where}quantization_config is set; only unquantised checkpoints "
                "(float32, bfloat16, float16) are read"
            )
    for name, accepted in (("hidden_act", "silu"), ("shared_expert_sink", True)):
        if t[name] != accepted:
            raise InteropError(f"config.json: {name}={t[name]!r}; accepted is {accepted!r}")
    if t["n_shared_experts"] < 1:
        raise InteropError(
            f"config.json: n_shared_experts={t['n_shared_experts']!r}; 1 or more are accepted"
        )
    layers = t["num_hidden_layers"]
    default = Config()
    kv_block = default.microturn.kv_block
    expert_width, mlp_width = t["moe_intermediate_size"], t["intermediate_size"]
    if t["dense_intermediate_size"] is not None:
        expert_width, mlp_width = t["intermediate_size"], t["dense_intermediate_size"]
    model = dataclasses.replace(
        default.model,
        width=t["hidden_size"],
        num_layers=layers,
        mlp_width=mlp_width,
        mlp_scale=True,
        **_dense(_mlp_types(t), layers),
        **_global(_layer_types(t), layers),
        num_heads=t["num_attention_heads"],
        num_kv_heads=t["num_key_value_heads"],
        head_dim=t["head_dim"],
        sliding_num_heads=_unless(t["swa_num_attention_heads"], t["num_attention_heads"]),
        sliding_num_kv_heads=_unless(t["swa_num_key_value_heads"], t["num_key_value_heads"]),
        sliding_head_dim=_unless(t["swa_head_dim"], t["head_dim"]),
        num_experts=t["n_routed_experts"],
        num_experts_per_token=t["num_experts_per_tok"],
        num_shared_experts=t["n_shared_experts"],
        expert_width=expert_width,
        route_scale=float(t["route_scale"]),
        window=t["sliding_window_size"],
        global_blocks=-(-t["max_position_embeddings"] // kv_block),
        position_bias="token",
        bias_rank=t["d_rel"],
        bias_extent=t["sliding_window_size"],
        global_bias_extent=t["rel_extent"],
        qk_gain=1.0,
        clock_features=False,
        clock_digits=0,
        stream_embeddings=False,
        embedding_norm=True,
        hearing_layer=0,
        spelling=False,
        waiting_bins=0,
        log_scaling_floor=t["log_scaling_n_floor"] or 0,
        log_scaling_alpha=float(t["log_scaling_alpha"]),
        norm_eps=float(t["rms_norm_eps"]),
        conv_width=t["conv_kernel_size"],
        logit_divisor=float(t["logits_mup_width_multiplier"]),
    )
    unpadded = t["unpadded_vocab_size"]
    text = dataclasses.replace(
        default.text,
        vocab_size=t["vocab_size"],
        unpadded_vocab_size=unpadded if unpadded and unpadded < t["vocab_size"] else 0,
    )
    towers = {} if text_only else _towers(raw, default)
    try:
        return dataclasses.replace(
            default,
            name="inkling",
            model=model,
            text=text,
            speech=dataclasses.replace(default.speech, enabled=False),
            data=dataclasses.replace(default.data, speech_slots=0),
            **towers,
        )
    except config_lib.ConfigError as e:
        raise InteropError(f"config.json cannot be ours: {e}") from e


def _towers(raw: Mapping, default: Config) -> dict[str, typing.Any]:
    a = _read(raw.get("audio_config"), AUDIO)
    v = _read(raw.get("vision_config"), VISION)
    for name, accepted in (("temporal_patch_size", 2), ("num_channels", 3)):
        if v[name] != accepted:
            raise InteropError(
                f"config.json: vision_config.{name}={v[name]!r}; accepted is {accepted!r}"
            )
    folds, widths = stem_plan(v["n_layers"], v["patch_size"])
    return {
        "audio": dataclasses.replace(
            default.audio,
            num_mels=a["n_mel_bins"],
            num_levels=a["mel_vocab_size"],
            power_floor=POWER_FLOOR,
            frames_per_position=1,
        ),
        "video": dataclasses.replace(
            default.video,
            patch=v["patch_size"],
            folds=folds,
            stem_channels=widths,
            gelu="erf",
            pixels="clip",
        ),
    }


def _unless(own: int, general: int) -> int:
    return 0 if own == general else own


def _layer_types(t: Mapping) -> list[str]:
    layers = t["num_hidden_layers"]
    if t["layer_types"] is not None:
        return list(t["layer_types"])
    local = t["local_layer_ids"]
    if local is None:
        local = [i for i in range(layers) if (i + 1) % 6]
    return [SLIDING if i in set(local) else GLOBAL for i in range(layers)]


def _mlp_types(t: Mapping) -> list[str]:
    if t["mlp_layer_types"] is not None:
        return list(t["mlp_layer_types"])
    return ["dense" if i < t["dense_mlp_idx"] else "sparse" for i in range(t["num_hidden_layers"])]


def _chosen(kinds: list[str], layers: int, name: str, of: str, accepted: tuple[str, str]):
    wrong = sorted(set(kinds) - set(accepted))
    if wrong or len(kinds) != layers:
        raise InteropError(
            f"config.json: {name} has {len(kinds)} entries {wrong or ''} for {layers} layers; "
            f"accepted is one of {accepted} a layer"
        )
    return tuple(i for i, kind in enumerate(kinds) if kind == of)


def _global(kinds: list[str], layers: int) -> dict[str, typing.Any]:
    chosen = _chosen(kinds, layers, "layer_types", GLOBAL, (SLIDING, GLOBAL))
    for every in range(1, layers + 2):
        if chosen == tuple(range(every - 1, layers, every)):
            return {"global_every": every, "global_layers": ()}
    return {"global_every": 1, "global_layers": chosen}


def _dense(kinds: list[str], layers: int) -> dict[str, typing.Any]:
    chosen = _chosen(kinds, layers, "mlp_layer_types", "dense", ("dense", "sparse"))
    if chosen == tuple(range(len(chosen))):
        return {"num_dense_layers": len(chosen), "dense_layers": ()}
    return {"num_dense_layers": 0, "dense_layers": chosen}


# -- ours to theirs ------------------------------------------------------------------------------


def published_shape(config: Config) -> Config:
    """The same transformer without what we add to the published block."""
    model = dataclasses.replace(
        config.model, position_bias="token", qk_gain=1.0, clock_features=False,
        stream_embeddings=False, embedding_norm=True, mlp_scale=True, hearing_layer=0,
        spelling=False, waiting_bins=0, clock_digits=0,
    )  # fmt: skip
    return dataclasses.replace(
        config,
        model=model,
        audio=dataclasses.replace(config.audio, frames_per_position=1, power_floor=1e-10),
        video=dataclasses.replace(
            config.video, folds=((2, 40),), stem_channels=(), gelu="erf", pixels="clip", rows=1,
            cols=1,
        ),
        speech=dataclasses.replace(config.speech, enabled=False),
        data=dataclasses.replace(config.data, speech_slots=0),
    )  # fmt: skip


def refusals(c: Config) -> list[str]:
    """What of a Config the published format cannot hold, each by the name of its field."""
    m, a, v, audio = c.model, c.audio, c.video, Config().audio
    wanted: list[tuple[str, typing.Any, typing.Any]] = [
        ("streams", c.streams, ()),
        ("speech.enabled", c.speech.enabled, False),
        ("model.position_bias", m.position_bias, "token"),
        ("model.clock_features", m.clock_features, False),
        ("model.clock_digits", m.clock_digits, 0),
        ("model.stream_embeddings", m.stream_embeddings, False),
        ("model.embedding_norm", m.embedding_norm, True),
        ("model.hearing_layer", m.hearing_layer, 0),
        ("model.spelling", m.spelling, False),
        ("model.waiting_bins", m.waiting_bins, 0),
        ("audio.frames_per_position", a.frames_per_position, 1),
        ("video.gelu", v.gelu, "erf"),
        ("video.pixels", v.pixels, "clip"),
        ("audio.power_floor", a.power_floor, POWER_FLOOR),
        *(
            (f"audio.{n}", getattr(a, n), getattr(audio, n))
            for n in ("sample_rate", "window_s", "hop_s", "log_min", "log_max")
        ),
    ]
    out = [f"{name}={have!r} (it holds {want!r})" for name, have, want in wanted if have != want]
    if Tokenizer.load(c.text.tokenizer).moved:
        out.append(
            f"text.tokenizer={c.text.tokenizer!r}, whose first tokens gave way to ours (it holds "
            "tokens in the published order)"
        )
    if m.num_shared_experts == 0 and len(dense_layers(m)) < m.num_layers:
        out.append("model.num_shared_experts=0 (it holds 1 or more)")
    if _stem_layers(c) is None:
        accepted = [stem_plan(n, v.patch) for n in range(1, 6)]
        plans = "; ".join(f"{f} with {w}" for f, w in accepted)
        out.append(
            f"video.folds={v.folds!r} with video.stem_channels={v.stem_channels!r} "
            f"(it holds {plans})"
        )
    return out


def _stem_layers(c: Config) -> int | None:
    found = (n for n in range(1, 33) if stem_plan(n, c.video.patch) == _stem(c))
    return next(found, None)


def _stem(c: Config):
    return c.video.folds, c.video.stem_channels


def _without_types(raw: Mapping) -> dict[str, typing.Any]:
    """What a checkpoint said of its arrays' type does not hold for those that are written."""
    return {
        k: _without_types(v) if isinstance(v, Mapping) else v
        for k, v in raw.items()
        if k not in ("dtype", "torch_dtype")
    }


def from_config(c: Config, carried: Mapping | None = None) -> dict[str, typing.Any]:
    """config.json for a Config. `carried`: that of the checkpoint it was read from, whose token
    ids and other fields without an equal here are kept.

    Raises InteropError naming every field that the format cannot hold.
    """
    refused = refusals(c)
    if refused:
        raise InteropError("the published format cannot hold " + ", ".join(refused))
    m = c.model
    kept = _without_types(carried or {})
    if kept and is_text_only(kept):
        kept = {}
    text = {
        "vocab_size": c.text.vocab_size,
        "unpadded_vocab_size": c.text.unpadded_vocab_size or None,
        "hidden_size": m.width,
        "num_hidden_layers": m.num_layers,
        "num_attention_heads": m.num_heads,
        "num_key_value_heads": m.num_kv_heads,
        "head_dim": m.head_dim,
        "swa_num_attention_heads": m.sliding_num_heads or m.num_heads,
        "swa_num_key_value_heads": m.sliding_num_kv_heads or m.num_kv_heads,
        "swa_head_dim": m.sliding_head_dim or m.head_dim,
        "sliding_window_size": m.window,
        "d_rel": m.bias_rank,
        "rel_extent": m.global_bias_extent or m.bias_extent,
        "log_scaling_n_floor": m.log_scaling_floor or None,
        "log_scaling_alpha": m.log_scaling_alpha,
        "layer_types": [GLOBAL if s.blocks else SLIDING for s in spans(c)],
        "max_position_embeddings": m.global_blocks * c.microturn.kv_block,
        "rms_norm_eps": m.norm_eps,
        "conv_kernel_size": m.conv_width,
        "mlp_layer_types": [
            "dense" if i in dense_layers(m) else "sparse" for i in range(m.num_layers)
        ],
        "intermediate_size": m.mlp_width,
        "hidden_act": "silu",
        "moe_intermediate_size": m.expert_width,
        "n_routed_experts": m.num_experts,
        "num_experts_per_tok": m.num_experts_per_token,
        "n_shared_experts": m.num_shared_experts,
        "shared_expert_sink": True,
        "route_scale": m.route_scale,
        "logits_mup_width_multiplier": m.logit_divisor,
        "model_type": TEXT_ONLY,
    }
    sections = {
        "text_config": (text, TEXT),
        "audio_config": (
            {
                "n_mel_bins": c.audio.num_mels,
                "mel_vocab_size": c.audio.num_levels,
                "text_hidden_size": m.width,
                "model_type": "inkling_audio",
            },
            AUDIO,
        ),
        "vision_config": (
            {
                "patch_size": c.video.patch,
                "temporal_patch_size": 2,
                "num_channels": 3,
                "n_layers": _stem_layers(c),
                "text_hidden_size": m.width,
                "model_type": "inkling_vision",
            },
            VISION,
        ),
    }
    # Of a small vocabulary reserved tokens, which no text produces, mark images and sound.
    marks = range(NUM_SPECIALS - len(TOKEN_IDS), NUM_SPECIALS)
    small = c.text.vocab_size <= max(TOKEN_IDS.values())
    out = {
        **(dict(zip(TOKEN_IDS, marks, strict=True)) if small else TOKEN_IDS),
        **kept,
        "architectures": ["InklingForConditionalGeneration"],
        "model_type": MULTIMODAL,
    }
    for name, (values, known) in sections.items():
        spelled = {s for n in known for s in _spelled(n)}
        own = {k: x for k, x in (kept.get(name) or {}).items() if k not in spelled}
        out[name] = own | values
    return out
