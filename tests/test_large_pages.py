"""Commands that train start again with large pages, once, as they were called."""

import os
import platform
import subprocess
import sys

import pytest

from tmi.large_pages import TUNABLES

glibc = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
PROGRAM = """
import os, sys
from tmi import large_pages
large_pages.restart_with("program")
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.argv[1:], sys.flags.optimize)
"""


def run(tmp_path, given: str | None, *how: str) -> tuple[int, str]:
    (tmp_path / "program.py").write_text(PROGRAM)
    env = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    if given is not None:
        env["GLIBC_TUNABLES"] = given
    command = [sys.executable, "-O", *(how or ("-m", "program")), "--a=b c", "d"]
    env["PYTHONPATH"] = os.pathsep.join([os.getcwd(), env.get("PYTHONPATH", "")])
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as p:
        out, _ = p.communicate(timeout=60)
    assert p.returncode == 0
    pid, rest = out.strip().split(" ", 1)
    return int(pid) - p.pid, rest


@pytest.mark.skipif(not glibc, reason="no glibc here")
@pytest.mark.parametrize(
    ("given", "want"),
    [
        (None, TUNABLES),
        ("glibc.malloc.check=0", f"glibc.malloc.check=0:{TUNABLES}"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
    ],
)
def test_the_same_command_goes_on_in_the_same_process(tmp_path, given, want):
    moved, rest = run(tmp_path, given)
    assert moved == 0
    assert rest == f"{want} ['--a=b c', 'd'] 1"


@pytest.mark.skipif(not glibc, reason="no glibc here")
def test_who_runs_the_module_otherwise_is_not_started_again(tmp_path):
    """A worker of multiprocessing, say, whose own command is another's."""
    code = "import runpy; runpy.run_module('program', run_name='__main__')"
    assert run(tmp_path, None, "-c", code) == (0, "None ['--a=b c', 'd'] 1")
