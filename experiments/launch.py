"""An experiment, or every member of its sweep, as commands and as files that start them elsewhere.

    python -m experiments.launch --config=experiments/ablate_tick.py --sweep --workdir=runs/tick
    python -m experiments.launch --config=experiments/nano.py --workdir=gs://bucket/runs/nano \\
        --on=gke --topology=v5p:2x2x2 --image=REGISTRY/tmi:1 --config.train.mesh='(1,8,1,1,1)' ...

--on=local prints the commands; gke (a JobSet), gcloud (TPU VMs) and slurm write a file for each
into --out and print what to do with it. experiments/README.md leads from one to the other. A member
of a sweep trains in WORKDIR/<its name>. Nothing is started.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import pathlib
import re
import shlex
import sys
import types
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments import jobs, topologies
from experiments.topologies import Topology, TopologyError
from tmi import config as config_lib
from tmi.config import Config, ConfigError
from tmi.train.overrides import check_overrides, experiments, is_experiment

TARGETS = ("local", "gke", "gcloud", "slurm")
SUFFIX = {"gke": ".yaml", "gcloud": ".sh", "slurm": ".sbatch"}
NEXT = {"gke": "kubectl apply -f {0}", "gcloud": "bash {0} create", "slurm": "sbatch {0}"}


def options() -> flags.FlagValues:
    """The flags, apart from those of other modules."""
    o = flags.FlagValues()
    text, number = flags.DEFINE_string, flags.DEFINE_float
    text("config", None, "experiments/<name>.py[:argument]", o, required=True)
    flags.DEFINE_bool("sweep", False, "Every member of the experiment's sweep().", o)
    text("workdir", None, "Where it trains; gs:// works.", o, required=True)
    text("init_from", None, "As of tmi.train.", o)
    flags.DEFINE_enum("on", "local", TARGETS, "What is to start it.", o)
    text("topology", None, "v5p:4x4x4, v5e:4x4, ..., gpu:NODESxGPUS", o)
    text("out", "build/launch", "Where the files go.", o)
    text("image", None, "gke: the container that holds tmi.", o)
    text("zone", None, "gcloud: of the slice.", o)
    text("project", "", "gcloud: if not the default one.", o)
    number("hours", 24.0, "slurm: time before it queues up again.", flag_values=o)
    text("partition", "", "slurm: if not the default one.", o)
    return o


def load(path: str) -> types.ModuleType:
    """The experiment in a file. Raises ConfigError, naming those beside it, if it is not there."""
    file = pathlib.Path(path)
    if not file.is_file():
        named = ", ".join(experiments(file.parent))
        raise ConfigError(f"--config={path}: no such file; there are: {named}")
    if not is_experiment(file):
        raise ConfigError(f"--config={path}: a file with get_config() is accepted")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def members(config: str, sweep: bool, overrides: Sequence[str]) -> list[Config]:
    """What is to be trained: the experiment, or every member of its sweep(), with the overrides.

    Args:
      config: a file, with an argument of get_config behind a colon where it takes one.
      overrides: '--config.a.b=value', as tmi.train takes them.

    Raises:
      ConfigError: the file, its sweep or a field is not there, a value cannot work, or two members
        have one name.
    """
    check_overrides(list(overrides))
    path, _, argument = config.partition(":")
    module = load(path)
    if not sweep:
        views = [_view(module, config)]
    elif argument or not hasattr(module, "sweep"):
        have = sorted(
            str(p)
            for p in pathlib.Path(path).parent.glob("*.py")
            if re.search(r"^def sweep\(", p.read_text(), re.MULTILINE)
        )
        raise ConfigError(f"--config={config} has no sweep(); with --sweep: {', '.join(have)}")
    else:
        views = list(module.sweep())
    found = [_overridden(view, overrides) for view in views]
    names = [c.name for c in found]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ConfigError(f"two members are called {twice[0]!r}: each needs its own config.name")
    return found


def _view(module: types.ModuleType, config: str) -> ConfigDict:
    """get_config() of `module`, with what stands behind the colon of `config`."""
    argument = config.partition(":")[2]
    if argument and not inspect.signature(module.get_config).parameters:
        raise ConfigError(f"--config={config}: its get_config() takes nothing behind a colon")
    return module.get_config(argument) if argument else module.get_config()


def _overridden(view: ConfigDict, overrides: Sequence[str]) -> Config:
    values, argv = flags.FlagValues(), ["launch", *overrides]
    holder = config_flags.DEFINE_config_dict("config", view, flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except (flags.Error, TypeError, ValueError) as e:
        raise ConfigError(str(e)) from e
    return config_lib.from_config_dict(holder.value)


def arguments(config: str, member: Config, workdir: str, init_from: str | None = None) -> list[str]:
    """What `python -m tmi.train` takes to train `member`: the file and what differs from it."""
    base = config_lib.from_config_dict(_view(load(config.partition(":")[0]), config))
    have, want = config_lib.flatten(base), config_lib.flatten(member)
    changed = [f"--config.{k}={_value(v)}" for k, v in want.items() if have[k] != v]
    start = [f"--init_from={init_from}"] if init_from else []
    return [f"--config={config}", *changed, f"--workdir={workdir}", *start]


def _value(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def check_fits(member: Config, workdir: str, topology: Topology, init_from: str | None) -> None:
    """Raises ConfigError for what would only fail, or crawl, once the machines are there."""
    mesh, hosts = member.train.mesh, topology.hosts
    size = math.prod(mesh)
    if size != topology.devices:
        raise ConfigError(
            f"config.train.mesh={mesh} is for {size} devices, {topology} has {topology.devices}: "
            f"give for instance --config.train.mesh='(1,{topology.devices},1,1,1)', its sizes "
            f"being those of {config_lib.MESH_AXES}"
        )
    rows = mesh[0] * mesh[1]
    if rows % hosts:
        raise ConfigError(
            f"config.train.mesh={mesh} divides a batch in {rows} (data x fsdp): on {topology} a "
            f"multiple of its {hosts} hosts is accepted, so that each has rows of its own"
        )
    if hosts > 1 and member.train.replay_every:
        raise ConfigError(
            f"config.train.replay_every={member.train.replay_every} needs all weights in one "
            f"process: on {topology}, of {hosts} hosts, 0 is accepted"
        )
    if member.data.shards % hosts:
        raise ConfigError(
            f"config.data.shards={member.data.shards}: on {topology} a multiple of its {hosts} "
            "hosts is accepted, so that each reads its own part of the corpus and no more"
        )
    places = {
        "--workdir": workdir,
        "--config.data.corpus": member.data.corpus,
        "--config.data.dev_corpus": member.data.dev_corpus if member.train.eval_every else None,
        "--init_from": init_from,
    }
    named = ((flag, path) for flag, paths in places.items() for path in (paths or "").split(","))
    for flag, path in named:
        if path and "://" not in path and not path.startswith("/"):
            raise ConfigError(
                f"{flag}={path} lies beside you: on {topology} a path that every host sees is "
                "accepted, gs://BUCKET/... or /absolute on a shared disk"
            )


def render(o: flags.FlagValues, job: jobs.Job) -> str:
    """The file of --on. Raises ConfigError if a flag that it needs is missing."""
    kind = job.topology.kind
    if (o.on == "slurm") != (kind == "gpu"):
        accepted = "gpu:NODESxGPUS" if o.on == "slurm" else ", ".join(topologies.KINDS)
        raise ConfigError(f"--on={o.on} --topology={job.topology}: accepted there: {accepted}")
    if o.on == "slurm":
        return jobs.slurm(job, o.hours, o.partition)
    if o.on == "gke":
        if not o.image:
            raise ConfigError("--on=gke needs --image=..., a container with tmi in it")
        return jobs.jobset(job, o.image)
    if not o.zone:
        raise ConfigError("--on=gcloud needs --zone=..., for instance --zone=us-east5-a")
    if not job.topology.accelerator_type:
        raise ConfigError(f"--on=gcloud: {kind} is to be had on GKE alone, --on=gke")
    return jobs.gcloud(job, o.zone, o.project)


def launch(o: flags.FlagValues, overrides: Sequence[str]) -> None:
    """Prints and writes what the flags ask for. Raises ConfigError or TopologyError before it
    writes anything."""
    workdir = o.workdir.rstrip("/")
    found = members(o.config, o.sweep, overrides)
    if o.on == "local" and o.topology:
        raise ConfigError(f"--topology needs --on: {', '.join(TARGETS[1:])} are accepted")
    if o.on != "local" and not o.topology:
        raise ConfigError(f"--on={o.on} needs --topology, for instance v5p:4x4x4 or gpu:4x8")
    topology = topologies.parse(o.topology) if o.topology else None
    files: list[tuple[pathlib.Path, str, str]] = []
    for member in found:
        where = f"{workdir}/{member.name}" if o.sweep else workdir
        args = arguments(o.config, member, where, o.init_from)
        if topology is None:
            print(shlex.join(["python", "-m", "tmi.train", *args]))
            continue
        check_fits(member, where, topology, o.init_from)
        job = jobs.Job(member.name, tuple(args), topology)
        file = pathlib.Path(o.out) / (job.slug + SUFFIX[o.on])
        if any(file == other for other, _, _ in files):
            raise ConfigError(
                f"{member.name!r} would be {job.slug!r} as another member is: names that differ in "
                "the letters and digits of their first 40 are accepted"
            )
        files.append((file, render(o, job), job.summary))
    for file, text, summary in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        print(f"# {summary}\n{NEXT[o.on].format(shlex.quote(str(file)))}")


def main(argv: Sequence[str]) -> None:
    o = options()
    if "--help" in argv:
        print(__doc__, o.get_help(), sep="\n")
        return
    theirs = [a for a in argv[1:] if re.match(r"--?(no)?config\.", a)]
    try:
        rest = o([a for a in argv if a not in theirs])
        if len(rest) > 1:
            raise flags.Error(f"{rest[1]!r} is no flag")
        launch(o, theirs)
    except flags.Error as e:
        raise SystemExit(f"error: {e}; --help lists the flags") from e
    except (ConfigError, TopologyError) as e:
        raise SystemExit(f"error: {e}") from e


if __name__ == "__main__":
    main(sys.argv)
