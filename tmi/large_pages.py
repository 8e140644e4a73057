"""Large pages for what malloc hands out, and no way back for them: what glibc is told before a
program starts.

A training step on CPUs asks for its temporaries anew; in pages of 4 KiB a quarter of its time goes
to the kernel, and where large blocks go back to it after each step a sixth still does, which clears
them for the next (docs/LOG.md).
"""

from __future__ import annotations

import os
import platform
import sys

VARIABLE, HUGE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
TUNABLES = f"{HUGE}=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold={1 << 36}"


def restart_with(module: str) -> None:
    """Starts `python -m module`, if that is what runs, again in the same process, with TUNABLES;
    returns where large pages were asked for or declined (GLIBC_TUNABLES=glibc.malloc.hugetlb=0), on
    systems without glibc, and where something else runs the module. To be called before anything
    else is done."""
    given = os.environ.get(VARIABLE, "")
    if ("-m", module) not in zip(sys.orig_argv, sys.orig_argv[1:], strict=False):
        return
    if HUGE in given or sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    os.environ[VARIABLE] = ":".join(filter(None, (given, TUNABLES)))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
