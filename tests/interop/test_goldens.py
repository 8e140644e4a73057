"""Our logits and dMel bins equal those of transformers' Inkling, recorded by make_goldens.py; and
laws of reading, writing and cached decoding. Needs no torch; test_oracle.py compares live."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.interop import cases
from tmi.interop import fields, forward, inkling, names, tensors
from tmi.interop.tensors import InteropError
from tmi.media.audio import DMel, from_int16
from tmi.models.cache import init_cache
from tmi.models.transformer import spans

GOLDENS = pathlib.Path(__file__).with_name("goldens.npz")
TOLERANCE = 1e-5  # of max |a - b| / max |b|


@pytest.fixture(scope="module")
def goldens():
    with np.load(GOLDENS, allow_pickle=False) as file:
        return {n: file[n] for n in file.files}


@pytest.fixture(scope="module")
def directory(goldens, tmp_path_factory):
    """The checkpoint of a case, written once."""
    root = tmp_path_factory.mktemp("inkling")

    def of(case: str) -> pathlib.Path:
        path = root / case
        if not path.exists():
            shapes = json.loads(str(goldens[f"{case}.shapes"]))
            cases.write(path, str(goldens[f"{case}.config"]), shapes)
        return path

    return of


# -- the same numbers as transformers ------------------------------------------------------------


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_logits_are_those_of_transformers(case, goldens, directory):
    ours = inkling.read(directory(case.name)).logits(case.inputs())
    theirs = goldens[f"{case.name}.logits"]
    assert cases.difference(ours[:, :: cases.KEPT.get(case.name, 2)], theirs) <= TOLERANCE


def test_every_dmel_bin_is_that_of_its_feature_extractor(goldens):
    audio = fields.to_config(cases.CASES[0].config() | {"model_type": fields.MULTIMODAL}).audio
    wave = from_int16(goldens["dmel.wave"])
    whole = np.pad(wave, (0, -len(wave) % 800))  # it pads the last frame
    np.testing.assert_array_equal(DMel(audio).bins(whole), goldens["dmel.bins"])


@pytest.mark.parametrize("case", ["log_scaling", "own_heads"])
def test_cached_decoding_equals_the_full_forward(case, directory):
    """Over the streaming session's own cache, in chunks of 1 to 16 positions, and for a session
    that is longer than the sliding layers' rings."""
    found = inkling.read(directory(case))
    ids = np.random.RandomState(0).randint(0, 90, (2, 75))
    full = found.logits({"input_ids": ids})
    config = forward.with_context(found.config, ids.shape[1])
    model = forward.build(config, found.params)

    @jax.jit
    def append(model, x, count, cache):
        hidden, cache, _ = model.append(x, jnp.zeros(x.shape[:2], jnp.int32), count, cache)
        return model.unembed(hidden), cache

    x = forward.embed(model, {"input_ids": ids}, cases.IMAGE, cases.AUDIO)
    cache, at, out = init_cache(config, spans(config), 2, 16), 0, []
    rng = np.random.RandomState(1)
    while at < ids.shape[1]:
        n = min(int(rng.randint(1, 17)), ids.shape[1] - at)
        chunk = jnp.pad(x[:, at : at + n], ((0, 0), (0, 16 - n), (0, 0)))
        y, cache = append(model, chunk, jnp.array([n, n]), cache)
        out.append(np.asarray(y)[:, :n])
        at += n
    assert cases.difference(np.concatenate(out, axis=1), full) <= TOLERANCE


# -- every tensor in and out ---------------------------------------------------------------------


def test_what_is_read_is_written_again(directory, tmp_path):
    """In shards, with the tensors that we have no use for, bit for bit."""
    original = tmp_path / "original"
    held = load_file(directory("own_heads") / "model.safetensors")
    held["model.mtp.layers.0.attn_norm.weight"] = np.arange(3, dtype=np.float32)
    original.mkdir()
    (original / "config.json").write_text((directory("own_heads") / "config.json").read_text())
    save_file(held, original / "model.safetensors")
    found = inkling.read(original)
    inkling.write(tmp_path / "out", found, shard_bytes=30_000)
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 3
    again = tensors.Tensors(tmp_path / "out")
    assert set(again) == set(held)
    for name, x in held.items():
        np.testing.assert_array_equal(again[name], x)
    assert inkling.read(tmp_path / "out").config == found.config


@pytest.mark.parametrize("spelling", [names.MODULES, names.BACKBONE])
def test_other_spellings_are_the_same_parameters(spelling, directory, tmp_path):
    found = inkling.read(directory("mixed"))
    rules = names.rules(found.config, spelling)
    held = {
        n: np.ascontiguousarray(x)
        for rule in rules
        for n, x in zip(rule.theirs, rule.write(*(found.params[o] for o in rule.ours)), strict=True)
    }
    raw = found.raw if spelling == names.MODULES else found.raw["text_config"]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    save_file(held, tmp_path / "model.safetensors")
    again = inkling.read(tmp_path)
    assert set(found.params) - set(again.params) == (
        set()
        if spelling == names.MODULES
        else {n for n in found.params if n[:4] in ("dmel", "vide")}
    )
    for name, x in again.params.items():
        np.testing.assert_array_equal(x, found.params[name])
    if spelling == names.BACKBONE:
        inputs = {"input_ids": np.arange(9).reshape(1, 9)}
        np.testing.assert_array_equal(again.logits(inputs), found.logits(inputs))


@pytest.fixture
def altered(directory, tmp_path):
    """A copy of a checkpoint after `change` of its config and tensors."""

    def make(change) -> pathlib.Path:
        raw = json.loads((directory("mixed") / "config.json").read_text())
        held = load_file(directory("mixed") / "model.safetensors")
        change(raw, held)
        (tmp_path / "config.json").write_text(json.dumps(raw))
        save_file(held, tmp_path / "model.safetensors")
        return tmp_path

    return make


def test_bfloat16_is_read(altered):
    def halve(raw, held):
        held |= {n: np.asarray(jnp.asarray(x, jnp.bfloat16)) for n, x in held.items()}

    found = inkling.read(altered(halve))
    assert {x.dtype for x in found.params.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    "change, match",
    [
        (
            lambda raw, held: held.pop("model.llm.layers.1.mlp.gate.bias"),
            r"1 missing: model\.llm\.layers\.1\.mlp\.gate\.bias",
        ),
        (
            lambda raw, held: held.update({"model.llm.extra": held["model.llm.norm.weight"]}),
            r"1 unknown: model\.llm\.extra",
        ),
        (
            lambda raw, held: held.update({"model.llm.norm.weight": np.ones(3, np.float32)}),
            r"model\.llm\.norm\.weight \(3,\) gives transformer\.final_norm\.gain",
        ),
        (
            lambda raw, held: raw["text_config"].update(num_attention_heads="4"),
            "num_attention_heads='4'; a number",
        ),
        (lambda raw, held: raw["text_config"].update(rms_norm_eps=None), "rms_norm_eps=None"),
        (lambda raw, held: raw["text_config"].update(n_shared_experts=0), "n_shared_experts=0"),
        (lambda raw, held: raw.update(model_type="llama"), r"model_type='llama'; accepted"),
        (lambda raw, held: raw.update(quantization_config={"bits": 4}), "quantization_config"),
        (lambda raw, held: raw["text_config"].update(hidden_act="gelu"), "hidden_act='gelu'"),
        (lambda raw, held: raw["text_config"].update(layer_types=["x"] * 3), r"layer_types.*'x'"),
        (lambda raw, held: raw["text_config"].update(num_key_value_heads=3), "num_kv_heads"),
        (lambda raw, held: held.clear() or held.update(x=np.ones(1)), "spelled in 0 ways"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(change, match, altered):
    with pytest.raises(InteropError, match=match):
        inkling.read(altered(change))


def test_shards_that_lack_are_named(directory, tmp_path):
    found = inkling.read(directory("mixed"))
    inkling.write(tmp_path, found, shard_bytes=50_000)
    first = sorted(tmp_path.glob("model-*"))[0]
    kept = first.read_bytes()
    first.unlink()
    with pytest.raises(InteropError, match=first.name):
        inkling.read(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    whole = index.read_text()
    for text, said in ((whole[:50], "no readable JSON"), ("{}", "no weight_map")):
        index.write_text(text)
        with pytest.raises(InteropError, match=said):
            inkling.read(tmp_path)
    index.write_text(whole)
    first.write_bytes(kept[:100])
    with pytest.raises(InteropError, match=rf"{first.name} is no readable"):
        inkling.read(tmp_path)
    for file in tmp_path.glob("*safetensors*"):
        file.unlink()
    with pytest.raises(InteropError, match="holds neither"):
        inkling.read(tmp_path)


# -- inputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda x: x.update(input_values=x["input_ids"]), "accepted are input_ids"),
        (lambda x: x.pop("input_ids"), "the first always"),
        (lambda x: x.update(input_ids=x["input_ids"] + 90), "the vocabulary has 96 tokens"),
        (lambda x: x.update(pixel_values=x["pixel_values"][1:]), "3 patches, input_ids 4 places"),
        (lambda x: x["audio_input_ids_mask"].fill(True), "12 frames, input_ids 8 places"),
        (lambda x: x.update(attention_mask=np.ones((2, 3))), r"must both be \[B, S\]"),
    ],
)
def test_inputs_that_cannot_be_are_named(change, match, directory):
    case = next(c for c in cases.CASES if c.name == "image_audio")
    inputs = case.inputs()
    change(inputs)
    with pytest.raises(InteropError, match=match):
        inkling.read(directory(case.name)).logits(inputs)
