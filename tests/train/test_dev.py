"""Losses of weights side by side are those that a training measures, whatever was asked beside."""

import dataclasses
import json

import pytest

from tmi.train import checkpoint, dev, loop
from tmi.train.checkpoint import CheckpointError


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """A workdir, its last dev losses, and an export of it."""
    folder = tmp_path_factory.mktemp("dev")
    t = dataclasses.replace(config.train, steps=2, eval_every=2, save_every=2)
    result = loop.train(dataclasses.replace(config, train=t), folder / "run")
    checkpoint.export(folder / "run", folder / "out")
    return folder, result["dev"]


def test_it_measures_what_a_training_measures(config, trained, capsys):
    folder, want = trained
    names = [str(folder / n) for n in ("run", "out")]
    found = dict(dev.losses(names, config.data.dev_corpus, config.train.eval_batches))
    assert found[names[0]] == pytest.approx(want, rel=1e-5)
    assert found[names[1]] == pytest.approx(want, rel=1e-2)  # rounded to float16
    lines = dev.table(found).splitlines()
    assert names[0] in lines[0] and len(lines) == 1 + len(want)
    assert all("*" in line for line in lines[1:])
    two = dev.table(
        {"a": {"accuracy/text": 0.5, "loss": 2.0}, "b": {"accuracy/text": 0.6, "loss": 3.0}}
    )
    assert "0.6000*" in two and "2.0000*" in two and two.count("*") == 2


def test_a_note_goes_into_an_export_and_nowhere_else(config, trained):
    folder, want = trained
    dev.note(str(folder / "out"), config.data.dev_corpus, 3, want)
    _, _, info = checkpoint.read(folder / "out")
    assert info["dev"]["loss"] == pytest.approx(want["loss"], abs=1e-4)
    assert info["dev"]["batches"] == 3 and len(info["dev"]["corpus_hash"]) == 16
    assert json.loads((folder / "out" / "info.json").read_text()) == info
    with pytest.raises(CheckpointError, match="no export"):
        dev.note(str(folder / "run"), config.data.dev_corpus, 3, want)
