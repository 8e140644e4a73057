"""The processes of one training: how they find each other, agree, and notice that one is lost.

Every host runs the same command. On a TPU slice, on GKE and under SLURM jax.distributed finds the
others; anywhere else --coordinator, --num_processes and --process_id tell. A host that falls silent
for LOST_S ends the whole training: nothing can be computed without its part of the mesh.
"""

from __future__ import annotations

import glob
import importlib.util
import json
import os
import re
import sys
import typing

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from tmi.config import ConfigError

LOST_S = 30
SLICE = "on a TPU slice"
MEETING_S = 300  # until all have come: machines do not start together


class HostLost(RuntimeError):
    """Another process of this training is gone; the message says what stays."""


def start(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes, if there are any. Before anything else uses jax.

    Args:
      coordinator: host:port of process 0; None on TPU slices, on GKE, under SLURM or alone.

    Raises:
      ConfigError: some of the three are given and some are not, or they cannot be.
      HostLost: the others did not come.
    """
    given = {
        "--coordinator": coordinator,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    missing = [flag for flag, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise ConfigError(f"{missing[0]} is missing: {', '.join(given)} go together")
    if not missing:
        assert coordinator and num_processes is not None and process_id is not None
        if not re.fullmatch(r"(\[.+\]|[^:]+):\d+", coordinator):
            raise ConfigError(f"--coordinator={coordinator}: HOST:PORT of process 0 is accepted")
        if not 0 <= process_id < num_processes:
            raise ConfigError(
                f"--process_id={process_id}: 0 to {num_processes - 1} are accepted, with "
                f"--num_processes={num_processes}"
            )
    elif not cluster():
        return
    # Its handler would take SIGTERM from ours (StopRequest), which all hosts hear of as well.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=MEETING_S,
            heartbeat_timeout_seconds=LOST_S,
            cluster_detection_method=None if missing else "deactivate",
        )
    except (RuntimeError, ValueError, OSError) as e:
        where = cluster() if missing else f"at {coordinator}"
        if where == SLICE and isinstance(e, ValueError):
            return  # chips there are, but no slice: nothing told jax where it is
        raise HostLost(f"the hosts of this training did not all meet {where}: {e}") from e


def cluster() -> str:
    """What tells this process about the others, '' if nothing does."""
    env = os.environ
    if int(env.get("SLURM_NTASKS", 1)) > 1 and {"SLURM_PROCID", "SLURM_STEP_NODELIST"} <= set(env):
        return "under SLURM"
    workers = env.get("TPU_PROCESS_ADDRESSES", env.get("TPU_WORKER_HOSTNAMES", ""))
    if "," in workers:
        return "on GKE"
    chips = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
    if chips and importlib.util.find_spec("libtpu") and "TPU_SKIP_MDS_QUERY" not in env:
        return "" if workers else SLICE
    return ""


def several() -> bool:
    """Whether this process is one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def gather(value: typing.Any) -> list[typing.Any]:
    """Of each process its JSON-able `value`, in order. All have to call it."""
    if jax.process_count() == 1:
        return [value]
    mine = np.frombuffer(json.dumps(value).encode(), np.uint8)
    longest = int(np.max(multihost_utils.process_allgather(np.array([len(mine)], np.int32))))
    padded = np.full(longest, ord(" "), np.uint8)  # which JSON does not mind
    padded[: len(mine)] = mine
    return [json.loads(bytes(x)) for x in multihost_utils.process_allgather(padded)]


class StopVote:
    """Whether any process was told to stop, asked once a step so that all end after the same one.

    The question is one more small reduction in the queue of the devices: its answer is looked at
    a step later, and nobody waits for it.
    """

    def __init__(self, mesh: Mesh):
        self._one_each = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._any = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._size = mesh.size

    def cast(self, stop: bool) -> Array:
        """A scalar that is 1 on every process if `stop` is true on one."""
        mine = np.array([stop], np.int32)
        return self._any(
            jax.make_array_from_callback((self._size,), self._one_each, lambda _: mine)
        )


def is_loss(e: BaseException | None) -> bool:
    """Whether an error comes from another process' end."""
    signs = r"Gloo|NCCL|oordination|eartbeat|UNAVAILABLE|ABORTED|DEADLINE_EXCEEDED"
    while e is not None:
        # Of gloo's errors some come as ValueError.
        if isinstance(e, jax.errors.JaxRuntimeError | ValueError) and re.search(signs, str(e)):
            return several()
        e = e.__cause__ or e.__context__
    return False


def leave(message: str, code: int) -> typing.NoReturn:
    """Ends this process with an error, and with it, within LOST_S, the training on all hosts."""
    print(message, file=sys.stderr, flush=True)
    if several():
        # The usual way out waits for the other hosts, and they wait for this one.
        sys.stdout.flush()
        os._exit(code)
    raise SystemExit(code)
