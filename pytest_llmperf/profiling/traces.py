"""Where Chrome traces go: a folder per test, in it a file per measurement, as TensorBoard's profiler looks for them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import time
from pathlib import Path

from pytest_llmperf.errors import UsageError
from pytest_llmperf.model import Unknown

_LONGEST = 100
"""Of a folder's name, in characters; file systems end at 255 bytes, and some of whole paths at that."""


def check_traces(folder: Path, named: str) -> None:
    """Before any time goes into measuring.

    Args:
        named: what the user wrote: `--llmperf-traces=DIR`.

    Raises:
        UsageError: it cannot become a folder that takes files.
    """
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise UsageError(f"{named}: {'this' if there == folder else there} is a file, expected a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{named}: {'this folder' if there == folder else there} cannot be written to")


def trace_file(folder: Path, key: str) -> Path:
    """A new file for one measurement, `<host>_<process>.<nanoseconds>.pt.trace.json`, and its folder.

    The names are those of `torch.profiler.tensorboard_trace_handler`: each folder is a run, each process a worker.

    Raises:
        UsageError: the folder cannot be made.
    """
    own = folder / portable(key)
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{own}, for traces (--llmperf-traces), cannot be made: {error.strerror}") from error
    worker = re.sub(r"[^\w-]", "-", socket.gethostname())
    return own / f"{worker}_{os.getpid()}.{time.time_ns()}.pt.trace.json"


def untraced(file: Path, seen: object) -> str:
    """Why there is no trace, after all; empty where there is one. A folder made in vain goes again.

    Args:
        seen: a count of the profile that was to be written.
    """
    if file.is_file():
        return ""
    file.with_name(f"{file.name}.tmp").unlink(missing_ok=True)  # as torch leaves it where it could not write on
    with contextlib.suppress(OSError):  # there is something else in it
        file.parent.rmdir()
    why = seen.reason if isinstance(seen, Unknown) else "it could not be written (is the disk full?)"
    return f"no trace in {file.parent}: {why}"


def portable(key: str) -> str:
    """A test's id as the name of one folder on any file system; different ids have different names."""
    plainly = key.replace("::", "--").replace("/", "-")
    name = re.sub(r"[^A-Za-z0-9._=+-]+", "-", plainly).strip("-.")
    if name == plainly and len(name) <= _LONGEST:
        return name
    return f"{name[:_LONGEST]}-{hashlib.sha256(key.encode()).hexdigest()[:6]}"
