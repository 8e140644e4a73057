"""Directories of safetensors files, in one piece or in shards with an index, as Hugging Face lays
them out. Arrays are numpy; bfloat16 comes as ml_dtypes' type."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
SHARD_BYTES = 4 << 30


class InteropError(ValueError):
    """A checkpoint cannot be read or written; the message names what is wrong with it."""


def read_json(file: pathlib.Path) -> dict:
    """Raises InteropError: it is damaged, or no object."""
    try:
        found = json.loads(file.read_text())
    except ValueError as e:
        raise InteropError(f"{file} is no readable JSON ({e})") from e
    if not isinstance(found, dict):
        raise InteropError(f"{file} is JSON, but no object")
    return found


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of a directory by name, each read from disk when it is asked for.

    Raises InteropError: there are no safetensors files, a shard lacks, or one is damaged.
    """

    def __init__(self, directory: str | pathlib.Path):
        path = pathlib.Path(directory)
        self._file_of: dict[str, pathlib.Path] = {}
        index = path / INDEX
        if index.is_file():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, dict):
                raise InteropError(f"{index} has no weight_map of tensors and their shards")
            files = sorted({path / f for f in weight_map.values()})
            lost = [f.name for f in files if not f.is_file()]
            if lost:
                raise InteropError(f"{path}: {INDEX} names shards that are not there: {lost}")
        else:
            weight_map = None
            files = sorted(path.glob("*.safetensors"))
        if not files:
            raise InteropError(f"{path} holds neither {SINGLE} nor {INDEX} with its shards")
        for file in files:
            with _opened(file) as f:
                for name in f.keys():
                    if name in self._file_of:
                        twice = f"{self._file_of[name].name} and {file.name}"
                        raise InteropError(f"{path}: tensor {name} is in {twice}")
                    self._file_of[name] = file
        if weight_map is not None:
            lost = sorted(set(weight_map) - set(self._file_of))
            if lost:
                raise InteropError(f"{path}: {INDEX} names tensors that no shard holds: {lost[:5]}")

    def __getitem__(self, name: str) -> np.ndarray:
        with _opened(self._file_of[name]) as f:
            return np.asarray(f.get_tensor(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def _opened(file: pathlib.Path):
    try:
        return safe_open(file, framework="numpy")
    except (SafetensorError, OSError) as e:
        raise InteropError(f"{file} is no readable safetensors file ({e})") from e


def write(
    directory: str | pathlib.Path,
    tensors: Iterable[tuple[str, np.ndarray]],
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Writes tensors in order, a new shard where one would exceed `shard_bytes`, in place of what
    was there; returns the bytes of all. No more than a shard is held in memory."""
    path = pathlib.Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    shards: list[tuple[pathlib.Path, list[str]]] = []
    held: dict[str, np.ndarray] = {}
    size = total = 0

    def flush() -> None:
        nonlocal held, size
        file = path / f"shard-{len(shards) + 1:05d}.part"
        save_file(held, file, metadata={"format": "pt"})
        shards.append((file, list(held)))
        held, size = {}, 0

    for name, x in tensors:
        x = np.asarray(x, order="C")
        if held and size + x.nbytes > shard_bytes:
            flush()
        held[name] = x
        size += x.nbytes
        total += x.nbytes
    flush()
    for old in (*path.glob("*.safetensors"), path / INDEX):
        old.unlink(missing_ok=True)
    if len(shards) == 1:
        shards[0][0].replace(path / SINGLE)
        return total
    weight_map = {}
    for i, (file, names) in enumerate(shards, start=1):
        final = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        file.replace(path / final)
        weight_map |= dict.fromkeys(names, final)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (path / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True))
    return total
