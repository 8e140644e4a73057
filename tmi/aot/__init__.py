"""Ahead of time: what a config needs on a TPU slice, compiled by the real compiler on any machine.

hardware.py the chips, program.py the abstract step, hlo.py the collectives of the compiled text,
roofline.py seconds and the model FLOPs' share, __main__.py the command.
"""
