"""What a published checkpoint has and no model here uses: its config.json and its tensors of
multi-token prediction. They lie in a folder of each workdir that comes of it, import, training or
export, so that they go out again with what was trained."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from tmi import paths
from tmi.paths import PathLike

FOLDER, CONFIG, TENSORS = "inkling", "config.json", "model.safetensors"


def keep(workdir: PathLike, raw: Mapping, carried: Mapping[str, np.ndarray]) -> None:
    """Writes them into a workdir."""
    from safetensors.numpy import save  # an export that has none needs no such library

    folder = paths.at(workdir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    paths.write(folder / CONFIG, json.dumps(dict(raw), indent=2).encode())
    if carried:
        paths.write(folder / TENSORS, save(dict(carried)))


def load(workdir: PathLike) -> tuple[dict, dict[str, np.ndarray]]:
    """(config.json, tensors) of a workdir; empty where it comes of no published checkpoint."""
    from safetensors.numpy import load as loaded

    folder = paths.at(workdir) / FOLDER
    raw = json.loads((folder / CONFIG).read_text()) if (folder / CONFIG).is_file() else {}
    tensors = folder / TENSORS
    return raw, loaded(tensors.read_bytes()) if tensors.is_file() else {}


def hand_on(source: PathLike, workdir: PathLike) -> None:
    """Those of another workdir, or of a published checkpoint, into `workdir`, if there are any."""
    folder = paths.at(source) / FOLDER
    if (folder / CONFIG).is_file():
        target = paths.at(workdir) / FOLDER
        target.mkdir(parents=True, exist_ok=True)
        for name in (CONFIG, TENSORS):
            if (folder / name).is_file():
                paths.write(target / name, (folder / name).read_bytes())
    elif is_published(source):
        from tmi.interop.backbone import Backbone

        found = Backbone(str(source))
        keep(workdir, found.raw, found.read_carried())


def is_published(source: PathLike) -> bool:
    """Whether a directory is laid out as Hugging Face does it."""
    file = paths.at(source) / CONFIG
    if not file.exists():
        return False
    try:
        return "model_type" in json.loads(file.read_text())
    except ValueError:
        return False
