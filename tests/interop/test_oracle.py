"""Live against transformers' Inkling, where the [oracle] extra is installed; otherwise skipped, and
the reason printed. What it printed when it was last run is docs/oracle.log."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from tests.interop import cases, oracle
from tests.interop.make_goldens import EXAMPLE, heard
from tmi.data import records
from tmi.interop import fields, inkling
from tmi.interop.stem import stem_plan
from tmi.media.audio import DMel, from_int16

REASON = oracle.missing()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)
TOLERANCE = 1e-5  # of max |a - b| / max |b|
RANDOM = range(6)


def say(capsys, what: str, *figures: str) -> None:
    with capsys.disabled():
        print(f"\n{what:<34}", "  ".join(figures), end="")


@pytest.fixture(scope="module", autouse=True)
def header(request):
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{oracle.versions()}; max |ours - theirs| / max |theirs|, float32, one thread")
    yield


ALL = [*cases.CASES, *(cases.random_case(seed) for seed in RANDOM)]


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_logits(case, tmp_path, capsys):
    """All positions, those of padding too."""
    folder, inputs = oracle.make(case, tmp_path), case.inputs()
    theirs = oracle.logits(oracle.load(folder), inputs)
    ours = inkling.read(folder).logits(inputs)
    found = cases.difference(ours, theirs)
    say(capsys, f"logits {case.name}", f"{found:.1e}", f"{theirs.shape}, padding {case.padding}")
    assert found <= TOLERANCE


def test_padding_anywhere(tmp_path, capsys):
    """On the right, and in the middle of a row: all positions, those of padding too."""
    case = next(c for c in cases.CASES if c.name == "log_scaling")
    folder, inputs = oracle.make(case, tmp_path), case.inputs()
    inputs["attention_mask"] = mask = np.ones_like(inputs["input_ids"])
    mask[0, 25:] = mask[1, 3:20] = mask[1, -2:] = 0
    theirs = oracle.logits(oracle.load(folder), inputs)
    found = cases.difference(inkling.read(folder).logits(inputs), theirs)
    say(capsys, "logits, padding anywhere", f"{found:.1e}", f"{theirs.shape}")
    assert found <= TOLERANCE


@pytest.mark.parametrize("name", ["mixed", "log_scaling", "own_heads"])
def test_its_own_cached_decoding_is_its_full_forward(name, tmp_path, capsys):
    """Ours: test_goldens.py."""
    case = next(c for c in cases.CASES if c.name == name)
    model = oracle.load(oracle.make(case, tmp_path))
    ids = case.inputs()["input_ids"]
    full = oracle.logits(model, {"input_ids": ids})
    pieces = oracle.cached_logits(model, ids, [5, *[1] * (ids.shape[1] - 5)])
    found = cases.difference(pieces, full)
    say(capsys, f"their cached decoding {name}", f"{found:.1e}")
    assert found <= TOLERANCE


def test_what_we_write_is_loaded_and_gives_the_same_logits(tmp_path, capsys):
    """By the commands, in processes of their own: a checkpoint in, a workdir, a checkpoint out."""
    case = next(c for c in cases.CASES if c.name == "image_audio")
    folder, inputs = oracle.make(case, tmp_path / "theirs"), case.inputs()

    def command(name: str, *flags: str) -> None:
        made = [sys.executable, "-m", "tmi.interop.inkling", name, *flags]
        subprocess.run(made, check=True, capture_output=True, text=True)

    command("import", f"--checkpoint={folder}", f"--out={tmp_path / 'workdir'}")
    command("export", f"--workdir={tmp_path / 'workdir'}", f"--out={tmp_path / 'ours'}")
    np.savez(tmp_path / "inputs.npz", **inputs)
    command("logits", f"--checkpoint={tmp_path / 'ours'}", f"--inputs={tmp_path / 'inputs.npz'}",
            f"--out={tmp_path / 'logits.npz'}")  # fmt: skip
    theirs = oracle.logits(oracle.load(tmp_path / "ours"), inputs)
    before = oracle.logits(oracle.load(folder), inputs)
    found = cases.difference(np.load(tmp_path / "logits.npz")["logits"], before)
    say(capsys, "import, export, logits (commands)", f"{found:.1e}",
        f"their own, loaded again: {cases.difference(theirs, before):.1e}")  # fmt: skip
    assert found <= TOLERANCE
    np.testing.assert_array_equal(theirs, before)


def test_shards_of_either_are_read_by_the_other(tmp_path, capsys):
    """With tensors of multi-token prediction, which neither of us uses."""
    case = next(c for c in cases.CASES if c.name == "own_heads")
    folder, inputs = oracle.make(case, tmp_path / "one"), case.inputs()
    model = oracle.load(folder)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="30KB")
    found = inkling.read(tmp_path / "theirs")
    for name, x in inkling.read(folder).params.items():
        np.testing.assert_array_equal(found.params[name], x)
    spare = {"model.mtp.layers.0.attn_norm.weight": np.ones(3, np.float32)}
    inkling.write(tmp_path / "ours", dataclasses.replace(found, carried=spare), 30_000)
    again = oracle.load(tmp_path / "ours")
    np.testing.assert_array_equal(oracle.logits(again, inputs), oracle.logits(model, inputs))
    count = [len(list((tmp_path / d).glob("model-*.safetensors"))) for d in ("theirs", "ours")]
    say(capsys, "shards", f"{count[0]} of theirs, {count[1]} of ours: the same bits")
    assert min(count) > 3


def test_images_and_sound_through_its_own_processor(tmp_path, capsys):
    """The published stem (patches of 40 x 40, four layers), pictures of any size, sounds of any
    length, padding on the left."""
    if not oracle.has_torchvision():
        pytest.skip("its image processor needs torchvision, which is not installed")
    rng = np.random.RandomState(0)
    processor = oracle.processor()
    pictures = [rng.randint(0, 256, (h, w, 3)).astype(np.uint8) for h, w in ((70, 50), (40, 41))]
    sounds = [from_int16(heard())[:n] for n in (16000, 9001)]
    picture = processor.image_bos_token + processor.image_token
    sound = processor.audio_bos_token + processor.audio_token
    given = processor(
        text=[f"what is this picture {picture} ?", f"this sound {sound} of {picture} {sound}"],
        images=pictures, audio=sounds, padding=True, return_tensors="pt", sampling_rate=16000,
    )  # fmt: skip
    inputs = {n: np.asarray(x) for n, x in given.items() if n in inkling.forward.INPUTS}
    assert set(inputs) == set(inkling.forward.INPUTS) and not inputs["attention_mask"].all()
    case = cases.Case("processor", 0, patch=40, stem_layers=4)
    config = case.config() | {
        "image_token_id": processor.image_token_id, "audio_token_id": processor.audio_token_id,
    }  # fmt: skip
    folder = cases.write(tmp_path, *oracle.describe(config))
    theirs = oracle.logits(oracle.load(folder), inputs)
    found = cases.difference(inkling.read(folder).logits(inputs), theirs)
    say(capsys, "images and sound, its processor", f"{found:.1e}", f"{theirs.shape}",
        f"{len(inputs['pixel_values'])} patches")  # fmt: skip
    assert found <= TOLERANCE


def test_every_dmel_bin(capsys):
    """The shipped session's user, whole, and with digital silence."""
    raw = cases.CASES[0].config() | {"model_type": fields.MULTIMODAL}
    dmel = DMel(fields.to_config(raw).audio)
    whole = from_int16(records.decode(EXAMPLE.read_bytes()).user_audio)
    for name, wave in (("session", whole), ("with silence", from_int16(heard()))):
        theirs = oracle.dmel_bins(wave)
        ours = dmel.bins(np.pad(wave, (0, -len(wave) % dmel.hop)))
        wrong = int((ours != theirs).sum())
        say(capsys, f"dMel bins, {name}", f"{wrong} of {theirs.size} differ")
        assert ours.shape == theirs.shape and wrong == 0


def test_the_stem_is_planned_alike_for_every_depth(capsys):
    from transformers.models.inkling.modeling_inkling import plan_out_scales

    for patch in (4, 6, 8, 16, 24, 40, 48):
        for layers in range(1, 12):
            grids = plan_out_scales(2, patch, layers, 3).tolist()
            pairs = zip(grids, grids[1:], strict=False)
            folds = tuple((b[0] // a[0], b[1] // a[1]) for a, b in pairs)
            assert stem_plan(layers, patch) == (folds, tuple(g[3] for g in grids[1:-1]))
    say(capsys, "stem plans", "77 alike")


def test_the_shipped_goldens_are_of_these_configs():
    """What make_goldens.py would write today: the cases' configs, tensors and shapes."""
    from tests.interop.make_goldens import GOLDENS

    with np.load(GOLDENS, allow_pickle=False) as file:
        for case in cases.CASES:
            config, shapes = oracle.describe(case.config())
            assert json.loads(str(file[f"{case.name}.shapes"])) == shapes
            kept = json.loads(str(file[f"{case.name}.config"]))
            assert kept["text_config"] == json.loads(config)["text_config"]
