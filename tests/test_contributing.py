"""CONTRIBUTING keeps its word: its examples, added as it says and nothing else, work."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from tmi import config as config_lib
from tmi.models import tree

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
# A whole file: its path in backquotes, a colon, and a fenced block.
EXAMPLES = dict(re.findall(r"`([\w/]+\.py)`:\n\n```python\n(.*?)```\n", TEXT, re.DOTALL))

# Run in a copy of the data pipelines: sessions of the new skill, with beeps for voices.
SKILL_WORKS = """
import json
import sys

import numpy as np
from data_pipelines import skills, splits, synthetic
from data_pipelines.session import Session
from data_pipelines.speech import Utterance
from data_pipelines.voices import UserVoice
from tmi.config import Config
from tmi.data.features import to_microturns
from tmi.evals.suites import BENCHMARKS
from tmi.media.audio import DMel
from tmi.media.text import Tokenizer
from tmi.microturn import lay_out, layout

name = sys.argv[1]
chosen = skills.choose(name)
lay = layout(Config())


class Beeps:
    def user(self, text, voice=None):
        words = tuple((w, 0.3 * i, 0.3 * i + 0.25) for i, w in enumerate(text.split()))
        return Utterance(np.full(4800 * len(words), 0.1, np.float32), words, text)

    model = user


def make(split, index):
    rng = np.random.default_rng([1, index])
    s = Session(rng, split, lay, Beeps(), (UserVoice(), UserVoice()), 25.0)
    synthetic.compose(s, chosen)
    return s.finish(f"{split}-{index}", lambda dry: dry)


said = {split: skills.user_texts(chosen, split) for split in splits.SPLITS}
everywhere = skills.user_texts(skills.SKILLS, "train")
records = {split: [make(split, i) for i in range(4)] for split in splits.SPLITS}
turns = to_microturns(records["eval"][0], Config(), Tokenizer.load(), DMel(Config().audio))
print(json.dumps({
    "listed": name in skills.SKILLS,
    "shared": len(set(said["train"]) & set(said["eval"]) | set(said["train"]) & set(said["dev"])),
    "unheard": sorted(
        {w for t in said["dev"] + said["eval"] for w in t.split()}
        - {w for t in everywhere for w in t.split()}
    ),
    "skills": sorted({s for r in records["eval"] for s in r.skills}),
    "suites": sorted({t["suite"] for r in records["eval"] for t in r.truth["trials"]}),
    "scored": sorted({suite for b in BENCHMARKS for suite in b.trial_suites}),
    "spoken": [sum(len(r.model_words) for r in rs) for rs in records.values()],
    "positions": len(lay_out(lay, turns)),
}))
"""


def example(folder: str) -> tuple[str, str]:
    """(path, source) of the one example that lies in `folder`."""
    ((path, source),) = [(p, s) for p, s in EXAMPLES.items() if p.startswith(folder)]
    assert not (ROOT / path).exists(), f"{path} exists: an example is a file that could be added"
    return path, source


def read_as_the_trainer(monkeypatch, file: Path, *overrides: str) -> config_lib.Config:
    """The config of a command line; ml_collections looks for overrides in sys.argv."""
    arguments = ["train", f"--config={file}", *overrides]
    monkeypatch.setattr(sys, "argv", arguments)
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values)
    values(arguments)
    return config_lib.from_config_dict(values["config"].value)


def test_a_new_experiment_is_one_file(tmp_path, monkeypatch):
    path, source = example("experiments/")
    file = tmp_path / Path(path).name
    file.write_text(source)
    config = read_as_the_trainer(monkeypatch, file, "--config.train.steps=5")
    assert config.name == file.stem and config.train.steps == 5
    assert tree.names(config)  # the model has shapes
    assert f"--config={path}" in source, "an experiment says how it is run"


def test_a_typo_in_an_experiment_is_refused(tmp_path, monkeypatch):
    _, source = example("experiments/")
    file = tmp_path / "typo.py"
    file.write_text(source.replace("c.model.width", "c.model.widht"))
    with pytest.raises(Exception, match="widht"):
        read_as_the_trainer(monkeypatch, file)


def test_a_new_skill_is_one_file_and_one_line(tmp_path):
    pytest.importorskip("cv2", reason="corpora need the extra [data]")
    path, source = example("data_pipelines/skills/")
    name = Path(path).stem
    shutil.copytree(
        ROOT / "data_pipelines", tmp_path / "data_pipelines",
        ignore=shutil.ignore_patterns("__pycache__"),
    )  # fmt: skip
    (tmp_path / path).write_text(source)
    names = tmp_path / "data_pipelines/skills/__init__.py"
    line = '    "charades",\n'
    assert names.read_text().count(line) == 1
    names.write_text(names.read_text().replace(line, f'{line}    "{name}",\n'))

    done = subprocess.run(
        [sys.executable, "-c", SKILL_WORKS, name],  # finds what lies in its directory first
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["listed"] and found["skills"] == [name]
    assert found["shared"] == 0 and found["unheard"] == []
    assert set(found["suites"]) <= set(found["scored"])
    assert all(n > 0 for n in found["spoken"]) and found["positions"] > 100


def test_examples_are_as_code_looks_here():
    for path, source in EXAMPLES.items():
        compile(source, path, "exec")
        assert source.startswith('"""') and max(map(len, source.splitlines())) <= 100


def test_what_is_named_exists():
    named = set(re.findall(r"`((?:tmi|data_pipelines|experiments|tests|docs)/[\w/.]+)`", TEXT))
    gone = sorted(p for p in named - set(EXAMPLES) if not (ROOT / p).exists())
    assert gone == []
