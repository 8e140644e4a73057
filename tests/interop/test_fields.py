"""config.json and our Config: spellings, what the format cannot hold, and workdirs in and out."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments import published
from tmi import config as config_lib
from tmi.interop import fields, inkling, tensors
from tmi.interop.stem import stem_plan
from tmi.interop.tensors import InteropError
from tmi.models import tree
from tmi.train import checkpoint as checkpoint_lib


def small(**sections) -> config_lib.Config:
    """experiments/published.py, smaller."""
    view = published.get_config()
    m = view.model
    m.width, m.num_layers, m.num_heads, m.num_kv_heads, m.head_dim = 16, 2, 2, 1, 8
    m.mlp_width, m.num_experts, m.expert_width, m.global_every = 24, 3, 8, 2
    for field, value in sections.items():
        section, name = field.split("__")
        view[section][name] = value
    return config_lib.from_config_dict(view)


def test_the_published_stem_is_that_of_four_layers():
    assert stem_plan(4, 40) == (((1, 5), (1, 2), (1, 4), (2, 1)), (128, 320, 4800))


def test_a_config_survives_the_published_form():
    c = small(model__log_scaling_floor=7, model__sliding_num_heads=4, text__unpadded_vocab_size=99)
    again = fields.to_config(fields.from_config(c))
    for section in ("model", "text", "audio", "video", "speech"):
        assert getattr(again, section) == getattr(c, section)


def test_spellings_of_the_published_files_are_read():
    ours = fields.from_config(small())
    text = ours["text_config"]
    theirs = {
        **text,
        "dense_mlp_idx": 1,
        "local_layer_ids": [0],
        "intermediate_size": text["moe_intermediate_size"],
        "dense_intermediate_size": text["intermediate_size"],
        "sconv_kernel_size": text["conv_kernel_size"],
        "model_max_length": text["max_position_embeddings"],
        "embedding_multiplier": text["logits_mup_width_multiplier"],
    }
    for name in ("layer_types", "mlp_layer_types", "moe_intermediate_size", "conv_kernel_size",
                 "max_position_embeddings", "logits_mup_width_multiplier"):  # fmt: skip
        del theirs[name]
    assert fields.to_config(ours | {"text_config": theirs}) == fields.to_config(ours)


def test_by_default_every_sixth_layer_is_global_and_every_one_sparse():
    c = fields.to_config({"model_type": fields.MULTIMODAL})
    m = c.model
    assert (m.num_layers, m.global_every, m.num_dense_layers) == (66, 6, 0)
    assert (m.num_experts, m.num_experts_per_token, m.num_shared_experts) == (256, 6, 2)


def test_all_that_the_format_cannot_hold_is_named_at_once(tmp_path):
    default = config_lib.Config()
    made = inkling.Checkpoint(default, {}, {}, {})
    with pytest.raises(InteropError) as e:
        inkling.write(tmp_path / "out", made)
    for name in (
        "speech.enabled", "model.position_bias", "model.clock_features", "model.stream_embeddings",
        "model.embedding_norm", "audio.frames_per_position", "audio.power_floor", "video.gelu",
        "video.pixels", "video.stem_channels",
    ):  # fmt: skip
        assert name in str(e.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "field, value",
    [
        ("model__position_bias", "both"), ("model__clock_features", True),
        ("model__hearing_layer", 1), ("audio__hop_s", 0.1), ("model__num_shared_experts", 0),
    ],
)  # fmt: skip
def test_one_switch_that_is_on_is_the_one_that_is_named(field, value):
    refused = fields.refusals(small(**{field: value}))
    assert len(refused) == 1 and refused[0].startswith(field.replace("__", ".") + "=")
    assert fields.refusals(small()) == []


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Such a workdir as a training leaves when it is exported, of a dense layer without a scale and
    a sliding bias shorter than the window."""
    config = small(model__mlp_scale=False, model__bias_extent=48)
    params = tree.init(config, jax.random.key(0))
    path = tmp_path_factory.mktemp("workdir")
    checkpoint_lib.write_config(path, config)
    np.savez(path / checkpoint_lib.PARAMS_FILE, **params)
    info = {"format_version": config_lib.FORMAT_VERSION}
    (path / checkpoint_lib.INFO_FILE).write_text(json.dumps(info))
    return path


def test_a_workdir_goes_out_and_comes_in(workdir, tmp_path):
    inputs = {"input_ids": np.random.RandomState(0).randint(0, 512, (1, 100))}
    config, params = checkpoint_lib.restore_params(workdir)
    held = {n: np.asarray(x) for n, x in params.items()}
    before = inkling.Checkpoint(config, held, {}, {}).logits(inputs)

    inkling.export(workdir, tmp_path / "out")
    after = inkling.read(tmp_path / "out").logits(inputs)
    assert np.abs(after - before).max() / np.abs(before).max() < 1e-6

    # Into a workdir and out once more, with what is only carried.
    raw = json.loads((tmp_path / "out" / "config.json").read_text()) | {"image_token_id": 7}
    (tmp_path / "out" / "config.json").write_text(json.dumps(raw))
    first = load_file(tmp_path / "out" / tensors.SINGLE)
    tensors.write(tmp_path / "out", [*first.items(), ("model.mtp.x", np.arange(2.0, dtype="f4"))])
    inkling.import_workdir(tmp_path / "out", tmp_path / "in")
    again, _ = checkpoint_lib.restore_params(tmp_path / "in")
    assert again.model.mlp_scale and again.model.bias_extent == again.model.window
    inkling.export(tmp_path / "in", tmp_path / "twice")
    second = load_file(tmp_path / "twice" / tensors.SINGLE)
    assert set(second) == {*first, "model.mtp.x"}
    for name, x in first.items():
        np.testing.assert_array_equal(second[name], x)
    assert json.loads((tmp_path / "twice" / "config.json").read_text())["image_token_id"] == 7


def test_a_parameter_without_a_tensor_is_named(workdir, tmp_path):
    config, params = checkpoint_lib.restore_params(workdir)
    held = {n: np.asarray(x) for n, x in params.items()} | {"waiting.write": np.ones(3)}
    with pytest.raises(InteropError, match=r"waiting\.write"):
        inkling.write(tmp_path / "out", inkling.Checkpoint(config, held, {}, {}))


def test_the_published_block_is_trained_without_a_flow_head():
    from tmi.data.batch import empty_batch
    from tmi.train.loss import loss_fn

    config = small(data__row_length=128, data__batch_size=1, data__audio_slots=64)
    batch = {n: np.array(x) for n, x in empty_batch(config, 1).items()}
    batch["stream"][0, :40], batch["segment"][0, :40] = 3, 1
    batch["token"][0, :40] = np.arange(40)
    batch["position"][0, :40] = np.arange(40)
    batch["text_target"][0, :40], batch["text_weight"][0, :40] = np.arange(1, 41), 1.0
    params = tree.init(config, jax.random.key(0))

    def loss(params):
        return loss_fn(tree.build(config, params), config, batch, jax.random.key(1))[0]

    value, grad = jax.eval_shape(jax.value_and_grad(loss), params)
    assert value.shape == () and set(grad) == set(params)
    assert not any(n.startswith(("flow", "speech", "clock", "tokens.stream")) for n in params)
