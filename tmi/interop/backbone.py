"""A published checkpoint, opened: what it holds by our names, read when it is asked for.

A training reads each device's part of each parameter (tmi/train/initial.py), the command
`tmi.interop.inkling` all of them.
"""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from tmi.config import Config
from tmi.interop import fields, names, tensors
from tmi.interop.names import CARRIED, Rule
from tmi.interop.tensors import InteropError
from tmi.media.text import NUM_SPECIALS, Tokenizer
from tmi.models import stack, transformer
from tmi.sharding import param_shapes

TABLES = ("tokens.table", "unembed.table")


class Backbone:
    """The published part of an interaction model.

    Attributes:
      config: of a model that computes what the checkpoint's does.
      raw: its config.json.
      shapes: of the parameters that it holds, by our names.

    Raises InteropError: config.json asks for what this code does not compute, or tensors are
    missing, unknown or of another shape; all of them are named.
    """

    def __init__(self, directory: str | pathlib.Path, into: Config | None = None):
        """`into`: the config of a model to be made of it, whose layers may be stacked and whose
        tokenizer may be the checkpoint's own (`tmi.media.text.Tokenizer` moves its first ids)."""
        if "://" in str(directory):
            raise InteropError(
                f"{directory}: published checkpoints are read from a disk (safetensors maps its "
                "files); accepted is a path that every host sees, once the bucket is copied there"
            )
        self.path = pathlib.Path(directory)
        if not (self.path / "config.json").is_file():
            raise InteropError(f"{self.path} holds no config.json")
        self.raw = tensors.read_json(self.path / "config.json")
        self.config = fields.to_config(self.raw)
        self._found = tensors.Tensors(self.path)
        spelling = names.spelling_of(self._found)
        if (spelling == names.BACKBONE) != fields.is_text_only(self.raw):
            raise InteropError(
                f"{self.path}: model_type={self.raw['model_type']!r} does not go with tensors "
                f"named {names.LAYERS[spelling]}*"
            )
        rules = names.rules(self.config, spelling)
        _account(self.path, rules, self._found)
        self._rule = {name: rule for rule in rules for name in rule.ours}
        self._own_shapes = param_shapes(self.config)
        self._last: tuple[Rule, dict[str, np.ndarray]] | None = None
        self.shapes = {name: self._own_shapes[name] for name in self._rule}
        self._layers: dict[str, np.ndarray] = {}  # of a stacked parameter the layers' names [G, N]
        self._moved = 0
        if into is not None:
            self._fit(into)

    def _fit(self, into: Config) -> None:
        tokenizer = Tokenizer.load(into.text.tokenizer)
        if tokenizer.moved:
            self._moved = tokenizer.moved
            rows = max(self.config.text.vocab_size, tokenizer.vocab_size)
            self.shapes |= {n: (rows, *self.shapes[n][1:]) for n in TABLES}
            text = dataclasses.replace(
                self.config.text, tokenizer=into.text.tokenizer, vocab_size=rows,
                unpadded_vocab_size=tokenizer.vocab_size,
            )  # fmt: skip
            self.config = dataclasses.replace(self.config, text=text)
        if not into.model.scan_layers:
            return
        segments = stack.plan(transformer.kinds(into))
        apart = [n for n in self.shapes if n.startswith(stack.PREFIX)]
        for i, (s, r, g, k) in enumerate(stack.places(segments)):
            size = (segments[s].groups, segments[s].runs[r][0])
            for name in apart:
                if name.startswith(f"{stack.PREFIX}{i}."):
                    tail = name.removeprefix(f"{stack.PREFIX}{i}.")
                    stacked = f"transformer.segments.{s}.runs.{r}.{tail}"
                    self._layers.setdefault(stacked, np.empty(size, object))[g, k] = name
                    self.shapes[stacked] = (*size, *self._own_shapes[name])
        for name in apart:
            del self.shapes[name]

    def read_carried(self) -> dict[str, np.ndarray]:
        """The tensors that have no use here, by their names."""
        return {n: self._found[n] for n in self._found if n.startswith(CARRIED)}

    def array(self, name: str) -> np.ndarray:
        """A parameter of one layer, or of none, float32."""
        rule = self._rule[name]
        if self._last is None or self._last[0] is not rule:  # gate and up are in one tensor
            self._last = rule, self._read(rule)
        return self._last[1][name]

    def part(self, name: str, index: tuple[slice, ...] | None) -> np.ndarray:
        """Of any parameter of `shapes` the part that a device holds."""
        index = index or ()
        if name in self._layers:
            layers = self._layers[name][index[:2]]
            parts = [self.array(layer)[index[2:]] for layer in layers.flat]
            return np.stack(parts).reshape(*layers.shape, *parts[0].shape)
        x = self.array(name)
        if name in TABLES and self._moved:
            x = self._with_specials(name, x)
        return np.asarray(x[index], order="C")

    def _with_specials(self, name: str, x: np.ndarray) -> np.ndarray:
        """The rows of its first tokens behind all others; in their place END, <speak> and the like,
        which begin as the mean of all: as inputs scattered about it like the others, or END and
        <speak> would be one token to a model whose table is frozen."""
        size = min(self._moved, len(x))
        out = np.zeros(self.shapes["tokens.table"], np.float32)
        out[: len(x)] = x
        out[self._moved : self._moved + NUM_SPECIALS] = x[:NUM_SPECIALS]
        out[:NUM_SPECIALS] = x[:size].mean(axis=0)
        if name == "tokens.table":
            drawn = np.random.default_rng(0).standard_normal((NUM_SPECIALS, x.shape[1]))
            out[:NUM_SPECIALS] += (drawn * x[:size].std(axis=0)).astype(np.float32)
        return out

    def _read(self, rule: Rule) -> dict[str, np.ndarray]:
        theirs = [_as_float(self._found[n]) for n in rule.theirs]
        have = ", ".join(f"{n} {x.shape}" for n, x in zip(rule.theirs, theirs, strict=True))
        try:
            ours = rule.read(*theirs)
        except (ValueError, IndexError) as e:
            raise InteropError(
                f"{have} is not of the shape that its config.json gives it: {e}"
            ) from e
        out = {}
        for name, x in zip(rule.ours, ours, strict=True):
            want = self._own_shapes[name]
            x = _padded(x, want) if name == "unembed.table" else x
            if tuple(x.shape) != want:
                raise InteropError(
                    f"{self.path}: {have} gives {name} the shape {tuple(x.shape)}; by config.json "
                    f"it is {want}"
                )
            out[name] = np.asarray(x, order="C")
        return out


def _account(path: pathlib.Path, rules: list[Rule], found: tensors.Tensors) -> None:
    """Every tensor is one of a rule or carried, and every rule has its tensors."""
    wanted = {n for rule in rules for n in rule.theirs}
    missing = sorted(wanted - set(found))
    unknown = sorted(n for n in set(found) - wanted if not n.startswith(CARRIED))
    if missing or unknown:
        parts = []
        if missing:
            parts.append(f"{len(missing)} missing: {', '.join(missing)}")
        if unknown:
            parts.append(f"{len(unknown)} unknown: {', '.join(unknown)}")
        raise InteropError(f"{path}: of {len(wanted)} tensors by config.json, {'; '.join(parts)}")


def _as_float(x: np.ndarray) -> np.ndarray:
    if x.dtype.kind not in "fV" and x.dtype.name != "bfloat16":
        raise InteropError(f"a tensor of type {x.dtype}; floating point is accepted")
    return x.astype(np.float32)


def _padded(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A head without the padding of the vocabulary gets it: its logits are cut off anyway."""
    return np.pad(x, ((0, max(0, shape[0] - x.shape[0])), (0, 0)))
