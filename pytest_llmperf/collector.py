"""Python's garbage collector, kept still where it would be seen or only cost time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_quiet() -> Iterator[None]:
    """No garbage collection inside; a pending one comes between rounds by itself."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
