"""python -m tmi.train --config=F --workdir=W [--config.a.b=v] [--init_from=W2]

Trains, or goes on if W holds a checkpoint; without --config W's own config.json is taken. W and the
corpus may lie in buckets (gs://). On several hosts the same command runs on each; where they do not
find each other by themselves, with --coordinator, --num_processes and --process_id.

Ends with 0 when all is done, 1 for an error that would come again, and 75 where the same command
goes on: it was told to stop (SIGTERM, SIGINT) and has saved, or another host was lost.
"""

from __future__ import annotations

import traceback

from absl import app, flags, logging
from ml_collections import config_flags

from tmi import config as config_lib
from tmi import large_pages, libtpu, paths
from tmi.config import Config, ConfigError
from tmi.train.overrides import parse_or_exit

_CONFIG = config_flags.DEFINE_config_file("config", None, "experiments/<name>.py", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run writes.", required=True)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, of several.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many run this command.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")
_INIT_FROM = flags.DEFINE_string("init_from", None, "Workdir or export to take the weights of.")


def resolve() -> Config:
    """The config that the flags give."""
    if _CONFIG.value is not None:
        return config_lib.from_config_dict(_CONFIG.value)
    own = paths.at(_WORKDIR.value) / "config.json"
    if not own.exists():
        raise ConfigError(
            f"--config is missing, and {own} as well: give an experiment, for instance "
            "--config=experiments/nano.py"
        )
    return config_lib.from_json(own.read_text())


def main(_: list[str]) -> None:
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
        # Orbax tells every file it writes; what fails is raised, and named, by Checkpoints.
        logging.get_absl_logger().addFilter(lambda r: "orbax" not in r.pathname)
    try:
        config = resolve()
    except ConfigError as e:
        raise SystemExit(f"error: {e}") from e
    libtpu.set_flags()
    # Not before: what these import takes seconds, and a typo should not wait for it. Nor later:
    # once the hosts have met, they wait for each other half a minute and no longer.
    from tmi import compiled
    from tmi.data.records import CorpusError
    from tmi.train import EXIT_AGAIN, hosts
    from tmi.train.checkpoint import CheckpointError
    from tmi.train.loop import train
    from tmi.train.metrics import TrainingDiverged

    compiled.keep()
    try:
        hosts.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    except ConfigError as e:
        raise SystemExit(f"error: {e}") from e
    except hosts.HostLost as e:
        hosts.leave(f"error: {e}", EXIT_AGAIN)

    try:
        result = train(config, _WORKDIR.value, _INIT_FROM.value)
    except hosts.HostLost as e:
        hosts.leave(f"error: {e}", EXIT_AGAIN)
    except (ConfigError, CorpusError, CheckpointError, TrainingDiverged) as e:
        hosts.leave(f"error: {e}", EXIT_AGAIN if hosts.is_loss(e) else 1)
    except Exception as e:
        if not hosts.several():
            raise
        hosts.leave(traceback.format_exc(), EXIT_AGAIN if hosts.is_loss(e) else 1)
    if result["stopped"]:
        raise SystemExit(EXIT_AGAIN)


if __name__ == "__main__":
    large_pages.restart_with("tmi.train")
    app.run(main, flags_parser=parse_or_exit)
