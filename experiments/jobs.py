"""The files that start a training on other machines: a JobSet, a TPU VM's script, an sbatch script.

All three start one process a host, which finds the others by itself (tmi/train/hosts.py), and start
it again when it ends with EXIT_AGAIN: it was told to stop, or lost another host. An exit code of 1
is an error that would come again, and ends the job.
"""

from __future__ import annotations

import dataclasses
import re
import shlex

import yaml

from experiments.topologies import KINDS, Topology
from tmi.train import EXIT_AGAIN

RESTARTS = 20
GRACE_S = 300  # from SIGTERM to SIGKILL: a step and a checkpoint


@dataclasses.dataclass(frozen=True)
class Job:
    """One training on one set of machines."""

    name: str
    arguments: tuple[str, ...]  # of python -m tmi.train
    topology: Topology

    @property
    def slug(self) -> str:
        """The name as Kubernetes, gcloud and file systems take it."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        return (slug if slug[:1].isalpha() else f"tmi-{slug}")[:40].strip("-")

    @property
    def summary(self) -> str:
        t = self.topology
        return f"{self.name} on {t}: {t.chips} chips, {t.hosts} hosts, {t.devices} jax devices"


def jobset(job: Job, image: str) -> str:
    """A JobSet for GKE, as xpk makes them: one Job, one pod a host of the slice.

    The pods of a Job are spread over one node pool, so over one slice. GKE tells them which worker
    they are (TPU_WORKER_ID, TPU_WORKER_HOSTNAMES), and jax reads that.
    """
    t = job.topology
    container = {
        "name": "train",
        "image": image,
        # No shell around it: SIGTERM has to reach the training.
        "command": ["python", "-m", "tmi.train", *job.arguments],
        "env": [{"name": "JAX_PLATFORMS", "value": "tpu,cpu"}],  # never on CPUs by mistake
        "ports": [{"containerPort": 8471}, {"containerPort": 8482}],  # the slice's; jax's
        "resources": {"limits": {"google.com/tpu": t.chips_per_host}},
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_S,
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": KINDS[t.kind].gke_accelerator,
            "cloud.google.com/gke-tpu-topology": t.shape,
        },
        "tolerations": [{"key": "google.com/tpu", "operator": "Exists"}],
        "containers": [container],
    }
    hopeless = {"containerName": "train", "operator": "In", "values": [1]}
    spec = {
        "parallelism": t.hosts,
        "completions": t.hosts,
        "backoffLimit": 0,  # a pod alone cannot begin again: all do, from the last checkpoint
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": hopeless}]},
        "template": {"spec": pod},
    }
    document = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": job.slug,
            "annotations": {
                "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
            },
        },
        "spec": {
            "failurePolicy": {
                "maxRestarts": RESTARTS,
                "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "replicatedJobs": [{"name": "slice", "replicas": 1, "template": {"spec": spec}}],
        },
    }
    head = f"# {job.summary}, {t.machine_type}\n# kubectl apply -f THIS_FILE\n"
    return head + yaml.safe_dump(document, sort_keys=False, width=10_000)


def gcloud(job: Job, zone: str, project: str) -> str:
    """A bash script of `gcloud compute tpus tpu-vm`: create, install, train, log, stop, delete."""
    t = job.topology
    kind = KINDS[t.kind]
    if kind.flat:  # one shape of a size
        size = f"--accelerator-type={t.accelerator_type}"
    else:
        size = f"--type={t.kind} --topology={t.shape}"
    place = shlex.join([f"--zone={zone}", *([f"--project={project}"] if project else [])])
    train = shlex.join([".venv/bin/python", "-m", "tmi.train", *job.arguments])
    loop = f"""
    cd tmi
    for _ in $(seq {RESTARTS}); do
      code=0; {train} || code=$?
      case $code in 0|1) break;; esac
      sleep 20
    done
    """
    return f"""#!/usr/bin/env bash
# {job.summary} ({t.accelerator_type})
# From the root of a checkout: create, install, train, then log; stop saves a checkpoint and ends, and
# train goes on from there. delete gives the slice back.
set -euo pipefail

name={job.slug}
place=({place})
tpu() {{ gcloud compute tpus tpu-vm "$@" "${{place[@]}}"; }}
everywhere() {{ tpu ssh "$name" --worker=all --command="$1"; }}

case "${{1:-}}" in
  create) tpu create "$name" {size} --version={kind.software} ;;
  install)
    git archive --format=tar.gz --output=/tmp/"$name".tar.gz HEAD
    tpu scp /tmp/"$name".tar.gz "$name":tmi.tar.gz --worker=all
    everywhere 'mkdir -p tmi && tar xzf tmi.tar.gz -C tmi && cd tmi && python3 -m pip install -q uv &&
      export PATH="$HOME/.local/bin:$PATH" && uv venv -q --allow-existing --python 3.12 .venv &&
      .ci/venv gcp,tpu' ;;
  # Apart from the connection, so that the training outlives it.
  train) everywhere {shlex.quote(f"setsid nohup bash -c {shlex.quote(loop)} > train.log 2>&1 < /dev/null &")} ;;
  log) tpu ssh "$name" --worker=0 --command='tail -n 100 -f train.log' ;;
  # The loop goes first, or it would start anew.
  stop) everywhere 'pkill -f "[f]or _ in" ; pkill -TERM -f "[t]mi.train" ; true' ;;
  delete) tpu delete "$name" --quiet ;;
  *) echo "accepted: $0 create | install | train | log | stop | delete" >&2; exit 2 ;;
esac
"""  # noqa: E501


def slurm(job: Job, hours: float, partition: str) -> str:
    """An sbatch script: one task a node, which has all GPUs of its node."""
    t = job.topology
    minutes = round(hours * 60)
    wanted = [
        f"--job-name={job.slug}",
        f"--nodes={t.hosts}",
        "--ntasks-per-node=1",
        f"--gpus-per-node={t.chips_per_host}",
        "--exclusive",
        f"--time={minutes // 60}:{minutes % 60:02}:00",
        f"--signal=TERM@{GRACE_S}",
        "--requeue",
        "--open-mode=append",
        f"--output={job.slug}-%j.log",
        *([f"--partition={partition}"] if partition else []),
    ]
    header = "\n".join(f"#SBATCH {x}" for x in wanted)
    train = shlex.join([".venv/bin/python", "-m", "tmi.train", *job.arguments])
    return f"""#!/usr/bin/env bash
{header}
# {job.summary}
# sbatch THIS_FILE, from the root of a checkout that all nodes see. {GRACE_S} s before its time is
# over the training is told to stop: it saves, and the job queues up again.
set -uo pipefail
cd "$SLURM_SUBMIT_DIR"

# jax gives a SLURM task the one GPU of its number; this one takes all of its node.
export JAX_LOCAL_DEVICE_IDS={",".join(str(i) for i in range(t.chips_per_host))}
code=0
srun {train} || code=$?
# {EXIT_AGAIN}: told to stop, or another node was lost; from 128: killed. 1 is an error that stays.
if {{ [ "$code" -eq {EXIT_AGAIN} ] || [ "$code" -ge 128 ]; }} && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {RESTARTS} ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""  # noqa: E501
