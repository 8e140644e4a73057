"""Writes goldens.npz: logits of transformers' Inkling for `cases.CASES`, and the dMel bins of its
feature extractor for the shipped example session.

Run from a checkout with the [oracle] extra: python -m tests.interop.make_goldens
"""

import json
import pathlib
import tempfile

import numpy as np

from tests.interop import cases, oracle
from tmi.data import records
from tmi.media.audio import from_int16

GOLDENS = pathlib.Path(__file__).with_name("goldens.npz")
EXAMPLE = pathlib.Path(__file__).parents[2] / "assets" / "nano" / "example.session"


def heard() -> np.ndarray:
    """16-bit samples: 1.8 s of the shipped session's user about its loudest moment, digital silence
    in between, the last frame not full."""
    whole = records.decode(EXAMPLE.read_bytes()).user_audio
    top = int(np.abs(whole.astype(np.int32)).argmax())
    start = max(0, top - 12000)
    wave = whole[start : start + 28801].copy()
    wave[16000:20800] = 0
    return wave


def main() -> None:
    reason = oracle.missing()
    if reason:
        raise SystemExit(f"error: {reason}")
    out: dict[str, np.ndarray] = {}
    for case in cases.CASES:
        config, shapes = oracle.describe(case.config())
        with tempfile.TemporaryDirectory() as folder:
            model = oracle.load(cases.write(pathlib.Path(folder), config, shapes))
            y = oracle.logits(model, case.inputs())
        out[f"{case.name}.config"] = np.array(config)
        out[f"{case.name}.shapes"] = np.array(json.dumps(shapes))
        out[f"{case.name}.logits"] = y[:, :: cases.KEPT.get(case.name, 2)]
        print(case.name, y.shape, float(np.abs(y).max()))
    out["dmel.wave"] = heard()
    out["dmel.bins"] = oracle.dmel_bins(from_int16(heard())).astype(np.uint8)
    np.savez_compressed(GOLDENS, **out)
    print(f"{GOLDENS.name}: {GOLDENS.stat().st_size} bytes, by {oracle.versions()}")


if __name__ == "__main__":
    main()
