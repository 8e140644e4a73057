"""Large pages for what malloc hands out, which glibc is told before a program starts.

A training step on CPUs asks for its temporaries anew; in pages of 4 KiB a quarter of its time goes
to the kernel (docs/LOG.md).
"""

from __future__ import annotations

import os
import platform
import sys

VARIABLE, TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"


def restart_with() -> None:
    """Starts this very command again, in the same process, with large pages; returns where it has
    them, where they were declined (GLIBC_TUNABLES=glibc.malloc.hugetlb=0), and on systems without
    glibc. To be called before anything else is done."""
    given = os.environ.get(VARIABLE, "")
    if TUNABLE in given or sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    os.environ[VARIABLE] = ":".join(filter(None, (given, f"{TUNABLE}=1")))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
