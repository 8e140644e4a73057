"""Launching: commands that give the very config, files that other programs accept, refusals."""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from experiments import launch, topologies
from experiments.jobs import GRACE_S, Job, gcloud, jobset, slurm
from experiments.topologies import TopologyError
from tmi.config import ConfigError
from tmi.train import EXIT_AGAIN

ROOT = pathlib.Path(__file__).parents[2]
# kind and shape, chips, hosts, jax devices, machines on GKE, accelerator type
SLICES = [
    ("v4:2x2x2", 8, 2, 8, "ct4p-hightpu-4t", "v4-16"),
    ("v4:4x4x8", 128, 32, 128, "ct4p-hightpu-4t", "v4-256"),
    ("v5e:1x1", 1, 1, 1, "ct5lp-hightpu-1t", "v5litepod-1"),
    ("v5e:2x2", 4, 1, 4, "ct5lp-hightpu-4t", "v5litepod-4"),
    ("v5e:2x4", 8, 1, 8, "ct5lp-hightpu-8t", "v5litepod-8"),
    ("v5e:4x4", 16, 4, 16, "ct5lp-hightpu-4t", "v5litepod-16"),
    ("v5e:16x16", 256, 64, 256, "ct5lp-hightpu-4t", "v5litepod-256"),
    ("v5p:2x2x1", 4, 1, 4, "ct5p-hightpu-4t", "v5p-8"),
    ("v5p:4x4x4", 64, 16, 64, "ct5p-hightpu-4t", "v5p-128"),
    ("v5p:8x8x8", 512, 128, 512, "ct5p-hightpu-4t", "v5p-1024"),
    ("v6e:2x4", 8, 1, 8, "ct6e-standard-8t", "v6e-8"),
    ("v6e:8x16", 128, 32, 128, "ct6e-standard-4t", "v6e-128"),
    ("tpu7x:4x4x4", 64, 16, 128, "tpu7x-standard-4t", ""),
]


@pytest.mark.parametrize(("name", "chips", "hosts", "devices", "machine", "accelerator"), SLICES)
def test_a_slice_has_its_chips_and_hosts(name, chips, hosts, devices, machine, accelerator):
    t = topologies.parse(name)
    assert (t.chips, t.hosts, t.devices) == (chips, hosts, devices)
    assert (t.machine_type, t.accelerator_type, str(t)) == (machine, accelerator, name)


@given(st.integers(1, 64), st.integers(1, 16))
def test_gpus_are_counted(nodes, gpus):
    t = topologies.parse(f"gpu:{nodes}x{gpus}")
    assert (t.chips, t.hosts, t.devices) == (nodes * gpus, nodes, nodes * gpus)
    assert t.chips_per_host == gpus


@given(st.sampled_from(list(topologies.KINDS)), st.lists(st.integers(0, 40), max_size=4))
def test_what_is_accepted_divides_into_hosts(kind, sizes):
    try:
        t = topologies.parse(f"{kind}:{'x'.join(map(str, sizes))}")
    except TopologyError as e:
        assert re.search(r"accepted shapes of .* are ", str(e))
    else:
        assert t.chips_per_host * t.hosts == t.chips and t.chips_per_host in (1, 4, 8)
        assert len(sizes) == (2 if topologies.KINDS[kind].flat else 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v5q:4x4", "'v5q'; accepted are v4, v5e, v5p, v6e, tpu7x"),
        ("v5p", "v5p are 2x2x1, 2x2x2"),
        ("v5p:4x4", "three multiples of 4 in ascending order"),
        ("v5p:8x4x4", "ascending order"),
        ("v5e:4x4x4", "v5e are 1x1, 2x2, 2x4"),
        ("v5e:32x32", "16x16"),
        ("v4:16x16x16", "2048 chips at most"),
        ("gpu:4", "gpu:4x8"),
        ("gpu:4x", "gpu:4x8"),
    ],
)
def test_a_slice_that_does_not_exist_names_those_that_do(text, said):
    with pytest.raises(TopologyError, match=re.escape(said)):
        topologies.parse(text)


# -- commands --------------------------------------------------------------------------------------


def test_commands_give_the_very_configs_of_a_sweep():
    path = "experiments/ablate_tick.py"
    overrides = [
        "--config.data.skill_weights=(('a b', 1.0), ('c', 2.0))",
        "--noconfig.data.augment",
    ]
    found = launch.members(path, True, overrides)
    assert [c.microturn.seconds for c in found] == [0.2, 0.4, 1.0]
    assert len({c.name for c in found}) == 3
    for member in found:
        assert member.data.skill_weights == (("a b", 1.0), ("c", 2.0)) and not member.data.augment
        line = shlex.join(launch.arguments(path, member, "runs/x"))  # through a shell and back
        given = [a for a in shlex.split(line) if a.startswith("--config.")]
        assert launch.members(path, False, given) == [member]


def test_an_argument_of_get_config_stays():
    (member,) = launch.members("experiments/ablate_tick.py:0.4", False, [])
    args = launch.arguments("experiments/ablate_tick.py:0.4", member, "gs://b/w", "assets/nano")
    assert args == [
        "--config=experiments/ablate_tick.py:0.4", "--workdir=gs://b/w", "--init_from=assets/nano",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("ablate_tick.py:abc", r"ablate_tick.py:abc: .*seconds .*0.2, 0.4, 1.0"),
        ("ablate_tick.py:0", "ablate_tick.py:0: .*seconds"),
        ("ablate_position.py:rope", "position_bias='rope' .*'token', 'microturn', 'both'"),
        ("debug.py:abc", "debug.py:abc: .*takes nothing behind a colon"),
    ],
)
def test_an_argument_that_cannot_work_names_what_can(config, said):
    with pytest.raises(ConfigError, match=said):
        launch.members(f"experiments/{config}", False, [])


POD = [
    "--config.train.mesh=(1,16,1,1,1)", "--config.data.batch_size=16", "--config.data.shards=16",
    "--config.data.corpus=gs://b/train", "--config.data.dev_corpus=gs://b/dev",
]  # fmt: skip


def pod(change: str = ""):
    """debug on 16 devices, but for one flag."""
    rest = [a for a in POD if not change or a.split("=")[0] != change.split("=")[0]]
    return launch.members("experiments/debug.py", False, [*rest, *([change] if change else [])])[0]


def test_a_config_that_fits_is_let_through():
    launch.check_fits(pod(), "gs://b/run", topologies.parse("v5e:4x4"), None)
    launch.check_fits(pod(), "/shared/run", topologies.parse("gpu:2x8"), "/shared/other")


@pytest.mark.parametrize(
    ("change", "topology", "workdir", "said"),
    [
        ("", "v5p:4x4x4", "gs://b/run", "is for 16 devices, v5p:4x4x4 has 64: .*'(1,64,1,1,1)'"),
        ("", "tpu7x:2x2x2", "gs://b/run", None),  # two devices a chip
        ("--config.train.mesh=(1,2,8,1,1)", "v5e:4x4", "gs://b/run", "multiple of its 4 hosts"),
        ("--config.data.shards=2", "v5e:4x4", "gs://b/run", "data.shards=2.*of its 4 hosts"),
        ("--config.train.replay_every=9", "v5e:4x4", "gs://b/r", "=9 needs .* of 4 hosts, 0 is"),
        ("", "v5e:4x4", "runs/x", "--workdir=runs/x lies beside you.*gs://"),
        ("--config.data.corpus=a/b", "v5e:4x4", "gs://b/run", "data.corpus=a/b lies beside you"),
        ("--config.data.corpus=gs://b/a,c", "v5e:4x4", "gs://b/run", "data.corpus=c lies beside"),
    ],
)  # fmt: skip
def test_what_would_fail_on_the_machines_is_refused_here(change, topology, workdir, said):
    member, where = pod(change), topologies.parse(topology)
    if said is None:
        launch.check_fits(member, workdir, where, None)
        return
    with pytest.raises(ConfigError, match=said.replace("(1,64", r"\(1,64").replace("1)'", r"1\)'")):
        launch.check_fits(member, workdir, where, None)


# -- files -----------------------------------------------------------------------------------------

ARGUMENTS = (
    "--config=experiments/nano.py", "--config.train.mesh=(1, 16, 1, 1, 1)",
    "--config.data.skill_weights=(('an \"odd\" $one', 1.0),)", "--workdir=gs://b/r",
)  # fmt: skip


def job(topology: str) -> Job:
    return Job("Nano_0.4", ARGUMENTS, topologies.parse(topology))


@pytest.mark.parametrize(("name", "chips", "hosts"), [x[:3] for x in SLICES])
def test_a_jobset_asks_for_all_hosts_of_the_slice(name, chips, hosts):
    d = yaml.safe_load(jobset(job(name), "registry/tmi:1"))
    assert (d["apiVersion"], d["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", d["metadata"]["name"])
    (replicated,) = d["spec"]["replicatedJobs"]
    spec = replicated["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] == hosts and spec["backoffLimit"] == 0
    pod = spec["template"]["spec"]
    kind, shape = name.split(":")
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": topologies.KINDS[kind].gke_accelerator,
        "cloud.google.com/gke-tpu-topology": shape,
    }
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["google.com/tpu"] * hosts == chips
    assert container["command"] == ["python", "-m", "tmi.train", *ARGUMENTS]
    # An error that would come again ends the set; anything else begins again, together.
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [1] and pod["restartPolicy"] == "Never"
    assert d["spec"]["failurePolicy"]["maxRestarts"] > 0
    assert pod["terminationGracePeriodSeconds"] == GRACE_S


def bash(script: str, *args: str, path: pathlib.Path, **env: str) -> subprocess.CompletedProcess:
    """Runs a script with the programs of `path` in front of all others."""
    full = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}", **env}
    return subprocess.run(
        ["bash", "-s", "--", *args], input=script, text=True, capture_output=True, env=full
    )


def program(folder: pathlib.Path, name: str, body: str) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/usr/bin/env bash\n{body}\n")
    file.chmod(0o755)


def assert_is_bash(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("v5p:4x4x4", "--type=v5p --topology=4x4x4 --version=v2-alpha-tpuv5"),
        ("v5e:4x4", "--accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite"),
        ("v6e:2x4", "--accelerator-type=v6e-8 --version=v2-alpha-tpuv6e"),
    ],
)
def test_gcloud_creates_the_slice(name, size, tmp_path):
    script = gcloud(job(name), "us-east5-a", "my project")
    assert_is_bash(script)
    program(tmp_path, "gcloud", 'printf "%s\\n" "$@"')
    done = bash(script, "create", path=tmp_path)
    assert done.stdout.split("\n")[:-1] == [
        *"compute tpus tpu-vm create nano-0-4".split(), *size.split(), "--zone=us-east5-a",
        "--project=my project",
    ]  # fmt: skip
    wrong = bash(script, "crate", path=tmp_path)
    assert wrong.returncode == 2 and "create | install | train" in wrong.stderr


@pytest.mark.parametrize(("codes", "runs"), [("0", 1), ("1 0", 1), (f"{EXIT_AGAIN} 134 0", 3)])
def test_a_tpu_vm_trains_again_where_that_helps(codes, runs, tmp_path):
    """`gcloud ... ssh` is played by a shell on this machine."""
    program(
        tmp_path, "gcloud", 'for a; do case $a in --command=*) eval "${a#*=}"; esac; done; wait'
    )
    program(tmp_path, "setsid", '"$@"')
    program(tmp_path, "nohup", '"$@"')
    program(tmp_path, "sleep", "true")
    program(
        tmp_path, "tmi/.venv/bin/python",
        f'for a; do echo "$a" >> {tmp_path}/said; done; echo >> {tmp_path}/count\n'
        f"codes=({codes}); exit ${{codes[$(($(wc -l < {tmp_path}/count) - 1))]}}",
    )  # fmt: skip
    script = f"cd {tmp_path}\n" + gcloud(job("v5e:4x4"), "z", "")
    done = bash(script, "train", path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "count").read_text().count("\n") == runs
    said = (tmp_path / "said").read_text().splitlines()
    assert said == ["-m", "tmi.train", *ARGUMENTS] * runs


def test_sbatch_asks_for_all_gpus_and_one_task_a_node(tmp_path):
    script = slurm(job("gpu:4x8"), 1.5, "big")
    assert_is_bash(script)
    head = re.findall(r"^#SBATCH (--[a-z-]+)(?:=(.*))?$", script, re.MULTILINE)
    assert script.startswith("#!") and len(head) == script.count("#SBATCH")
    asked = dict(head)
    wanted = {
        "--job-name": "nano-0-4", "--nodes": "4", "--ntasks-per-node": "1", "--time": "1:30:00",
        "--gpus-per-node": "8", "--partition": "big", "--signal": f"TERM@{GRACE_S}",
    }  # fmt: skip
    assert wanted.items() <= asked.items()
    last = max(i for i, x in enumerate(script.splitlines()) if x.startswith("#SBATCH"))
    assert all(x.startswith("#") for x in script.splitlines()[:last])  # sbatch reads no further


@pytest.mark.parametrize(
    ("code", "before", "again"),
    [(0, 0, False), (1, 0, False), (EXIT_AGAIN, 0, True), (137, 3, True), (EXIT_AGAIN, 99, False)],
)
def test_a_slurm_job_queues_up_again_where_that_helps(code, before, again, tmp_path):
    program(tmp_path, "srun", f'printf "%s\\n" "$JAX_LOCAL_DEVICE_IDS" "$@"; exit {code}')
    program(tmp_path, "scontrol", 'echo "$@"')
    env = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7"}
    done = bash(
        slurm(job("gpu:2x4"), 24, ""), path=tmp_path, SLURM_RESTART_COUNT=str(before), **env
    )
    assert done.returncode == code
    lines = done.stdout.splitlines()
    assert lines[: len(ARGUMENTS) + 4] == [
        "0,1,2,3", ".venv/bin/python", "-m", "tmi.train", *ARGUMENTS
    ]  # fmt: skip
    assert lines[len(ARGUMENTS) + 4 :] == (["requeue 7"] if again else [])


# -- the command -----------------------------------------------------------------------------------


def test_a_file_is_written_for_each_member(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    launch.main([
        "launch", "--config=experiments/ablate_tick.py", "--sweep", "--workdir=gs://b/tick",
        "--on=gke", "--topology=v5p:2x2x2", "--image=i", f"--out={tmp_path}", *POD[1:],
        "--config.train.mesh=(1,8,1,1,1)",
    ])  # fmt: skip
    names = [f"tick-{x}" for x in ("0-2", "0-4", "1")]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{n}.yaml" for n in names]
    said = capsys.readouterr().out
    assert said.count("kubectl apply -f") == 3
    assert said.count("8 chips, 2 hosts, 8 jax devices") == 3
    command = yaml.safe_load((tmp_path / "tick-0-4.yaml").read_text())
    assert "--workdir=gs://b/tick/tick_0.4" in str(command)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Tick_0.4", "tick-0-4"), ("x" * 39 + "_y", "x" * 39), ("2x wide", "tmi-2x-wide"),
        ("é", "tmi"),
    ],
)  # fmt: skip
def test_names_are_those_that_machines_take(name, slug):
    assert Job(name, (), topologies.parse("v5e:1x1")).slug == slug


def test_members_of_one_file_are_refused(tmp_path):
    sweep = tmp_path / "sweep.py"
    sweep.write_text(
        "from tmi import config\n\n\ndef get_config():\n    return config.default()\n\n\n"
        "def sweep():\n    for rate in '1e-3', '1e 3':\n"
        "        c = config.default()\n        c.name = f'lr_{rate}'\n"
        "        c.data.corpus = c.data.dev_corpus = 'gs://b/c'\n        yield c\n"
    )
    with pytest.raises(SystemExit, match="'lr-1e-3' as another member"):
        launch.main([
            "launch", f"--config={sweep}", "--sweep", "--workdir=gs://b/w", "--on=gke",
            "--topology=v5e:1x1", "--image=i", f"--out={tmp_path / 'out'}",
        ])  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_here_it_is_a_line_to_run():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.launch", "--config=experiments/debug.py",
         "--workdir=runs/x", "--config.train.steps=3"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout == (
        "python -m tmi.train --config=experiments/debug.py --config.train.steps=3 "
        "--workdir=runs/x\n"
    )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--tpology=v5e:4x4"], "Did you mean: topology"),
        (["--on=gcp"], "local|gke|gcloud|slurm"),
        (["--on=gke"], "needs --topology, for instance"),
        (["--topology=v5e:4x4"], "gke, gcloud, slurm are accepted"),
        (["--sweep"], "with --sweep: experiments/ablate_position.py, experiments/ablate_tick.py"),
        (["--config.modle.width=3"], "accepted in config: audio,"),
        (["--config.train.steps=x"], "config.train.steps=x"),
        (["loose"], "'loose' is no flag"),
    ],
)
def test_a_typo_is_told_what_is_accepted(args, said, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    common = ["launch", "--config=experiments/debug.py", "--workdir=gs://b/w", f"--out={tmp_path}"]
    with pytest.raises(SystemExit, match="^error: ") as e:
        launch.main([*common, *args])
    assert said in str(e.value)
    assert not list(tmp_path.iterdir())


def test_an_experiment_that_is_not_there_names_those_that_are():
    with pytest.raises(ConfigError, match=r"no such file; there are: .*debug.py.*nano.py"):
        launch.load(str(ROOT / "experiments" / "nan.py"))
    with pytest.raises(ConfigError, match=r"a file with get_config\(\)"):
        launch.load(str(ROOT / "experiments" / "jobs.py"))
