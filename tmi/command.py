"""What commands have in common: an error that the user can mend is one line, not a traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def one_line(*errors: type[Exception], says: str = "error") -> Iterator[None]:
    """One of `errors` ends the process with code 1, and its message on stderr."""
    try:
        yield
    except errors as e:
        raise SystemExit(f"{says}: {e}") from e
