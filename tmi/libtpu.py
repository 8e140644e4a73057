"""What the TPU's compiler is asked to do beside its defaults: to gather weights while it computes.

Without these flags every all-gather of a training step stops the device (docs/pods). libtpu reads
them once, when it is loaded. Needs nothing but the standard library.
"""

from __future__ import annotations

import os

FLAGS = {
    "xla_enable_async_all_gather": "true",
    "xla_tpu_enable_async_collective_fusion": "true",  # steps of a gather ride in other fusions
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
    "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
    "xla_tpu_overlap_compute_collective_tc": "true",
}
VARIABLE = "LIBTPU_INIT_ARGS"


def set_flags() -> None:
    """Adds FLAGS to LIBTPU_INIT_ARGS; what is there already is left as it is."""
    given = os.environ.get(VARIABLE, "").split()
    known = {flag.lstrip("-").split("=")[0] for flag in given}
    added = [f"--{name}={value}" for name, value in FLAGS.items() if name not in known]
    os.environ[VARIABLE] = " ".join([*given, *added])
