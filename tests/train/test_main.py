"""The command line: errors that name the field, experiments that can run."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

from experiments import ablate_position, ablate_tick
from tmi import config as config_lib
from tmi.config import Config, ConfigError
from tmi.train.overrides import check_overrides


def run(*args: str, module: str = "tmi.train") -> subprocess.CompletedProcess:
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", module, *args], capture_output=True, text=True, env=env
    )


@pytest.mark.parametrize(
    ("arg", "said"),
    [
        ("--config.modle.width=3", "config.modle.width does not exist; accepted in config: audio,"),
        ("--config.model.widht=3", r"config.model.widht does not exist; .*config.model: width,"),
        (
            "-config.train=3",
            r"config.train is a section .*config.train.NAME=VALUE .*one of steps, ",
        ),
        ("--noconfig.train.rmat", "config.train.rmat does not exist; .* remat"),
    ],
)
def test_a_typo_names_the_field_and_what_is_accepted(arg, said):
    with pytest.raises(ConfigError, match=said):
        check_overrides(["--config=experiments/debug.py", arg])


def test_every_field_can_be_given():
    check_overrides([f"--config.{name}=1" for name in config_lib.flatten(Config())])


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--config=experiments/debug.py", "--config.model.widht=3"], "accepted in config.model"),
        (["--config=experiments/debug.py", "--config.model.width=x"], "config.model.width=x"),
        (["--config=experiments/debug.py", "--config.model.num_heads=3", "--config.model.num_kv_heads=2"], "a multiple of model.num_kv_heads"),  # noqa: E501
        (["--config.model.width=3"], "--config=F, which is missing"),
        ([], "give an experiment"),
        (["--config=experiments/ablate_tick.py:abc"], "such as 0.2, 0.4, 1.0"),
        (["--config=experiments/debug.py", "--config.model=3"], "config.model is a section"),
        (["--config=experiments/none.py"], "no such file; there are: "),
        (["--config=experiments/debug.py", "--config.data.corpus=nowhere"], "nowhere is no corpus"),
    ],
)  # fmt: skip
def test_a_wrong_command_ends_with_one_line(args, said, tmp_path):
    done = run(*args, f"--workdir={tmp_path}")
    assert done.returncode != 0
    assert said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("module", "wrong", "said"),
    [
        ("tmi.aot", ["--config=experiments/none.py"], "no such file; there are: "),
        ("tmi.aot", ["--config=experiments/debug.py", "--config.model.nope=3"], "accepted in config.model"),  # noqa: E501
        ("tmi.train.measure", ["--config=experiments/none.py"], "no such file; there are: "),
    ],
)  # fmt: skip
def test_other_commands_say_the_same(module, wrong, said):
    done = run(*wrong, module=module)
    assert done.returncode != 0 and done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and said in last and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["nano", "demo", "debug", "ablate_tick", "ablate_position"])
def test_every_experiment_is_a_config_that_can_run(name):
    module = importlib.import_module(f"experiments.{name}")
    assert module.__doc__
    assert config_lib.from_config_dict(module.get_config()).name


def test_the_sweep_changes_the_length_alone():
    members = [config_lib.from_config_dict(c) for c in ablate_tick.sweep()]
    assert [c.microturn.seconds for c in members] == [0.2, 0.4, 1.0]
    horizon = {round(c.model.time_max_microturns * c.microturn.seconds, -1) for c in members}
    assert len(horizon) == 1
    differing = {
        d.split(":")[0] for c in members for d in config_lib.differing_fields(members[0], c)
    }
    assert differing <= {
        "microturn.seconds", "microturn.max_text_in", "microturn.max_text_out",
        "model.time_max_microturns", "data.corpus", "data.dev_corpus",
    }  # fmt: skip
    assert len({c.data.corpus for c in members}) == 3  # answers lie on each one's own clock


def test_the_sweep_changes_the_position_scheme_alone():
    members = [config_lib.from_config_dict(c) for c in ablate_position.sweep()]
    assert [c.model.position_bias for c in members] == ["token", "microturn", "both"]
    for c in members:
        differing = config_lib.differing_fields(members[-1], c)
        assert all(d.startswith(("name", "model.position_bias")) for d in differing)
