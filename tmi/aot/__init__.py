"""Ahead of time: what a config needs on a TPU slice, compiled by the real compiler on any machine.

hardware.py the chips, program.py the abstract step, text.py the compiled text, hlo.py its
collectives, traffic.py its bytes, roofline.py seconds and the model FLOPs' share, report.py what is
printed, fit.py the search, __main__.py the command.
"""
