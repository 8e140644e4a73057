"""Large pages for what malloc hands out, which glibc is told before a program starts.

A training step on CPUs asks for its temporaries anew; in pages of 4 KiB a quarter of its time goes
to the kernel (docs/LOG.md).
"""

from __future__ import annotations

import os
import platform
import sys

VARIABLE, TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"


def restart_with(module: str) -> None:
    """Starts `python -m module`, if that is what runs, again in the same process, with large pages;
    returns where it has them, where they were declined (GLIBC_TUNABLES=glibc.malloc.hugetlb=0), on
    systems without glibc, and where something else runs the module. To be called before anything
    else is done."""
    given = os.environ.get(VARIABLE, "")
    if ("-m", module) not in zip(sys.orig_argv, sys.orig_argv[1:], strict=False):
        return
    if TUNABLE in given or sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    os.environ[VARIABLE] = ":".join(filter(None, (given, f"{TUNABLE}=1")))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
