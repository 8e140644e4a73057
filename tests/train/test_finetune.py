"""A published checkpoint becomes an interaction model; what is frozen keeps every bit."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from experiments import finetune
from tests.interop.test_fields import small
from tests.train.trainings import replace
from tmi import config as config_lib
from tmi import numerics, sharding
from tmi.config import ConfigError
from tmi.interop import fields, inkling, origin
from tmi.media.text import NUM_SPECIALS, Tokenizer
from tmi.models import lora, tree
from tmi.train import checkpoint, initial, loop, trainable
from tmi.train.checkpoint import CheckpointError

NEW = ("flow.", "speech.", "hearing.", "clock.", "tokens.stream")


def make_published(path, **changes) -> inkling.Checkpoint:
    """A random checkpoint directory, with what has no use here."""
    config = small(model__num_layers=3, **changes)
    rng = np.random.default_rng(0)
    shapes = sharding.param_shapes(config)
    params = {n: rng.standard_normal(s).astype(np.float32) * 0.3 for n, s in shapes.items()}
    carried = {"model.mtp.x": np.arange(2.0, dtype="f4")}
    raw = fields.from_config(config) | {"image_token_id": 7}
    made = inkling.Checkpoint(config, params, raw, carried)
    inkling.write(path, made)
    return made


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    path = tmp_path_factory.mktemp("published")
    return path, make_published(path)


@pytest.fixture(scope="module")
def config(published, corpus) -> config_lib.Config:
    """experiments/finetune.py of it, with little to compute."""
    c = finetune.get_config(str(published[0]))
    c.data.corpus = c.data.dev_corpus = str(corpus.path)
    c.data.row_length, c.data.audio_slots, c.data.video_slots = 256, 200, 16
    c.data.speech_slots, c.data.num_threads = 24, 1
    c.flow.width, c.flow.depth, c.flow.feedback_width, c.flow.draws = 32, 1, 16, 1
    t = c.train
    t.steps, t.log_every, t.eval_every, t.eval_batches, t.save_every = 2, 1, 2, 1, 2
    return config_lib.from_config_dict(c)


def begin(config, source):
    return initial.begin(config, source, loop.state_shardings(config, sharding.make_mesh(config)))


def test_it_begins_as_the_published_model_with_new_heads(config, published):
    path, made = published
    state, legs = begin(config, path)
    assert legs == []
    for name, x in state.params.items():
        if name.startswith(NEW):
            assert name not in made.params
        else:
            np.testing.assert_array_equal(x, made.params[name], err_msg=name)
    for name in ("tokens.stream", "clock.weight"):  # adds nothing to what was published
        assert not np.any(state.params[name])
    assert np.any(state.params["flow.read"])
    frozen = set(state.params) - trainable.moving(config)
    assert "transformer.layers.2.mlp.balance" in frozen and "dmel.table" in frozen
    assert not frozen & set(state.ema)


def test_heads_alone_then_low_rank_changes(config, published, tmp_path):
    path, made = published
    loop.train(config, tmp_path / "heads", str(path))
    _, params, info = checkpoint.read(tmp_path / "heads", "latest")
    assert info["step"] == 2
    for name, x in params.items():
        if name in made.params and name != "unembed.table":
            np.testing.assert_array_equal(x, made.params[name], err_msg=name)
    assert np.any(params["unembed.table"] != made.params["unembed.table"])
    assert np.any(params["tokens.stream"])

    second = replace(
        config, model__lora_rank=3, optimizer__trainable=("lora", "transformer.*.router")
    )
    loop.train(second, tmp_path / "lora", str(tmp_path / "heads"))
    changed, after, _ = checkpoint.read(tmp_path / "lora", "latest")
    for name, x in after.items():
        if lora.is_lora(name) or name.endswith(".router"):
            assert np.any(x), name
        else:
            np.testing.assert_array_equal(x, params[name], err_msg=name)

    # What has no use here goes along, from training to training and into exports.
    checkpoint.export(tmp_path / "lora", tmp_path / "out", "latest")
    raw, carried = origin.load(tmp_path / "out")
    assert raw["image_token_id"] == 7 and list(carried) == ["model.mtp.x"]

    # What it has become can be decoded and exported: plain weights.
    plain, weights = tree.layer_by_layer(changed, after)
    assert plain.model.lora_rank == 0 and set(weights) == set(tree.names(plain))
    moved = [n for n in weights if np.any(weights[n] != params[n])]
    assert {n.split(".")[-2] + "." + n.split(".")[-1] for n in moved} == {
        *(f"attention.{n}" for n in ("q", "k", "v", "out")), "mlp.router",
        *(f"mlp.{n}" for n in ("gate", "up", "down", "shared_gate", "shared_up", "shared_down")),
    }  # fmt: skip


def test_low_rank_changes_are_those_of_the_weights(config):
    """Zero to begin with; then the same as the merged model, in and out of a loop over layers."""
    for scan in (False, True):
        c = replace(
            config,
            model__lora_rank=2,
            model__hearing_layer=0,
            model__spelling=False,
            model__scan_layers=scan,
        )
        params = tree.init(c, jax.random.key(0))
        batch = {
            "x": jax.random.normal(jax.random.key(1), (1, 64, c.model.width)),
            "position": jnp.arange(64)[None],
        }

        def hidden(c, params, batch=batch):
            model = tree.build(c, params)
            one = jnp.ones_like(batch["position"])
            return model.transformer(batch["x"], batch["position"], one, one).hidden

        run = numerics.jit("fast", hidden, static_argnums=0)
        without = {n: x for n, x in params.items() if not lora.is_lora(n)}
        plain, same = lora.merged(c, params)
        for n, x in without.items():
            np.testing.assert_array_equal(same[n], x, err_msg=n)
        before = run(plain, without)
        np.testing.assert_allclose(run(c, params), before, rtol=1e-4, atol=1e-5)
        params = {
            n: jax.random.normal(jax.random.key(2), x.shape) * 0.1 if lora.is_lora(n) else x
            for n, x in params.items()
        }
        changed = run(c, params)
        np.testing.assert_allclose(changed, run(*lora.merged(c, params)), rtol=1e-4, atol=1e-5)
        assert np.abs(changed - before).max() > 1e-2


def test_stacked_layers_are_read_as_those_apart(config, published):
    path, made = published
    c = replace(config, model__hearing_layer=0, model__spelling=False, model__scan_layers=True)
    state, _ = begin(c, path)
    assert any(n.startswith("transformer.segments.") for n in state.params)
    _, params = tree.layer_by_layer(c, state.params)
    for name, x in made.params.items():
        np.testing.assert_array_equal(params[name], x, err_msg=name)


@pytest.fixture(scope="module")
def vocabulary():
    """A byte-level BPE as models are published with, its specials behind the words."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    bpe.train_from_iterator(["say seven in ten seconds", "what is seven and ten"] * 9, trainer)
    bpe.add_special_tokens(["<|end|>", "<|start|>"])
    return bpe.to_str()


def test_a_published_tokenizer_gives_way_to_our_specials(vocabulary):
    tokens = Tokenizer(vocabulary)
    assert tokens.moved == tokenizers.Tokenizer.from_str(vocabulary).get_vocab_size()
    for text in ("say seven", " ten", "!\"#$%&'()*+,-./0123", "é <|end|> 🙂", "\x00\n"):
        ids = tokens.encode(text)
        assert tokens.decode(ids) == text
        assert all(NUM_SPECIALS <= i < tokens.vocab_size for i in ids)
    assert tokens.decode(range(NUM_SPECIALS)) == ""


def test_rows_of_the_tables_move_with_the_tokens(vocabulary, tmp_path):
    made = make_published(tmp_path, text__vocab_size=310)
    (tmp_path / "tokenizer.json").write_text(vocabulary)
    view = finetune.get_config(str(tmp_path))
    c = config_lib.from_config_dict(view)
    tokens, old = Tokenizer(vocabulary), tokenizers.Tokenizer.from_str(vocabulary)
    assert c.text.unpadded_vocab_size == tokens.vocab_size <= c.text.vocab_size
    state, _ = begin(c, tmp_path)
    text = 'say seven !"#$ in ten'
    for name in ("tokens.table", "unembed.table"):
        np.testing.assert_array_equal(
            state.params[name][np.array(tokens.encode(text))],
            made.params[name][np.array(old.encode(text).ids)],
        )
        specials = np.asarray(state.params[name][:NUM_SPECIALS])
        assert np.all(np.any(specials, axis=1))
        # A frozen table tells END from <speak>.
        assert len(np.unique(specials, axis=0)) == (NUM_SPECIALS if name == "tokens.table" else 1)
    assert [x for x in fields.refusals(c) if x.startswith("text.tokenizer=")]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("flow.reed", "'flow.reed' matches no parameter; accepted are 'all', 'heads', 'lora'"),
        ("lora", "'lora' with model.lora_rank > 0"),
    ],
)
def test_what_cannot_be_trained_is_named(config, entry, words):
    with pytest.raises(ConfigError, match=words):
        trainable.moving(replace(config, optimizer__trainable=("heads", entry)))


def test_a_directory_that_does_not_fit_is_refused(config, published, tmp_path):
    with pytest.raises(ConfigError, match=r"embed_norm|tokens.norm.gain.*model.embedding_norm"):
        begin(replace(config, model__embedding_norm=False), published[0])
    with pytest.raises(ConfigError, match="model.width: 16 -> 24"):
        begin(replace(config, model__width=24), published[0])
    raw = json.loads((published[0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match="neither model.safetensors nor"):
        begin(config, tmp_path)
    with pytest.raises(ConfigError, match="behind the colon the directory of a published"):
        finetune.get_config("nowhere")
