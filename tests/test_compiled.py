"""Compiled programs are kept where nothing else was asked for, and found by the next process."""

import os
import subprocess
import sys

PROGRAM = """
import sys, jax, jax.numpy as jnp
from tmi import compiled
compiled.keep()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
print(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((3, 3)))[0, 0])
print(jax.config.jax_compilation_cache_dir)
"""


def run(**variables: str) -> str:
    env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**env, **variables}, capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    assert "rror" not in out.stderr and "arning" not in out.stderr, out.stderr
    return out.stdout.split()[-1]


def test_what_one_process_compiled_the_next_one_finds(tmp_path):
    where = run(XDG_CACHE_HOME=str(tmp_path))
    assert where.startswith(str(tmp_path / "tmi"))
    kept = {p.name for p in tmp_path.rglob("*-cache")}
    assert kept
    assert run(XDG_CACHE_HOME=str(tmp_path)) == where
    assert {p.name for p in tmp_path.rglob("*-cache")} == kept


def test_what_the_user_said_of_the_cache_holds(tmp_path):
    mine = str(tmp_path / "mine")
    assert run(JAX_COMPILATION_CACHE_DIR=mine, XDG_CACHE_HOME=str(tmp_path)) == mine
    off = run(JAX_ENABLE_COMPILATION_CACHE="false", XDG_CACHE_HOME=str(tmp_path))
    assert off == "None" and not (tmp_path / "tmi").exists()


def test_a_home_that_is_a_file_keeps_nothing_and_breaks_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    assert run(XDG_CACHE_HOME=str(tmp_path / "file")) == "None"
