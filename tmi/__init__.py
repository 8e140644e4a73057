"""tmi: interaction models that hear, see, read, speak and write on a 200 ms clock.

The way through the package, left to right:

    microturn, media -> data -> models -> train -> decode -> evals

Three look ahead: train/alignment.py replays a live session, decode/stream.py writes the traces of
evals/trace.py, and media/analysis_synthesis.py listens with the judges of evals.

Importing `tmi` itself loads nothing: import the module you need.
"""

__version__ = "0.1.0"
