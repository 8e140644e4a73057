"""transformers' own Inkling, in PyTorch on one thread: the `[oracle]` extra."""

from __future__ import annotations

import importlib
import json
import pathlib
import re
import sys
import typing
from collections.abc import Mapping

import numpy as np

from tests.interop import cases

MINIMUM = (5, 23)


def missing() -> str:
    """Why the oracle cannot run here; empty if it can."""
    try:
        import torch
        import transformers
    except ImportError as e:
        return f"the [oracle] extra is not installed ({e}): pip install -e '.[oracle]'"
    version = tuple(int(n) for n in transformers.__version__.split(".")[:2])
    if version < MINIMUM:
        return f"transformers {transformers.__version__} has no Inkling: >= 5.23 is needed"
    torch.set_num_threads(1)
    _import_torchvision()
    return ""


def _import_torchvision() -> None:
    """A torchvision built for CUDA beside a torch that is not cannot load its compiled operators.
    Only its Python half is needed: the operators are declared, so that it can be imported."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    _import_torchvision.keep = library  # type: ignore[attr-defined]
    for _ in range(20):
        try:
            importlib.import_module("torchvision")
            return
        except ModuleNotFoundError:
            return
        except RuntimeError as e:
            operator = re.search(r"operator torchvision::(\w+) does not exist", str(e))
            if not operator:
                raise
            library.define(operator[1] + "(Tensor x) -> Tensor")
            for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
                del sys.modules[name]


def has_torchvision() -> bool:
    return "torchvision" in sys.modules


def versions() -> str:
    import torch
    import transformers

    return f"transformers {transformers.__version__}, torch {torch.__version__}"


def describe(config: Mapping[str, typing.Any]) -> tuple[str, dict[str, list[int]]]:
    """config.json and the tensors' names and shapes, as save_pretrained writes them."""
    import tempfile

    import transformers
    from safetensors import safe_open

    model = transformers.InklingForConditionalGeneration(transformers.InklingConfig(**config))
    shapes = {}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        path = pathlib.Path(folder)
        for file in sorted(path.glob("*.safetensors")):
            with safe_open(file, framework="numpy") as f:
                for name in f.keys():
                    shapes[name] = f.get_slice(name).get_shape()
        text = json.dumps(json.loads((path / "config.json").read_text()), sort_keys=True)
    return text, shapes


def make(case: cases.Case, directory: pathlib.Path) -> pathlib.Path:
    """The case's checkpoint."""
    return cases.write(directory, *describe(case.config()))


def load(directory: pathlib.Path) -> typing.Any:
    """The model of a checkpoint. Raises if a tensor is missing, unknown or of another shape."""
    import transformers

    model, report = transformers.InklingForConditionalGeneration.from_pretrained(
        directory, output_loading_info=True
    )
    wrong = {k: v for k, v in report.items() if v}
    assert not wrong, wrong
    return model.eval()


def _tensors(inputs: Mapping[str, np.ndarray]) -> dict[str, typing.Any]:
    import torch

    return {k: torch.from_numpy(np.asarray(v)) for k, v in inputs.items()}


def logits(model, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(**_tensors(inputs)).logits.numpy()


def cached_logits(model, ids: np.ndarray, chunks: list[int]) -> np.ndarray:
    """In pieces over its own cache."""
    import torch

    out, past, at = [], None, 0
    with torch.no_grad():
        for n in chunks:
            piece = torch.from_numpy(ids[:, at : at + n])
            y = model(input_ids=piece, past_key_values=past, use_cache=True)
            past = y.past_key_values
            out.append(y.logits.numpy())
            at += n
    return np.concatenate(out, axis=1)


WORDS = (
    "<pad>", "<|unused_200054|>", "<|unused_200053|>", "<|content_image|>",
    "<|content_audio_input|>", "what", "is", "this", "sound", "picture", "of", "?",
)  # fmt: skip


def processor() -> typing.Any:
    """Its processor over a tokenizer of WORDS; ids are their places, padding on the left."""
    import transformers
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens([AddedToken(w) for w in WORDS[:5]])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", padding_side="left"
    )
    return transformers.InklingProcessor(
        feature_extractor=transformers.InklingFeatureExtractor(),
        image_processor=transformers.InklingImageProcessor(),
        tokenizer=tokenizer,
    )


def dmel_bins(wave: np.ndarray) -> np.ndarray:
    """Bins [frames, 80] of a wave at 16 kHz."""
    import transformers
    from transformers.models.inkling import processing_inkling

    extractor = transformers.InklingFeatureExtractor()
    features = extractor(wave, sampling_rate=16000, return_tensors="pt")["input_features"]
    return _binning(processing_inkling.InklingProcessor)(features)[0].numpy()


def _binning(kind) -> typing.Any:
    """Its processor's binning, without the tokenizer and image processor that making one needs."""
    import torch

    made = object.__new__(kind)
    made.dmel_min_value, made.dmel_max_value = -7.0, 2.0
    made.bin_centers = torch.linspace(-7.0, 2.0, 16, dtype=torch.float64).to(torch.float32)
    return made._extract_dmel_bins
