"""Settings of every test: eight virtual CPU devices, reproducible hypothesis examples, and one
folder of compiled programs for all processes of a run."""

import atexit
import os
import shutil
import tempfile

# Before anything imports jax: meshes are tested on virtual devices, accelerators are left alone.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    ).strip()

# Named before any worker starts, which then has it from its environment.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    folder = tempfile.mkdtemp(prefix="tmi-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

from hypothesis import settings  # noqa: E402

# The same examples each time: a failure on one machine is one everywhere. No deadline, since a
# first call may compile. HYPOTHESIS_PROFILE=search looks for more, with new examples each time.
settings.register_profile("tests", deadline=None, derandomize=True, max_examples=50, database=None)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tests"))
