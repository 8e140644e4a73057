"""The one schema of a run: frozen dataclasses, checked once.

`experiments/x.py:get_config()` returns the editable view (`default()`, an
`ml_collections.ConfigDict`); `from_config_dict` turns it into the frozen `Config` and validates it.
Nothing else defines a field.
"""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

FORMAT_VERSION = 1
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

    sample_rate: int = 16_000
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
    sample_rate: int = 16_000
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
    stream_embeddings: bool = True  # and their stream; published: False
    embedding_norm: bool = False  # RMSNorm of the embedded token; published: True
    hearing_layer: int = (
        0  # after so many layers what is said and seen is read off (a loss); 0: off
    )
    waiting_bins: int = 0  # classes of the time until it next speaks, a loss; 0: off
    log_scaling_floor: int = 0  # 0: off; published global layers: 128000
    log_scaling_alpha: float = 0.1
    norm_eps: float = 1e-6
    conv_width: int = 4
    logit_divisor: float = 1.0  # muP; published: 16
    router_bias_rate: float = 1e-3  # loss-free balancing
    grouped: str = "tiles"  # products of many rows with their experts: 'tiles' | 'ragged_dot'
    expert_exchange: str = "padded"  # on a mesh with experts: 'padded' | 'ragged' | 'ring'
    experts: str = "reference"  # decode experts (tmi_kernels): 'reference' | 'pallas_tpu'
    scan_layers: bool = False  # equal layers share one compiled body, their weights stacked
    dtype: str = "float32"  # of activations and products; parameters are f32 in training


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
    corpus: str = "corpus/train"
    dev_corpus: str = "corpus/dev"
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
    waiting_weight: float = 0.2  # of the time until it speaks, where model.waiting_bins > 0
    eom_weight: float = 0.3  # of the END of a micro-turn: most of all targets
    log_every: int = 10
    eval_every: int = 200
    eval_batches: int = 8
    save_every: int = 200
    keep: int = 2
    mesh: tuple[int, int, int, int, int] = (1, 1, 1, 1, 1)  # sizes of MESH_AXES


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    temperature: float = 0.0  # of text; 0 is greedy
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
        validate(self)


# What may differ between a checkpoint and the run that resumes it (issue: "steps, logging and
# mesh").
RESUMABLE_FIELDS = frozenset({
    "name", "train.steps", "train.log_every", "train.eval_every", "train.eval_batches",
    "train.save_every", "train.keep", "train.mesh", "data.num_threads", "data.prefetch",
    "decode.temperature", "decode.slots", "decode.seed",
})  # fmt: skip


def _require(ok: bool, field: str, value: Any, accepted: str) -> None:
    if not ok:
        raise ConfigError(f"config.{field}={value!r} cannot work: {accepted}")


def _whole(x: float) -> bool:
    return abs(x - round(x)) < 1e-6


# Numbers are positive but for these.
_ANY_SIGN = frozenset({"audio.log_min", "audio.log_max", "speech.mean", "flow.t_mean"})
_SHARES = frozenset({
    "flow.t_zero", "optimizer.decay_fraction", "optimizer.b1", "optimizer.b2", "optimizer.ema",
})  # fmt: skip
_ZERO_ACCEPTED = frozenset({
    "audio.power_floor",
    "speech.fmin", "speech.griffin_lim_iters", "speech.look_ahead", "model.num_dense_layers",
    "model.num_shared_experts", "model.time_frequencies", "model.log_scaling_floor",
    "model.log_scaling_alpha", "model.sliding_num_heads", "model.sliding_num_kv_heads",
    "model.sliding_head_dim", "model.global_bias_extent", "text.unpadded_vocab_size",
    "model.hearing_layer", "model.waiting_bins", "train.hearing_weight", "train.waiting_weight",
    "model.router_bias_rate", "flow.t_std", "flow.context_noise", "flow.silence_weight",
    "flow.temperature", "data.video_slots", "data.speech_slots", "data.seed", "data.num_threads",
    "data.prefetch", "optimizer.muon_learning_rate", "optimizer.adam_learning_rate",
    "optimizer.warmup_steps", "optimizer.final_scale",
    "optimizer.weight_decay", "optimizer.clip_norm", "train.seed", "train.text_weight",
    "train.speech_weight", "train.eom_weight", "train.eval_every", "train.eval_batches",
    "train.save_every", "decode.temperature", "decode.seed",
})  # fmt: skip


def _validate_numbers(c: Config) -> None:
    """Every number by itself: finite and of the right sign."""
    for field, value in flatten(c).items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        _require(math.isfinite(value), field, value, "a finite number")
        if field in _SHARES:
            _require(0 <= value <= 1, field, value, "between 0 and 1")
        elif field in _ZERO_ACCEPTED:
            _require(value >= 0, field, value, "0 or more")
        elif field not in _ANY_SIGN:
            _require(value > 0, field, value, "a positive number")


def _validate_streams(c: Config) -> int:
    """Positions of a micro-turn that config.streams may take at most."""
    from tmi import streams  # which needs ConfigError

    _require(len(set(c.streams)) == len(c.streams), "streams", c.streams, "each stream once")
    found = streams.of(c)
    for name, stream in found.items():
        _require(
            stream.slots(c) >= stream.MOST, "data.row_length", c.data.row_length,
            f"a longer row: in this one tmi/streams/{name}.py has {stream.slots(c)} slots, and a "
            f"micro-turn may need {stream.MOST}",
        )  # fmt: skip
    return sum(stream.MOST for stream in found.values())


def _validate_data(c: Config, audio: int, speech: int) -> None:
    """A row holds a micro-turn of `audio` and `speech` positions; skills are weighted once."""
    d, t, video = c.data, c.microturn, c.video.rows * c.video.cols
    turn = audio + video + t.max_text_in + t.max_text_out + speech + _validate_streams(c)
    _require(
        d.row_length >= turn, "data.row_length", d.row_length,
        f"at least {turn}, the positions of one micro-turn (microturn.seconds, video.rows x "
        "video.cols, microturn.max_text_in, microturn.max_text_out, streams)",
    )  # fmt: skip
    for kind, slots, need, least in (
        ("audio", d.audio_slots, audio, "at least audio positions of a micro-turn"),
        ("video", d.video_slots, video, "0 (no video is read) or at least video.rows x video.cols"),
        ("speech", d.speech_slots, speech, "0 (no speech) or at least those of a micro-turn"),
    ):
        enough = slots >= need or (slots == 0 and kind != "audio")
        _require(enough, f"data.{kind}_slots", slots, f"{least} = {need}")
    weights = d.skill_weights
    pairs = all(
        isinstance(x, tuple) and len(x) == 2
        and isinstance(x[0], str) and isinstance(x[1], int | float) and 0 <= x[1] < math.inf
        for x in weights
    )  # fmt: skip
    _require(
        pairs and (not weights or any(w > 0 for _, w in weights)), "data.skill_weights", weights,
        "pairs (skill, weight >= 0), one weight > 0 at least; () for the corpus's own mixture",
    )  # fmt: skip
    once = len({name for name, _ in weights}) == len(weights)
    _require(once, "data.skill_weights", weights, "each skill once")


def _validate_layers(m: ModelConfig) -> None:
    """Which layers are of which kind, and the sliding ones' own heads."""
    for name in ("dense_layers", "global_layers"):
        chosen = getattr(m, name)
        whole = all(isinstance(i, int) and 0 <= i < m.num_layers for i in chosen)
        _require(
            whole and len(set(chosen)) == len(chosen), f"model.{name}", chosen,
            f"layers 0 to {m.num_layers - 1}, each once; () for the first or every n-th",
        )  # fmt: skip
    heads = m.sliding_num_heads or m.num_heads
    kv_heads = m.sliding_num_kv_heads or m.num_kv_heads
    own = "sliding_num_kv_heads" if m.sliding_num_kv_heads else "sliding_num_heads"
    _require(
        heads % kv_heads == 0, f"model.{own}", getattr(m, own),
        f"0 (as global layers), or query heads ({heads}) a multiple of kv heads ({kv_heads})",
    )  # fmt: skip


def _validate_stem(v: VideoConfig) -> None:
    pairs = all(
        isinstance(f, tuple) and len(f) == 2 and all(isinstance(n, int) and n >= 1 for n in f)
        for f in v.folds
    )
    _require(
        bool(v.folds) and pairs and math.prod(t for t, _ in v.folds) == 2, "video.folds", v.folds,
        "pairs (frames, pixels) whose frames multiply to 2",
    )  # fmt: skip
    side = math.prod(n for _, n in v.folds)
    folded = " x ".join(str(n) for _, n in v.folds)
    _require(v.patch == side, "video.patch", v.patch, f"{side}: the stem folds {folded} pixels")
    ok = len(v.stem_channels) == len(v.folds) - 1
    ok = ok and all(isinstance(n, int) and n >= 1 for n in v.stem_channels)
    _require(
        ok, "video.stem_channels", v.stem_channels,
        "positive widths, one for each of video.folds but the last (three for the published ones)",
    )  # fmt: skip


_NAMES = {  # what a field of few values accepts
    "video.gelu": ("tanh", "erf"),
    "video.pixels": ("unit", "clip"),
    "model.position_bias": ("token", "microturn", "both"),
    "model.dtype": ("float32", "bfloat16"),
    "model.grouped": ("tiles", "ragged_dot"),
    "model.expert_exchange": ("padded", "ragged", "ring"),
    "model.experts": ("reference", "pallas_tpu"),
    "optimizer.moment_dtype": ("float32", "bfloat16"),
}


def validate(c: Config) -> None:
    """Raises ConfigError, naming the field and what is accepted, unless `c` can run."""
    for field, names in _NAMES.items():
        section, name = field.split(".")
        value = getattr(getattr(c, section), name)
        _require(value in names, field, value, ", ".join(map(repr, names)) + " are accepted")
    m, a, s, t = c.model, c.audio, c.speech, c.microturn
    _validate_numbers(c)
    positions = t.seconds / a.hop_s / a.frames_per_position
    _require(
        _whole(positions), "microturn.seconds", t.seconds,
        "a whole number of dMel positions (audio.frames_per_position="
        f"{a.frames_per_position} frames of audio.hop_s={a.hop_s} s each)",
    )  # fmt: skip
    patches = t.seconds * s.sample_rate / s.hop / s.frames_per_position
    _require(
        _whole(patches), "microturn.seconds", t.seconds,
        "a whole number of speech patches (speech.frames_per_position="
        f"{s.frames_per_position} frames "
        f"of speech.hop={s.hop} samples at speech.sample_rate={s.sample_rate} Hz each)",
    )  # fmt: skip
    less = f"less than audio.log_max={a.log_max}"
    _require(a.log_min < a.log_max, "audio.log_min", a.log_min, less)
    _require(a.num_levels <= 256, "audio.num_levels", a.num_levels, "at most 256: levels are bytes")
    _require(
        s.fmin < s.fmax <= s.sample_rate / 2, "speech.fmax", s.fmax,
        "more than speech.fmin and at most half of speech.sample_rate",
    )  # fmt: skip
    _require(t.max_text_out >= 2, "microturn.max_text_out", t.max_text_out, "at least 2 tokens")
    _require(t.max_text_in >= 1, "microturn.max_text_in", t.max_text_in, "at least 1 token")
    blocks = t.kv_block >= 16 and t.kv_block % 16 == 0
    _require(blocks, "microturn.kv_block", t.kv_block, "a multiple of 16")
    _require(
        s.sample_rate == a.sample_rate,
        "speech.sample_rate",
        s.sample_rate,
        "equal to audio.sample_rate",
    )
    _require(s.window <= s.n_fft, "speech.window", s.window, f"at most speech.n_fft={s.n_fft}")
    _require(
        m.num_heads % m.num_kv_heads == 0,
        "model.num_heads",
        m.num_heads,
        "a multiple of model.num_kv_heads",
    )
    _require(
        1 <= m.num_experts_per_token <= m.num_experts,
        "model.num_experts_per_token",
        m.num_experts_per_token,
        "between 1 and model.num_experts",
    )
    _require(
        0 <= m.num_dense_layers <= m.num_layers,
        "model.num_dense_layers",
        m.num_dense_layers,
        "between 0 and model.num_layers",
    )
    _validate_layers(m)
    _require(
        c.text.unpadded_vocab_size <= c.text.vocab_size, "text.unpadded_vocab_size",
        c.text.unpadded_vocab_size, f"0 (off) to text.vocab_size={c.text.vocab_size}",
    )  # fmt: skip
    _require(
        s.enabled or c.data.speech_slots == 0, "speech.enabled", s.enabled,
        "True, or data.speech_slots=0: a model without a flow head reads no speech",
    )  # fmt: skip
    _require(m.conv_width >= 1, "model.conv_width", m.conv_width, "at least 1")
    _require(
        c.optimizer.moment_dtype == "float32" or c.optimizer.b2 <= 0.98,
        "optimizer.moment_dtype", c.optimizer.moment_dtype,
        "'float32' where optimizer.b2 > 0.98: eight bits would not see a step's share",
    )  # fmt: skip
    _require(
        c.data.batch_size % c.train.micro_batches == 0,
        "train.micro_batches", c.train.micro_batches,
        f"a divisor of data.batch_size={c.data.batch_size}",
    )  # fmt: skip
    _require(
        c.data.row_length % c.train.loss_chunks == 0,
        "train.loss_chunks", c.train.loss_chunks,
        f"a divisor of data.row_length={c.data.row_length}",
    )  # fmt: skip
    _require(
        not (m.scan_layers and m.hearing_layer),
        "model.scan_layers",
        m.scan_layers,
        "False where model.hearing_layer > 0",
    )
    _require(
        c.data.row_length % t.kv_block == 0,
        "data.row_length",
        c.data.row_length,
        f"a multiple of microturn.kv_block={t.kv_block}",
    )
    _require(c.data.batch_size >= 1, "data.batch_size", c.data.batch_size, "at least 1 row")
    _require(
        c.data.batch_size % c.data.shards == 0, "data.shards", c.data.shards,
        f"a divisor of data.batch_size={c.data.batch_size}",
    )  # fmt: skip
    whole = all(isinstance(n, int) and n >= 1 for n in c.train.mesh)
    _require(
        len(c.train.mesh) == len(MESH_AXES) and whole,
        "train.mesh",
        c.train.mesh,
        f"five sizes >= 1, for {MESH_AXES}",
    )
    _require(
        c.data.batch_size % (c.train.mesh[0] * c.train.mesh[1]) == 0,
        "data.batch_size",
        c.data.batch_size,
        "a multiple of the data x fsdp sizes of train.mesh",
    )
    _validate_data(c, round(positions), round(patches))
    _require(
        m.hearing_layer <= m.num_layers, "model.hearing_layer", m.hearing_layer,
        f"0 (off) to model.num_layers={m.num_layers}",
    )  # fmt: skip
    _validate_stem(c.video)


def default() -> ConfigDict:
    """The editable view of the defaults; unknown fields and wrong types raise on assignment."""
    return to_config_dict(Config())


def to_config_dict(config: Config) -> ConfigDict:
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
    return from_config_dict(data["config"])
