"""Accelerator kernels of tmi, each in a package of its own.

`tmi_kernels/<op>/` holds `reference.py` (jnp, what the operation means) beside the Pallas kernels,
with one signature and one set of tests. The config names the kernel; one that cannot run raises.
"""
