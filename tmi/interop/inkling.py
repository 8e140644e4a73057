"""Published Inkling checkpoints in and out (config.json and safetensors, as Hugging Face lays them
out).

    python -m tmi.interop.inkling logits --checkpoint=DIR --inputs=F.npz --out=G.npz
    python -m tmi.interop.inkling import --checkpoint=DIR --out=W
    python -m tmi.interop.inkling export --workdir=W --out=DIR

`logits` reads arrays named as the published forward takes them and writes `logits` [B, S, V];
`import` makes a workdir of a checkpoint, to train on (--init_from=W) or to export again; `export`
writes a checkpoint that transformers loads, and refuses, by the name of its field, what the format
cannot hold.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import typing
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from absl import app, flags, logging

from tmi import command as command_lib
from tmi import config as config_lib
from tmi.config import FORMAT_VERSION, Config
from tmi.interop import backbone, fields, forward, names, origin, tensors
from tmi.interop.names import Rule
from tmi.interop.tensors import InteropError
from tmi.models import tree
from tmi.paths import PathLike
from tmi.train import checkpoint as checkpoint_lib


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint: our config, parameters by our names (float32), its own config.json,
    and the tensors that are carried through unused (multi-token prediction)."""

    config: Config
    params: dict[str, np.ndarray]
    raw: dict[str, typing.Any]
    carried: dict[str, np.ndarray]

    def logits(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """float32 [B, S, V] of arrays named as in `forward.INPUTS`."""
        ids = fields.TOKEN_IDS | self.raw
        return forward.logits(
            self.config, self.params, inputs, ids["image_token_id"], ids["audio_token_id"]
        )


def read(directory: str | pathlib.Path) -> Checkpoint:
    """Reads a checkpoint directory.

    Raises InteropError: config.json asks for what this code does not compute, or tensors are
    missing, unknown or of another shape; all of them are named.
    """
    found = backbone.Backbone(directory)
    params = {name: found.array(name) for name in found.shapes}
    return Checkpoint(found.config, params, found.raw, found.read_carried())


def write(
    directory: str | pathlib.Path,
    checkpoint: Checkpoint,
    shard_bytes: int = tensors.SHARD_BYTES,
) -> int:
    """Writes a checkpoint directory that transformers loads, in the published spelling; returns
    the bytes of its tensors.

    Raises InteropError, before anything is written, naming all that the format cannot hold.
    """
    config, params = checkpoint.config, checkpoint.params
    raw = fields.from_config(config, checkpoint.raw)
    raw["dtype"] = "float32"
    rules = names.rules(config)
    known = {n for rule in rules for n in rule.ours}
    extra, lost = sorted(set(params) - known), sorted(known - set(params))
    if not config.model.mlp_scale:
        lost = [n for n in lost if not _is_dense_scale(n, config)]
    if extra or lost:
        raise InteropError(
            f"the published format has no tensor for parameters {extra}"
            if extra
            else f"parameters that the published format needs lack: {lost}"
        )
    path = pathlib.Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    size = tensors.write(path, _theirs(config, params, rules, checkpoint.carried), shard_bytes)
    (path / "config.json").write_text(json.dumps(raw, indent=2, sort_keys=True) + "\n")
    return size


def _is_dense_scale(name: str, config: Config) -> bool:
    dense = fields.dense_layers(config.model)
    return any(name == f"transformer.layers.{i}.mlp.scale" for i in dense)


def _theirs(
    config: Config, params: Mapping[str, np.ndarray], rules: list[Rule], carried: Mapping
) -> Iterator[tuple[str, np.ndarray]]:
    sliding = {
        f"transformer.layers.{i}.attention.bank"
        for i, span in enumerate(fields.spans(config))
        if not span.blocks
    }

    def own(name: str) -> np.ndarray:
        if name not in params:
            return np.ones((), np.float32)  # a dense layer's output is not scaled
        x = np.asarray(params[name], np.float32)
        if name in sliding:  # there the bias reaches as far as the window
            x = x[:, : config.model.window]
            x = np.pad(x, ((0, 0), (0, config.model.window - x.shape[1])))
        return x

    for rule in rules:
        yield from zip(rule.theirs, rule.write(*(own(n) for n in rule.ours)), strict=True)
    yield from carried.items()


# -- workdirs ------------------------------------------------------------------------------------


def import_workdir(directory: str | pathlib.Path, workdir: str | pathlib.Path) -> Checkpoint:
    """Makes a workdir of a checkpoint, which holds its config.json and what is carried as well.

    Raises InteropError if the checkpoint cannot be read or has no towers.
    """
    found = read(directory)
    if fields.is_text_only(found.raw):
        raise InteropError(
            f"{directory} is a backbone without towers; a model with audio and video is accepted "
            f"(model_type={fields.MULTIMODAL!r})"
        )
    path = pathlib.Path(workdir)
    if (path / "checkpoints").exists():
        raise InteropError(f"{path} is a training's workdir: import into another directory")
    checkpoint_lib.write_config(path, found.config)
    with open(path / checkpoint_lib.PARAMS_FILE, "wb") as file:
        np.savez(file, **found.params)  # pyright: ignore[reportArgumentType]
    info = {"format_version": FORMAT_VERSION, "step": 0, "legs": [], "dev": {}}
    (path / checkpoint_lib.INFO_FILE).write_text(json.dumps(info | {"weights": "imported"}))
    origin.keep(path, found.raw, found.carried)
    return found


def export(workdir: PathLike, out: str | pathlib.Path, which: str = "best") -> Checkpoint:
    """Writes a workdir's averaged weights as a published checkpoint."""
    config, params = tree.layer_by_layer(*checkpoint_lib.restore_params(workdir, which))
    raw, carried = origin.load(workdir)
    made = Checkpoint(config, {n: np.asarray(x) for n, x in params.items()}, raw, carried)
    write(out, made)
    return made


# -- the command ---------------------------------------------------------------------------------


def _count(checkpoint: Checkpoint) -> int:
    return sum(x.size for x in checkpoint.params.values())


def run_logits(checkpoint: str, inputs: str, out: str) -> str:
    found = read(checkpoint)
    with np.load(inputs, allow_pickle=False) as file:
        arrays = {n: file[n] for n in file.files}
    y = found.logits(arrays)
    with open(out, "wb") as file:
        np.savez(file, logits=y)
    return f"{out}: logits {y.shape}"


def run_import(checkpoint: str, out: str) -> str:
    found = import_workdir(checkpoint, out)
    return f"{out}: {_count(found)} parameters, {len(found.carried)} tensors carried, unused"


def run_export(workdir: str, which: str, out: str) -> str:
    made = export(workdir, out, which)
    return f"{out}: {_count(made)} parameters, {len(made.carried)} tensors carried"


# Of each command its flags, all needed, beside --out.
COMMANDS: dict[str, tuple[Callable[..., str], tuple[str, ...]]] = {
    "logits": (run_logits, ("checkpoint", "inputs")),
    "import": (run_import, ("checkpoint",)),
    "export": (run_export, ("workdir", "which")),
}


def main() -> None:
    flags.DEFINE_string("checkpoint", None, "Directory of a published checkpoint.")
    flags.DEFINE_string("inputs", None, f".npz of {', '.join(forward.INPUTS)}.")
    flags.DEFINE_string("workdir", None, "A training's workdir, an export or an import.")
    flags.DEFINE_enum("which", "best", ["best", "latest"], "Which checkpoint of the workdir.")
    out = flags.DEFINE_string("out", None, "What is written.", required=True)

    def run(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        expected = InteropError, config_lib.ConfigError, checkpoint_lib.CheckpointError, OSError
        with command_lib.one_line(*expected):
            if len(argv) != 2 or argv[1] not in COMMANDS:
                raise InteropError(f"{argv[1:]}: one of {', '.join(COMMANDS)} is accepted")
            command, needed = COMMANDS[argv[1]]
            given = {name: flags.FLAGS[name].value for name in needed}
            lacking = [f"--{name}" for name, value in given.items() if not value]
            if lacking:
                raise InteropError(f"{argv[1]} needs {' and '.join(lacking)}")
            print(command(**given, out=out.value))

    app.run(run)


if __name__ == "__main__":
    main()
