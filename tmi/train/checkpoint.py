"""Checkpoints (Orbax) and the small form that is shipped.

    WORKDIR/config.json             the resolved config
    WORKDIR/checkpoints/<step>/     params, ema, opt, info: what training goes on from
    WORKDIR/best/<step>/            params, ema, info of the lowest dev loss
    EXPORT/config.json params.npz info.json     averaged weights, rounded to float16

`info` is JSON: format version, config, step, position in the data, dev metrics, legs. An export is
written by `python -m tmi.train.checkpoint --workdir=W --out=DIR`, and is a workdir for every
command but train; `restore_params` reads both.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import typing
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jaxtyping import Array

from tmi import command, paths
from tmi import config as config_lib
from tmi.config import FORMAT_VERSION, Config
from tmi.interop import origin
from tmi.models.interaction import TRAINING_ONLY
from tmi.paths import PathLike
from tmi.sharding import param_shapes
from tmi.train import trainable

if typing.TYPE_CHECKING:
    from tmi.train.step import TrainState

PARAMS_FILE, INFO_FILE, CONFIG_FILE = "params.npz", "info.json", "config.json"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message names it and what still stands."""


def make_info(config: Config, step: int, data: dict | None, legs: list[dict], dev: dict) -> dict:
    return {
        "format_version": FORMAT_VERSION,
        "config": dataclasses.asdict(config),
        "step": step,
        "data": data,
        "legs": legs,
        "dev": dev,
    }


def _check_version(info: dict, where: object) -> dict:
    found = info.get("format_version")
    if found != FORMAT_VERSION:
        raise CheckpointError(
            f"{where} has format version {found}; this code reads version {FORMAT_VERSION}"
        )
    return info


def _reason(e: BaseException) -> str:
    """The innermost cause in one line: Orbax wraps what the file system said."""
    while e.__cause__ is not None:
        e = e.__cause__
    text = re.sub(r'"/[^"]*/([^"/]+)/?"', r'".../\1"', " ".join(str(e).split()))  # its long paths
    return f"{type(e).__name__}: {text if len(text) < 500 else text[:500] + ' ...'}"


class Checkpoints:
    """The checkpoints of a workdir. Saving goes on in the background; errors surface at the next
    call. A checkpoint that fails leaves the ones before it as they are.
    """

    def __init__(self, workdir: PathLike, keep: int = 2):
        self.path = paths.absolute(workdir)
        if (self.path / PARAMS_FILE).exists():
            raise CheckpointError(
                f"{workdir} is an export, which holds no optimizer to go on with: give its path as "
                "--init_from and another --workdir"
            )
        self._latest = self._manager("checkpoints", max_to_keep=keep)
        self._best = self._manager(
            "best", max_to_keep=1, best_fn=lambda m: m["loss"], best_mode="min"
        )
        self._under_way, self._saved, self._abandoned = "nothing", -1, False

    def _manager(self, name: str, **options) -> ocp.CheckpointManager:
        with self._named(f"opening {self.path / name}"):
            return ocp.CheckpointManager(
                self.path / name,
                options=ocp.CheckpointManagerOptions(
                    create=True, cleanup_tmp_directories=True, **options
                ),
            )

    @contextlib.contextmanager
    def _named(self, what: str) -> Iterator[None]:
        try:
            yield
        except CheckpointError:
            raise
        except Exception as e:
            raise CheckpointError(f"{what} failed ({_reason(e)}). {self._standing()}") from e

    def _standing(self) -> str:
        """What can be relied on after a failure."""
        steps = self.steps()
        if not steps:
            return "No checkpoint has been saved yet; free space or check the path, then try again"
        return (
            f"The last good checkpoint is step {steps[-1]} in {self.path / 'checkpoints'}; free "
            "space or check the path, and the same command goes on from there"
        )

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, oldest first, as they lie on disk."""
        return sorted(int(p.name) for p in _finished(self.path / "checkpoints"))

    def best_loss(self) -> float:
        """The lowest dev loss so far; infinity if there is none."""
        step = self._best.best_step()
        if step is None:
            return float("inf")
        info = self._best.restore(step, args=ocp.args.Composite(info=ocp.args.JsonRestore()))
        return float(info["info"]["dev"]["loss"])

    def save(self, state: TrainState, info: dict) -> None:
        if info["step"] == self._saved:
            return  # known without looking: hosts might see a shared disk change at different times
        arrays = {"params": state.params, "ema": state.ema, "opt": state.opt}
        self._save(self._latest, arrays, info, None)
        self._saved = info["step"]

    def save_best(self, state: TrainState, info: dict) -> None:
        """Keeps params and averages if info's dev loss is the lowest so far."""
        if info["step"] in self._best.all_steps():  # measured again, after a resume
            self._forget(info["step"])
        arrays = {"params": state.params, "ema": state.ema}
        self._save(self._best, arrays, info, {"loss": info["dev"]["loss"]})

    def forget_best(self) -> None:
        for step in self._best.all_steps():
            self._forget(step)

    def _forget(self, step: int) -> None:
        with self._named(f"deleting step {step} in {self.path / 'best'}"):
            self._best.wait_until_finished()
            self._best.delete(step)

    def _save(self, manager, arrays: dict, info: dict, metrics: dict | None) -> None:
        self.wait()
        arrays = _detached(arrays)
        items = {k: ocp.args.StandardSave(v) for k, v in arrays.items() if v}  # no average: none
        args = ocp.args.Composite(**items, info=ocp.args.JsonSave(info))
        self._under_way = f"saving step {info['step']} in {manager.directory}"
        with self._named(self._under_way):
            manager.save(info["step"], args=args, metrics=metrics, force=True)

    def wait(self) -> None:
        """Returns once what was begun is on disk. Raises CheckpointError if it failed."""
        with self._named(self._under_way):
            for manager in (self._latest, self._best):
                manager.wait_until_finished()
                manager.check_for_errors()
        self._under_way = "nothing"

    def info(self) -> dict | None:
        """That of the latest checkpoint; None if there is none."""
        step = self._latest.latest_step()
        if step is None:
            return None
        where = self.path / "checkpoints" / str(step)
        with self._named(f"reading {where}"):
            args = ocp.args.Composite(info=ocp.args.JsonRestore())
            return _check_version(self._latest.restore(step, args=args)["info"], where)

    def restore(self, like: TrainState) -> TrainState:
        """The latest state; `like` gives shapes, dtypes and shardings, of any mesh."""
        step = self._latest.latest_step()
        with self._named(f"reading step {step} in {self.path / 'checkpoints'}"):
            parts = {"params": like.params, "ema": like.ema, "opt": like.opt}
            args = {k: ocp.args.StandardRestore(v) for k, v in parts.items() if v}
            found = self._latest.restore(step, args=ocp.args.Composite(**args))
        self._saved = step
        count = jax.device_put(jnp.asarray(step, jnp.int32), like.step.sharding)
        return type(like)(count, found["params"], found["ema"] if like.ema else {}, found["opt"])

    def abandon(self) -> None:
        """Makes `close` return at once: what is being saved can never be finished."""
        self._abandoned = True

    def close(self) -> None:
        if self._abandoned:
            return
        for manager in (self._latest, self._best):
            with contextlib.suppress(Exception):  # named by wait() already
                manager.close()


def _finished(folder: epath.Path) -> list[epath.Path]:
    """Folders of the checkpoints in `folder` that were written to their end: in a bucket a
    checkpoint lies at its place from the first byte on, and is marked when it is whole."""
    return [p for p in folder.glob("*") if p.name.isdigit() and ocp.path.step.is_path_finalized(p)]


def _detached(arrays):
    """Arrays that stay as they are while training goes on and donates its state."""
    # A CPU array is host memory already: Orbax would write from the very buffer that is reused.
    if jax.default_backend() == "cpu":
        return jax.tree.map(lambda x: jax.device_put(x, x.sharding, may_alias=False), arrays)
    return arrays


# -- reading parameters alone --------------------------------------------------------------------


def restore_params(
    workdir: PathLike, which: str = "best", ema: bool = True
) -> tuple[Config, dict[str, Array]]:
    """Config and float32 parameters by name, of a training's workdir or of an export.

    Args:
      which: 'best' (lowest dev loss; the latest if none was measured) or 'latest'. An export holds
        one set of parameters, whatever is asked for.
      ema: the averaged weights, where training kept an average (an export has no others).

    Raises:
      CheckpointError: nothing readable is there, or it has another format version.
    """
    config, params, _ = read(workdir, which, ema)
    return config, params


def read(
    workdir: PathLike,
    which: str = "best",
    ema: bool = True,
    shardings: Mapping[str, jax.sharding.Sharding] | None = None,
) -> tuple[Config, dict[str, Array], dict]:
    """As `restore_params`, with the checkpoint's info as well. Of a training's workdir parameters
    that `shardings` names, and whose shapes it can divide, come placed so."""
    if which not in ("best", "latest"):
        raise ValueError(f"which={which!r}: 'best' or 'latest' is accepted")
    path = paths.absolute(workdir)
    if (path / PARAMS_FILE).exists():
        config, params, info = _read_export(path)
    else:
        folder = _checkpoint_folder(path, which)
        info, params = _read_folder(folder, ema and (folder / "ema").exists(), shardings or {})
        config = config_lib.from_config_dict(info["config"])
    missing = sorted(set(param_shapes(config)) ^ set(params))
    if missing:
        raise CheckpointError(f"{workdir}: parameters missing or unknown: {', '.join(missing[:5])}")
    shapes = param_shapes(config)
    wrong = [n for n, x in params.items() if tuple(x.shape) != shapes[n]]
    if wrong:
        raise CheckpointError(
            f"{workdir}: {wrong[0]} has shape {params[wrong[0]].shape}; its config wants "
            f"{shapes[wrong[0]]}"
        )
    return config, {n: jnp.asarray(x, jnp.float32) for n, x in params.items()}, info


def _checkpoint_folder(path: epath.Path, which: str) -> epath.Path:
    names = ("best", "checkpoints") if which == "best" else ("checkpoints",)
    for name in names:
        steps = _finished(path / name)
        if steps:
            return max(steps, key=lambda p: int(p.name))
    raise CheckpointError(
        f"{path} holds no checkpoint: neither {PARAMS_FILE} nor {' nor '.join(names)}/<step> is "
        "there. Train one with: python -m tmi.train --config=F --workdir=W"
    )


def _read_folder(
    folder: epath.Path, average: bool, shardings: Mapping[str, jax.sharding.Sharding]
) -> tuple[dict, dict[str, np.ndarray]]:
    """Info, and parameters by name: if `average`, the averages of those that move."""
    handler = ocp.CompositeCheckpointHandler()
    try:
        with ocp.Checkpointer(handler) as reader:
            args = ocp.args.Composite(info=ocp.args.JsonRestore())
            info = _check_version(reader.restore(folder, args=args)["info"], folder)
            config = config_lib.from_config_dict(info["config"])
            alone = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            like = {}
            for n, shape in param_shapes(config).items():
                placed = shardings.get(n, alone)
                placed = placed if _divides(placed, shape) else alone
                like[n] = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=placed)
            moves = trainable.moving(config)
            items = {"ema": {n: x for n, x in like.items() if n in moves}} if average else {}
            if not average or len(moves) < len(like):  # the others have no average
                items["params"] = like
            args = {k: ocp.args.StandardRestore(v) for k, v in items.items()}
            found = reader.restore(folder, args=ocp.args.Composite(**args))
            return info, (found.get("params") or {}) | (found.get("ema") or {})
    except (CheckpointError, config_lib.ConfigError):
        raise
    except Exception as e:
        raise CheckpointError(f"reading {folder} failed ({_reason(e)})") from e


def _divides(sharding: jax.sharding.Sharding, shape: tuple[int, ...]) -> bool:
    """Whether it goes with `shape`: a checkpoint's may be another, which its reader will name."""
    try:
        sharding.shard_shape(shape)
    except ValueError:
        return False
    return True


# -- the shipped form ----------------------------------------------------------------------------


def _read_export(path: epath.Path) -> tuple[Config, dict[str, np.ndarray], dict]:
    try:
        config = config_lib.from_json((path / CONFIG_FILE).read_text())
        info = _check_version(json.loads((path / INFO_FILE).read_text()), path)
        packed = io.BytesIO((path / PARAMS_FILE).read_bytes())
        with np.load(packed, allow_pickle=False) as file:
            return config, {n: file[n].astype(np.float32) for n in file.files}, info
    except (CheckpointError, config_lib.ConfigError):
        raise
    except Exception as e:
        raise CheckpointError(f"{path}: its export is damaged ({_reason(e)})") from e


def export(
    workdir: PathLike, out: PathLike, which: str = "best", mean_with: PathLike | None = None
) -> epath.Path:
    """Writes the averaged weights of `workdir` to `out` as float16, with config and origin; with
    `mean_with`, the mean of them and of those of that workdir, which no dev loss was measured of. A
    head that only training reads may be of the first alone.

    Raises CheckpointError if a weight does not fit float16, the two differ in their arrays or `out`
    is a training's workdir.
    """
    config, params, info = read(workdir, which)
    out = paths.at(out)
    if (out / "checkpoints").exists():
        raise CheckpointError(f"{out} is a training's workdir: export to another directory")
    measured = {"weights": "exponential average, rounded to float16"}
    measured |= {k: info[k] for k in ("dev", "mean_of", "weights") if k in info}
    if mean_with is not None:
        other, others, theirs = read(mean_with, which)
        if config.model.lora_rank or other.model.lora_rank:
            raise CheckpointError(
                "the mean of two LoRA's factors is not that of what they change: accepted are "
                "models with model.lora_rank=0"
            )
        own = {n: x for n, x in params.items() if n.split(".")[0] in TRAINING_ONLY}
        others = own | others
        if {n: x.shape for n, x in params.items()} != {n: x.shape for n, x in others.items()}:
            raise CheckpointError(
                f"{workdir} and {mean_with} have other arrays, and so no mean; accepted are two "
                "legs of one model"
            )
        params = {n: (x + others[n]) / 2 for n, x in params.items()}
        measured = {
            "mean_of": _mean_of(info, theirs),
            "weights": "mean of exponential averages, rounded to float16",
        }
    half = {n: np.asarray(x).astype(np.float16) for n, x in params.items()}
    bad = [n for n, x in half.items() if not np.isfinite(x).all()]
    if bad:
        raise CheckpointError(f"{bad[0]} holds values that float16 does not (NaN or over 65504)")
    legs = info["legs"]
    about = {
        "format_version": FORMAT_VERSION,
        "step": info["step"],
        "steps": sum(leg["steps"] for leg in legs),
        "wall_s": round(sum(leg["wall_s"] for leg in legs), 1),
        **_last(info, "corpus_hash", "seed", "commit", "command"),
        **measured,
        "legs": legs,
        "num_parameters": int(sum(x.size for x in half.values())),
    }
    out.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    np.savez_compressed(packed, **half)  # pyright: ignore[reportArgumentType]
    paths.write(out / PARAMS_FILE, packed.getvalue())
    paths.write(out / CONFIG_FILE, config_lib.to_json(config).encode())
    paths.write(out / INFO_FILE, json.dumps(about, indent=1).encode())
    origin.hand_on(workdir, out)
    return out


def _last(info: dict, *keys: str) -> dict:
    """Of the last leg."""
    last = info["legs"][-1] if info["legs"] else {}
    return {k: last.get(k) for k in keys}


def _mean_of(*infos: dict) -> list[dict]:
    """The legs that a mean is made of, each with its share."""
    parts: dict[tuple, dict] = {}
    for info in infos:
        alone = {"share": 1.0, "step": info["step"], **_last(info, "seed", "commit", "command")}
        for part in info.get("mean_of", [alone]):
            known = parts.setdefault((part["step"], part["command"]), {**part, "share": 0.0})
            known["share"] += part["share"] / len(infos)
    return list(parts.values())


def write_config(workdir: PathLike, config: Config) -> None:
    home = paths.at(workdir)
    home.mkdir(parents=True, exist_ok=True)
    paths.write(home / CONFIG_FILE, config_lib.to_json(config).encode())


def main() -> None:
    from absl import app, flags

    workdir = flags.DEFINE_string("workdir", None, "Of a training.", required=True)
    out = flags.DEFINE_string("out", None, "Where the export goes.", required=True)
    which = flags.DEFINE_enum("which", "best", ["best", "latest"], "Which checkpoint.")
    mean_with = flags.DEFINE_string(
        "mean_with", None, "Another workdir: the mean of both is written (two legs of one model)."
    )

    def run(_: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        with command.one_line(CheckpointError, config_lib.ConfigError, OSError):
            path = export(workdir.value, out.value, which.value, mean_with.value)
        size = sum(f.stat().length for f in path.iterdir() if f.is_file())
        print(f"{path}: {size / 1e6:.1f} MB")

    app.run(run)


if __name__ == "__main__":
    main()
