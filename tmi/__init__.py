"""tmi: interaction models that hear, see, read, speak and write on a 200 ms clock.

The way through the package, left to right; nothing imports from its right:

    media -> data -> microturn -> models -> train -> decode -> serve -> evals

Importing `tmi` itself loads nothing: import the module you need.
"""

__version__ = "0.1.0"
