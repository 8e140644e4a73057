"""The one schema of a run: frozen dataclasses, checked once.

`experiments/x.py:get_config()` returns the editable view (`default()`, an
`ml_collections.ConfigDict`); `from_config_dict` turns it into the frozen `Config` and validates it.
Nothing else defines a field; what values go together is in config_rules.py.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

FORMAT_VERSION = 1
SAMPLE_RATE = 16_000  # of all sound: records, traces, files
if typing.TYPE_CHECKING:
    View = Any  # sections and fields of a ConfigDict are attributes that no checker knows
else:
    View = ConfigDict

MESH_AXES = ("data", "fsdp", "expert", "sequence", "tensor")


class ConfigError(ValueError):
    """A field has a value that cannot work; the message names the field and what is accepted."""


@dataclasses.dataclass(frozen=True)
class MicroturnConfig:
    """The clock and the layout of a micro-turn."""

    seconds: float = 0.2  # length of a micro-turn
    max_text_in: int = 8  # tokens of typed text read per micro-turn; the rest waits for the next
    max_text_out: int = 8  # tokens of text written per micro-turn, the END token included
    kv_block: int = 64  # packed sessions start at multiples of this many positions


@dataclasses.dataclass(frozen=True)
class AudioConfig:
    """Audio in: dMel (1-system section 3)."""

    sample_rate: int = SAMPLE_RATE
    window_s: float = 0.1
    hop_s: float = 0.05
    num_mels: int = 80
    num_levels: int = 16
    log_min: float = -7.0
    log_max: float = 2.0
    power_floor: float = 0.0  # of |STFT|^2: what digital silence counts as; published: 1e-10
    frames_per_position: int = 4  # 1 in the published block: a position every 50 ms


@dataclasses.dataclass(frozen=True)
class VideoConfig:
    """Video in: rows x cols patches of patch x patch pixels, two frames of each; the hMLP stem."""

    patch: int = 40
    rows: int = 1
    cols: int = 1
    # What each linear layer of the stem folds: (frames, pixels along either side).
    folds: tuple[tuple[int, int], ...] = ((1, 5), (1, 2), (1, 4), (2, 1))
    stem_channels: tuple[int, ...] = (24, 48, 96)  # published: (128, 320, 4800)
    gelu: str = "tanh"  # 'tanh' | 'erf'; published: 'erf'
    pixels: str = "unit"  # 'unit': [-1, 1] | 'clip': CLIP's mean and deviation; published: 'clip'


@dataclasses.dataclass(frozen=True)
class TextConfig:
    tokenizer: str = "bpe512"  # a file of tmi/media/vocab
    vocab_size: int = 512
    unpadded_vocab_size: int = 0  # logits beyond it are cut off; 0: all of vocab_size are tokens


@dataclasses.dataclass(frozen=True)
class SpeechConfig:
    """Audio out: log-mel frames with a finer hop than dMel, and the waveform stage."""

    enabled: bool = True  # False: no flow head and no fed-back speech; published: False
    sample_rate: int = SAMPLE_RATE
    hop: int = 200  # samples: 12.5 ms
    window: int = 800  # samples: 50 ms
    n_fft: int = 1024
    num_mels: int = 80
    fmin: float = 0.0
    fmax: float = 8000.0
    floor: float = 1e-3  # of the mel magnitude, before the logarithm
    mean: float = -5.0  # of ln magnitude over sounding frames of the corpus' model voice
    std: float = 1.7
    frames_per_position: int = 16  # mel frames of one AUDIO_OUT position (a patch)
    griffin_lim_iters: int = 8
    look_ahead: int = 1  # hops of delay of the waveform stage


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The Inkling-style transformer."""

    width: int = 192
    num_layers: int = 6
    num_dense_layers: int = 2  # the first ones; the others are mixtures of experts
    dense_layers: tuple[int, ...] = ()  # if not the first ones: which, counted from 0
    global_every: int = 3  # every n-th layer is global, the others slide
    global_layers: tuple[int, ...] = ()  # if not every n-th: which, counted from 0
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 48
    sliding_num_heads: int = 0  # of sliding layers; 0: those of the global ones
    sliding_num_kv_heads: int = 0
    sliding_head_dim: int = 0
    mlp_width: int = 320  # of a dense layer
    mlp_scale: bool = False  # a learned scale of a dense layer's output; published: True
    num_experts: int = 8
    num_experts_per_token: int = 2
    num_shared_experts: int = 1
    expert_width: int = 80
    route_scale: float = 1.0  # published: 8
    window: int = 64  # positions a sliding layer sees
    global_blocks: int = 12  # kv_blocks a global layer keeps, its own included
    position_bias: str = "both"  # 'token' | 'microturn' | 'both'
    bias_rank: int = 16
    bias_extent: int = 64  # token distance beyond which the learned bias is zero
    global_bias_extent: int = 0  # that of global layers; 0: the same
    qk_gain: float = 2.0  # initial gain of the norms on q and k; published: 1
    time_frequencies: int = 12  # Fourier features of the micro-turn distance
    time_max_microturns: int = 1024  # the longest period among them
    clock_features: bool = True  # positions are told the session's time; published: False
    clock_digits: int = 0  # and its decimal digits, tenths of a second first; 0: not
    stream_embeddings: bool = True  # and their stream; published: False
    embedding_norm: bool = False  # RMSNorm of the embedded token; published: True
    hearing_layer: int = (
        0  # after so many layers what is said and seen is read off (a loss); 0: off
    )
    spelling: bool = False  # that layer is asked for the letters that sound as well, a loss
    waiting_bins: int = 0  # classes of the time until it next speaks, a loss; 0: off
    log_scaling_floor: int = 0  # 0: off; published global layers: 128000
    log_scaling_alpha: float = 0.1
    norm_eps: float = 1e-6
    conv_width: int = 4
    logit_divisor: float = 1.0  # muP; published: 16
    router_bias_rate: float = 1e-3  # loss-free balancing
    # Products of many rows with their experts: 'tiles' | 'ragged_dot' (XLA's) | 'pallas_tpu'
    # (tmi_kernels, a row's bits those of `experts='pallas_tpu'`).
    grouped: str = "tiles"
    expert_exchange: str = "padded"  # on a mesh with experts: 'padded' | 'ragged' | 'ring'
    experts: str = "reference"  # decode experts (tmi_kernels): 'reference' | 'pallas_tpu'
    # Attention, of training rows and over a cache alike: 'reference' (XLA) | 'pallas_tpu'
    # (tmi_kernels, the same bits for both).
    attention_kernel: str = "reference"
    scan_layers: bool = False  # equal layers share one compiled body, their weights stacked
    numerics: str = "fast"  # 'invariant': bits depend on a session's history alone | 'fast'
    dtype: str = "float32"  # of activations and products; parameters are f32 in training
    lora_rank: int = 0  # of low-rank changes of attention and experts; 0: none
    lora_alpha: float = 16.0  # over the rank: what they are multiplied by


@dataclasses.dataclass(frozen=True)
class FlowConfig:
    """The flow head: AdaLN residual MLP from (noisy patch, t, hidden state) to the clean patch."""

    width: int = 224
    depth: int = 3
    steps: int = 4  # Euler steps when sampling
    draws: int = 2  # (noise, t) pairs a position in training
    t_mean: float = -1.5  # logit-normal t
    t_std: float = 1.2
    t_zero: float = 0.15  # share of draws at t = 0
    context_noise: float = 0.3  # U(0, x) noise on the fed-back context in training
    feedback_width: int = 96  # bottleneck of the fed-back patch
    silence_weight: float = 0.2  # loss weight of silent frames' patches
    temperature: float = 1.0  # of the initial noise when sampling


@dataclasses.dataclass(frozen=True)
class DataConfig:
    corpus: str = "build/corpus/train"  # several with commas between are drawn from as one
    dev_corpus: str = "build/corpus/dev"
    row_length: int = 1024  # positions of a training row
    batch_size: int = 4  # rows
    shards: int = 1  # streams that a batch's rows come from; a host reads those of its own rows
    audio_slots: int = 512  # AUDIO_IN positions a row may hold
    video_slots: int = 256
    speech_slots: int = 192
    skill_weights: tuple[tuple[str, float], ...] = ()  # mixture; () keeps the corpus's own
    augment: bool = True  # room, noise, level on line
    seed: int = 0
    num_threads: int = 2
    prefetch: int = 8


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    # 'all' | 'heads' | 'lora' | patterns of names such as 'flow.*': the others are frozen.
    trainable: tuple[str, ...] = ("all",)
    muon_learning_rate: float = 0.02
    adam_learning_rate: float = 3e-3
    warmup_steps: int = 50
    decay_fraction: float = 0.5  # the last share of the steps falls linearly to final_scale
    final_scale: float = 0.05
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.95
    muon: bool = True  # for matrices; False: Adam for all
    moment_dtype: str = "float32"  # of Adam's moments: 'float32' | 'bfloat16'
    ema: float = 0.995  # of the weights; 0: no average is kept


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    steps: int = 1000
    seed: int = 0
    remat: bool = False
    micro_batches: int = 1  # parts of a batch whose gradients are added up
    loss_chunks: int = 1  # parts of a row whose logits are in memory at a time
    text_weight: float = 1.0
    speech_weight: float = 0.5
    hearing_weight: float = 0.5  # of what is said and seen, where model.hearing_layer > 0
    spelling_weight: float = 1.0  # of the letters that sound, where model.spelling
    waiting_weight: float = 0.2  # of the time until it speaks, where model.waiting_bins > 0
    due_weight: float = 0.0  # of both losses of named times (named_times.py): due and called
    timed_weight: float = 1.0  # a factor on what is said, or not, within two seconds of them
    eom_weight: float = 0.3  # of the END of a micro-turn: most of all targets
    log_every: int = 10
    eval_every: int = 200
    eval_batches: int = 8
    save_every: int = 200
    replay_every: int = 0  # steps between replays of a live session (alignment.py); 0: none
    keep: int = 2
    mesh: tuple[int, int, int, int, int] = (1, 1, 1, 1, 1)  # sizes of MESH_AXES


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    temperature: float = 0.0  # of text; 0 is greedy
    # Added to the logit of END as first token of a micro-turn: training weighs END less than words,
    # and what a miss costs beside a false alarm is for the user to say.
    silent_bias: float = 0.0  # after a silent micro-turn: less than 0 speaks sooner
    speaking_bias: float = 0.0  # after one that spoke: more than 0 falls silent sooner
    slots: int = 1
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Config:
    name: str = "default"
    streams: tuple[str, ...] = ()  # further input streams: files of tmi/streams
    microturn: MicroturnConfig = dataclasses.field(default_factory=MicroturnConfig)
    audio: AudioConfig = dataclasses.field(default_factory=AudioConfig)
    video: VideoConfig = dataclasses.field(default_factory=VideoConfig)
    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    speech: SpeechConfig = dataclasses.field(default_factory=SpeechConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    flow: FlowConfig = dataclasses.field(default_factory=FlowConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    decode: DecodeConfig = dataclasses.field(default_factory=DecodeConfig)

    def __post_init__(self):
        from tmi.config_rules import validate  # which needs the fields above

        validate(self)


# What may differ between a checkpoint and the run that resumes it (issue: "steps, logging and
# mesh").
RESUMABLE_FIELDS = frozenset({
    "name", "train.steps", "train.log_every", "train.eval_every", "train.eval_batches",
    "train.save_every", "train.replay_every", "train.keep", "train.mesh", "data.num_threads",
    "data.prefetch",
    "decode.temperature", "decode.silent_bias", "decode.speaking_bias", "decode.slots",
    "decode.seed",
})  # fmt: skip


def default() -> View:
    """The editable view of the defaults; unknown fields and wrong types raise on assignment."""
    return to_config_dict(Config())


def to_config_dict(config: Config) -> View:
    d = ConfigDict(dataclasses.asdict(config))
    d.lock()
    return d


def from_config_dict(view: ConfigDict | Mapping) -> Config:
    """The frozen, validated config of an editable view.

    Raises ConfigError on an unknown field, a wrong type or an impossible combination.
    """
    return _build(Config, view.to_dict() if isinstance(view, ConfigDict) else dict(view), "")


def _build(cls, values: Mapping, prefix: str):
    hints = typing.get_type_hints(cls)
    fields = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - fields)
    if unknown:
        raise ConfigError(
            f"config.{prefix}{unknown[0]} does not exist; accepted: {', '.join(sorted(fields))}"
        )
    kwargs: dict[str, Any] = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]) and not isinstance(value, Mapping):
            raise ConfigError(f"config.{prefix}{name}={value!r}: a section with fields is accepted")
        if dataclasses.is_dataclass(hints[name]):
            kwargs[name] = _build(hints[name], value, f"{prefix}{name}.")
        else:
            kwargs[name] = _coerce(value, hints[name], prefix + name)
    return cls(**kwargs)


def _coerce(value: Any, hint: Any, field: str) -> Any:
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"config.{field}={value!r}: a tuple is accepted")
        return tuple(tuple(v) if isinstance(v, list | tuple) else v for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"config.{field}={value!r}: a value of type {hint.__name__} is accepted")
    return value


def flatten(config: Config) -> dict[str, Any]:
    """Dotted field name -> value."""
    out: dict[str, Any] = {}
    for section in dataclasses.fields(config):
        value = getattr(config, section.name)
        if dataclasses.is_dataclass(value):
            for f in dataclasses.fields(value):
                out[f"{section.name}.{f.name}"] = getattr(value, f.name)
        else:
            out[section.name] = value
    return out


def differing_fields(a: Config, b: Config, *, ignore=RESUMABLE_FIELDS) -> list[str]:
    """'field: a -> b' for every field whose values differ, those in `ignore` left out."""
    fa, fb = flatten(a), flatten(b)
    return [f"{k}: {fa[k]!r} -> {fb[k]!r}" for k in fa if k not in ignore and fa[k] != fb[k]]


def to_json(config: Config) -> str:
    return json.dumps(
        {"format_version": FORMAT_VERSION, "config": dataclasses.asdict(config)}, indent=1
    )


def from_json(text: str) -> Config:
    """Reads `to_json`. Raises ConfigError if it was written by another format version."""
    try:
        data = json.loads(text)
        version = data["format_version"]
    except (ValueError, TypeError, KeyError) as e:
        raise ConfigError(f"not a saved config (JSON with a format_version): {e!r}") from e
    if version != FORMAT_VERSION:
        raise ConfigError(
            f"config has format version {version}; this code reads version {FORMAT_VERSION}"
        )
    if "config" not in data:
        raise ConfigError("not a saved config: it has a format_version and no config")
    return from_config_dict(data["config"])
