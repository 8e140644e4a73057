"""python -m tmi.aot --config=F --topology=v5p:4x4x4 [--mode=train|decode] [--fit --sessions
--context]

Compiles a config for a TPU slice on any machine. One JSON object on stdout, a table on stderr.
"""

from __future__ import annotations

import json
import math
import os

from absl import app, flags
from ml_collections import config_flags

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

from tmi import libtpu  # noqa: E402

libtpu.set_flags()

from tmi import config as config_lib  # noqa: E402
from tmi.aot import hardware, program  # noqa: E402
from tmi.aot.fit import fit, with_mesh  # noqa: E402
from tmi.aot.report import Asked, report, say, table  # noqa: E402
from tmi.config import ConfigError  # noqa: E402
from tmi.train.overrides import parse_or_exit  # noqa: E402

_CONFIG = config_flags.DEFINE_config_file("config", None, "experiments/<name>.py", lock_config=True)
_TOPOLOGY = flags.DEFINE_string("topology", None, "CHIP:AxBxC, or CHIP alone with --fit.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "decode"], "What is compiled.")
_FIT = flags.DEFINE_bool("fit", False, "Search the smallest slice, and its mesh, that fits.")
_PARAMETERS = flags.DEFINE_bool("parameters", False, "Only count the parameters, by part.")
_HLO = flags.DEFINE_string("hlo", None, "A file for the compiled program's text.")
_SESSIONS = flags.DEFINE_integer("sessions", 64, "Sessions of --mode=decode.", lower_bound=1)
_CONTEXT = flags.DEFINE_integer("context", 32768, "Positions each remembers.", lower_bound=1)


def parameter_table(counts: dict[str, int]) -> str:
    """What people read."""
    return "\n".join(f"  {part:<18} {size:>18,}" for part, size in counts.items())


def main(_) -> None:
    topology = _TOPOLOGY.value or ""
    if _CONFIG.value is None or not (topology or _PARAMETERS.value):
        raise SystemExit("error: --config=experiments/NAME.py is needed, and --topology=v5p:4x4x4")
    try:
        config = config_lib.from_config_dict(_CONFIG.value)
        if _PARAMETERS.value:
            counts = program.count_parameters(config)
            say(f"parameters of {config.name}\n{parameter_table(counts)}")
            print(json.dumps({"config": config.name, "parameters": counts}))
            return
        asked = Asked(_MODE.value, _SESSIONS.value, _CONTEXT.value, _HLO.value)
        if _FIT.value:
            name = topology.split(":")[0]
            if name not in hardware.CHIPS:
                raise ValueError(f"--topology={name!r}: accepted are {', '.join(hardware.CHIPS)}")
            out = fit(config, hardware.CHIPS[name], asked)
        else:
            where = hardware.parse(topology)
            if math.prod(config.train.mesh) == 1:  # not chosen
                config = with_mesh(config, (1, where.num_devices, 1, 1, 1), asked.mode)
            out = report(config, where, asked)
    except (ConfigError, ValueError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from None
    say(table(out))
    print(json.dumps(out))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_or_exit)
