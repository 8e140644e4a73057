"""What a config's values may be, each by itself and together. `validate` runs on every `Config`."""

from __future__ import annotations

import math
from typing import Any

from tmi.config import (
    MESH_AXES,
    SAMPLE_RATE,
    AudioConfig,
    Config,
    ConfigError,
    ModelConfig,
    SpeechConfig,
    VideoConfig,
    flatten,
)


def _require(ok: bool, field: str, value: Any, accepted: str) -> None:
    if not ok:
        raise ConfigError(f"config.{field}={value!r} cannot work: {accepted}")


def _whole(x: float) -> bool:
    return abs(x - round(x)) < 1e-6


# Numbers are positive but for these.
ANY_SIGN = frozenset({
    "audio.log_min", "audio.log_max", "speech.mean", "flow.t_mean", "decode.silent_bias",
    "decode.speaking_bias",
})  # fmt: skip
SHARES = frozenset({
    "flow.t_zero", "optimizer.decay_fraction", "optimizer.b1", "optimizer.b2", "optimizer.ema",
})  # fmt: skip
ZERO_ACCEPTED = frozenset({
    "audio.power_floor",
    "speech.fmin", "speech.griffin_lim_iters", "speech.look_ahead", "model.num_dense_layers",
    "model.num_shared_experts", "model.time_frequencies", "model.log_scaling_floor",
    "model.log_scaling_alpha", "model.sliding_num_heads", "model.sliding_num_kv_heads",
    "model.sliding_head_dim", "model.global_bias_extent", "text.unpadded_vocab_size",
    "model.hearing_layer", "model.waiting_bins", "model.clock_digits", "model.lora_rank",
    "model.router_bias_rate",
    "train.hearing_weight", "train.spelling_weight", "train.waiting_weight", "train.due_weight",
    "flow.t_std", "flow.context_noise", "flow.silence_weight", "flow.temperature",
    "data.video_slots", "data.speech_slots", "data.seed", "data.num_threads",
    "data.prefetch", "optimizer.muon_learning_rate", "optimizer.adam_learning_rate",
    "optimizer.warmup_steps", "optimizer.final_scale",
    "optimizer.weight_decay", "optimizer.clip_norm", "train.seed", "train.text_weight",
    "train.speech_weight", "train.eom_weight", "train.eval_every", "train.eval_batches",
    "train.save_every", "train.replay_every", "decode.temperature", "decode.seed",
})  # fmt: skip


def _validate_numbers(c: Config) -> None:
    """Every number by itself: finite and of the right sign."""
    for field, value in flatten(c).items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        _require(math.isfinite(value), field, value, "a finite number")
        if field in SHARES:
            _require(0 <= value <= 1, field, value, "between 0 and 1")
        elif field in ZERO_ACCEPTED:
            _require(value >= 0, field, value, "0 or more")
        elif field not in ANY_SIGN:
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


def _validate_audio(a: AudioConfig, seconds: float) -> None:
    """Rates, and hops that are whole samples: frames would drift against the clock else."""
    _require(
        a.sample_rate == SAMPLE_RATE, "audio.sample_rate", a.sample_rate,
        f"{SAMPLE_RATE}, the rate of records, traces and files",
    )  # fmt: skip
    for field, value in (
        ("audio.hop_s", a.hop_s),
        ("audio.window_s", a.window_s),
        ("microturn.seconds", seconds),
    ):
        whole = _whole(value * a.sample_rate)
        _require(whole, field, value, f"a whole number of samples at {a.sample_rate} Hz")
    _require(a.window_s >= a.hop_s, "audio.window_s", a.window_s, f"audio.hop_s={a.hop_s} or more")
    _require(
        2 <= a.num_levels <= 256, "audio.num_levels", a.num_levels,
        "2 to 256: levels are bytes",
    )  # fmt: skip
    less = f"less than audio.log_max={a.log_max}"
    _require(a.log_min < a.log_max, "audio.log_min", a.log_min, less)


def validate_waveform(s: SpeechConfig) -> None:
    """What the waveform stage (tmi/decode/vocode.py) needs to be made.

    Raises ConfigError, naming the field and what is accepted.
    """
    _require(
        s.window % s.hop == 0 and 2 * s.hop <= s.window <= s.n_fft, "speech.window", s.window,
        f"a multiple of speech.hop={s.hop}, at least twice it and at most speech.n_fft={s.n_fft}",
    )  # fmt: skip
    _require(s.look_ahead >= 0, "speech.look_ahead", s.look_ahead, "0 hops or more")
    _require(
        s.fmin < s.fmax <= s.sample_rate / 2, "speech.fmax", s.fmax,
        "more than speech.fmin and at most half of speech.sample_rate",
    )  # fmt: skip


def _validate_text(c: Config) -> None:
    """A tokenizer that exists (a path may be on another machine), and room for its specials."""
    from tmi.media import text  # not before it is needed

    known, t = text.vocabularies(), c.text
    _require(
        t.tokenizer in known or t.tokenizer.endswith(".json"), "text.tokenizer", t.tokenizer,
        f"{', '.join(map(repr, known))} or a path to a .json file",
    )  # fmt: skip
    least = f"{text.NUM_SPECIALS}, the special tokens, or more"
    _require(t.vocab_size >= text.NUM_SPECIALS, "text.vocab_size", t.vocab_size, least)
    _require(
        t.unpadded_vocab_size == 0 or text.NUM_SPECIALS <= t.unpadded_vocab_size <= t.vocab_size,
        "text.unpadded_vocab_size", t.unpadded_vocab_size,
        f"0 (off) or {text.NUM_SPECIALS} to text.vocab_size={t.vocab_size}",
    )  # fmt: skip


def _validate_optimizer(c: Config) -> None:
    o = c.optimizer
    for name in ("b1", "b2"):
        value = getattr(o, name)
        _require(value < 1, f"optimizer.{name}", value, "0 or more and less than 1")
    _require(
        o.moment_dtype == "float32" or o.b2 <= 0.98, "optimizer.moment_dtype", o.moment_dtype,
        "'float32' where optimizer.b2 > 0.98: eight bits would not see a step's share",
    )  # fmt: skip
    named = bool(o.trainable) and all(isinstance(x, str) for x in o.trainable)
    _require(
        named, "optimizer.trainable", o.trainable,
        "names such as ('all',), ('heads', 'lora') or ('flow.*',), one at least",
    )  # fmt: skip


def _validate_rows(c: Config) -> None:
    """A batch's rows divide over the mesh, over shards and into micro-batches."""
    rows, mesh = c.data.batch_size, c.train.mesh
    whole = all(isinstance(n, int) and n >= 1 for n in mesh)
    _require(
        len(mesh) == len(MESH_AXES) and whole, "train.mesh", mesh,
        f"five sizes >= 1, for {MESH_AXES}",
    )  # fmt: skip
    _require(
        rows % c.data.shards == 0, "data.shards", c.data.shards,
        f"a divisor of data.batch_size={rows}",
    )  # fmt: skip
    devices, parts = mesh[0] * mesh[1], c.train.micro_batches
    _require(
        rows % devices == 0, "data.batch_size", rows,
        f"a multiple of {devices}, the data x fsdp sizes of train.mesh={mesh}",
    )  # fmt: skip
    _require(
        rows % parts == 0, "train.micro_batches", parts, f"a divisor of data.batch_size={rows}"
    )
    _require(
        rows // parts % devices == 0, "train.micro_batches", parts,
        f"a divisor of {rows // devices}: data.batch_size={rows} rows make parts of "
        f"{rows // parts}, which the {devices} devices of data x fsdp in train.mesh={mesh} cannot "
        "share",
    )  # fmt: skip


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


NAMES = {  # what a field of few values accepts
    "video.gelu": ("tanh", "erf"),
    "video.pixels": ("unit", "clip"),
    "model.position_bias": ("token", "microturn", "both"),
    "model.numerics": ("invariant", "fast"),
    "model.dtype": ("float32", "bfloat16"),
    "model.grouped": ("tiles", "ragged_dot", "pallas_tpu"),
    "model.expert_exchange": ("padded", "ragged", "ring"),
    "model.experts": ("reference", "pallas_tpu"),
    "model.attention_kernel": ("reference", "pallas_tpu"),
    "optimizer.moment_dtype": ("float32", "bfloat16"),
}


def _validate_numerics(m: ModelConfig) -> None:
    """What is not shown to keep its bits (docs/LOG.md) may not promise to."""
    if m.numerics != "invariant":
        return
    _require(
        m.dtype == "float32", "model.dtype", m.dtype,
        "'float32' where model.numerics='invariant': in bfloat16 bits differ between calls",
    )  # fmt: skip
    pair = {"tiles": "reference", "pallas_tpu": "pallas_tpu"}
    _require(
        pair.get(m.grouped) == m.experts, "model.grouped", m.grouped,
        "where model.numerics='invariant' 'tiles' with model.experts='reference', or 'pallas_tpu' "
        "for both: products of many rows and of few must be the same",
    )  # fmt: skip


def validate(c: Config) -> None:
    """Raises ConfigError, naming the field and what is accepted, unless `c` can run."""
    for field, names in NAMES.items():
        section, name = field.split(".")
        value = getattr(getattr(c, section), name)
        _require(value in names, field, value, ", ".join(map(repr, names)) + " are accepted")
    m, a, s, t = c.model, c.audio, c.speech, c.microturn
    _validate_numbers(c)
    _validate_audio(a, t.seconds)
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
    _require(t.max_text_out >= 2, "microturn.max_text_out", t.max_text_out, "at least 2 tokens")
    _require(t.max_text_in >= 1, "microturn.max_text_in", t.max_text_in, "at least 1 token")
    blocks = t.kv_block >= 16 and t.kv_block % 16 == 0
    _require(blocks, "microturn.kv_block", t.kv_block, "a multiple of 16")
    _require(
        s.sample_rate == SAMPLE_RATE, "speech.sample_rate", s.sample_rate,
        f"{SAMPLE_RATE}, as audio.sample_rate",
    )  # fmt: skip
    validate_waveform(s)
    _validate_text(c)
    _validate_optimizer(c)
    _validate_rows(c)
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
    _validate_numerics(m)
    _require(
        s.enabled or c.data.speech_slots == 0, "speech.enabled", s.enabled,
        "True, or data.speech_slots=0: a model without a flow head reads no speech",
    )  # fmt: skip
    _require(m.conv_width >= 1, "model.conv_width", m.conv_width, "at least 1")
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
        not (m.spelling and not m.hearing_layer),
        "model.spelling", m.spelling, "False where model.hearing_layer=0",
    )  # fmt: skip
    far = m.global_layers or range(m.global_every - 1, m.num_layers, m.global_every)
    _require(
        not c.train.due_weight or (max(far, default=0) > 0 and not m.scan_layers),
        "train.due_weight", c.train.due_weight,
        "0 where no layer but the first is global, and where model.scan_layers",
    )  # fmt: skip
    _require(
        c.data.row_length % t.kv_block == 0,
        "data.row_length",
        c.data.row_length,
        f"a multiple of microturn.kv_block={t.kv_block}",
    )
    _require(
        m.time_frequencies > 0 or m.position_bias == "token",
        "model.time_frequencies", m.time_frequencies,
        "1 or more, or model.position_bias='token'",
    )  # fmt: skip
    _require(m.clock_digits <= 9, "model.clock_digits", m.clock_digits, "0 (off) to 9: int32")
    for field, seed in (
        ("train.seed", c.train.seed),
        ("data.seed", c.data.seed),
        ("decode.seed", c.decode.seed),
    ):
        _require(seed < 2**32, field, seed, "less than 2**32")
    _require(
        m.experts == "reference" or m.grouped == m.experts or math.prod(c.train.mesh) == 1,
        "model.experts", m.experts,
        f"'reference' over a mesh, or model.grouped={m.experts!r} too: it makes all products there",
    )  # fmt: skip
    _validate_data(c, round(positions), round(patches))
    _require(
        m.hearing_layer <= m.num_layers, "model.hearing_layer", m.hearing_layer,
        f"0 (off) to model.num_layers={m.num_layers}",
    )  # fmt: skip
    _validate_stem(c.video)
