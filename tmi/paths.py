"""Places that a run reads and writes: directories here, or buckets (gs://, s3://) through etils."""

from __future__ import annotations

import os
import pathlib

from etils import epath

PathLike = str | os.PathLike[str]


def at(path: PathLike) -> epath.Path:
    """The path as it is given; 'file:///x' is /x."""
    return epath.Path(os.fspath(path).removeprefix("file://"))


def absolute(path: PathLike) -> epath.Path:
    """The path from the root; that of a bucket is so already."""
    here = at(path)
    return here if is_remote(here) else epath.Path(os.path.abspath(here))


def local(path: PathLike) -> pathlib.Path:
    """The path of what only this machine's disk can hold. Raises ValueError for a bucket's."""
    here = at(path)
    if is_remote(here):
        raise ValueError(f"{path} lies in a bucket; accepted here is a path of this machine")
    return pathlib.Path(here)


def is_remote(path: PathLike) -> bool:
    """Whether it names an object in a bucket, which is written whole or not at all."""
    return "://" in os.fspath(path)


def write(path: epath.Path, data: bytes) -> None:
    """Puts `data` in the place of the file: whoever reads it finds the old or the new one whole."""
    if is_remote(path):
        path.write_bytes(data)
        return
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
