"""What another run has recorded, taken over where it is baselines and nothing else, whoever made it.

A folder that a pull request's code has written may hold anything. Taken over are tests and their sessions, which are
written anew from what was read; never a file as it is, a link, or one that baselines do not consist of.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pytest_llmperf.baselines.entries import Change, change_of
from pytest_llmperf.baselines.schema import Entry
from pytest_llmperf.baselines.store import BESIDE, LOCK, Contents, Store
from pytest_llmperf.baselines.stored import HARDWARE, read_folder
from pytest_llmperf.errors import BaselineError, UsageError

MOST_BYTES = 16 * 1024 * 1024
"""Of one file; the largest baselines of a module, with 20 sessions of a hundred tests, have four."""


def checked(folder: Path) -> Contents:
    """The tests in a folder of baselines; what is known of a machine's noise stays behind.

    Raises:
        UsageError: there is no such folder.
        BaselineError: something in it is no baseline.
    """
    if not folder.is_dir() or folder.is_symlink():
        raise UsageError(f"{folder} is no folder: expected one of baselines, as pytest --llmperf-update writes it")
    for path in _everything(folder):
        if fault := _fault(path, path.relative_to(folder)):
            raise BaselineError(f"{str(path)!a} {fault}: nothing was taken over")
    found = read_folder(folder)
    for key in (key for entries in found.entries.values() for key in entries):
        if not key.isprintable():
            raise BaselineError(f"{folder}: {key!a} is no name of a test: nothing was taken over")
    return Contents(found.entries)


def accept(new: Contents, into: Path) -> list[Change]:
    """Store them in place of what is stored of the same tests; what became of each."""
    if into.is_symlink() or (into.exists() and not into.is_dir()):
        raise UsageError(f"--into {into} is no folder: expected one of baselines, or a new name")
    pairs: dict[str, list[tuple[Entry | None, Entry]]] = {}

    def replaced(before: Contents) -> Contents:
        for folder, entries in new.entries.items():
            for key, entry in entries.items():
                pairs.setdefault(key, []).append((before.entries.get(folder, {}).get(key), entry))
        return new

    Store(into.absolute()).rewrite(replaced)
    return [change_of(key, each) for key, each in pairs.items()]


def _everything(folder: Path) -> Iterator[Path]:
    """All below a folder, the links themselves and not what they lead to."""
    for root, folders, files in os.walk(folder):
        yield from (Path(root, name) for name in (*folders, *files))


def _fault(path: Path, inside: Path) -> str:
    """Why something has no place among baselines; empty where it has."""
    if path.is_symlink():
        return "is a link"
    if not str(inside).isprintable():
        return "has a name that nobody can read"
    if path.is_dir():
        return "" if HARDWARE.match(inside.parts[0]) else "is no hardware's folder"
    if not path.is_file():
        return "is no file"
    if str(inside) in (*BESIDE, LOCK):
        return ""
    if len(inside.parts) < 2 or path.suffix != ".json":
        return "is no baseline"
    return "is too large" if path.stat().st_size > MOST_BYTES else ""
