"""What runs measured, one line of JSON per run and hardware.

A writer holds a lock beside the file and adds one whole line. A line that a killed process left unfinished is closed
and kept; so is one that a newer version wrote. Only when a file holds `MOST` lines do the oldest leave it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from pytest_llmperf.errors import ReportError
from pytest_llmperf.metrics import CATALOGUE, Kind
from pytest_llmperf.reports.run import Run
from pytest_llmperf.results import Result, Verdict

SCHEMA = 1
MOST = 1_000
"""Lines in a file: the runs of some years of a busy main branch, in some 10 MB."""
PATIENCE_S = 30.0
_ENDING = ".jsonl"
_FIRST = b'{"began":"'
"""How an entry begins."""


@dataclass(frozen=True)
class Point:
    """One measurement in one run: its medians, in their units."""

    medians: Mapping[str, float]
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Entry:
    """One run on one hardware.

    Args:
        began: in UTC.
        commit: of the code under test.
        dirty: whether tracked files differed from it.
        results: by key.
    """

    began: str
    hardware: str
    results: Mapping[str, Point]
    commit: str = ""
    dirty: bool = False
    tool: str = ""
    schema: int = SCHEMA

    @property
    def code(self) -> str:
        """`3f2a1b0c9`, with a mark where it was changed; the day where no commit is known."""
        return f"{self.commit[:9]}{'+' * self.dirty}" if self.commit else self.began[:10]


@dataclass(frozen=True)
class History:
    """Entries, the oldest first.

    Args:
        unread: lines that could not be understood.
    """

    entries: tuple[Entry, ...] = ()
    unread: int = 0


def entries_of(run: Run) -> list[Entry]:
    """One per hardware; what was not judged, as in smoke runs, is not worth keeping."""
    found: dict[str, dict[str, Point]] = {}
    for result in run.results:
        basis = run.bases.get(result.key)
        if basis is not None and basis.rules is not None and (medians := _medians(result)):
            results = found.setdefault(basis.measurement.environment.hardware, {})
            results[result.key] = Point(medians, result.verdict)
    return [Entry(run.began, hardware, results, run.commit, run.dirty, run.tool) for hardware, results in found.items()]


def _medians(result: Result) -> dict[str, float]:
    kept = [row for name, row in result.medians.items() if CATALOGUE[name].kind is not Kind.REPORT]
    return {row.metric: float(f"{row.value:.6g}") for row in kept}


def append(run: Run, place: Path) -> bool:
    """Add a run to the file, or in the folder to the file of its hardware; whether there was anything to add.

    Raises:
        ReportError: naming the file, and why nothing was added to it.
    """
    entries = entries_of(run)
    for entry in entries:
        file = place / f"{entry.hardware}{_ENDING}" if is_folder(place) else place
        try:
            if file.exists() and not file.is_file():  # a pipe would be waited for, and a device read without end
                raise ReportError(f"{file}: this is no file: nothing was added; name one")
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(file.with_name(f".{file.name}.lock"), timeout=PATIENCE_S):
                _add(file, _adapter.dump_json(entry) + b"\n")
        except Timeout:
            fault = f"another process has been writing there for {PATIENCE_S:.0f} s; let it end"
            raise ReportError(f"{file}: {fault}: nothing was added") from None
        except OSError as error:
            raise ReportError(f"{error.filename or file}: {error.strerror or error}: nothing was added") from None
    return bool(entries)


def _add(file: Path, line: bytes) -> None:
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    if lines and all(_parsed(each) is None for each in lines) and not _is_torn(lines):
        raise ReportError(f"{file}: this is no history of llmperf: nothing was added; name another file")
    if len(lines) < MOST:
        torn = b"\n" * bool(lines and not lines[-1].endswith(b"\n"))
        with file.open("ab") as opened:
            opened.write(torn + line)
        return
    kept = [*lines[len(lines) - MOST + 1 :], line]
    file = file.resolve()  # a link stays one
    whole = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        whole.write_bytes(b"".join(each if each.endswith(b"\n") else each + b"\n" for each in kept))
        whole.replace(file)
    finally:
        whole.unlink(missing_ok=True)


def _is_torn(lines: Sequence[bytes]) -> bool:
    """Whether all there is is the beginning of an entry, whose writer was killed or found the disk full."""
    first = lines[0]
    return len(lines) == 1 and (first.startswith(_FIRST) or _FIRST.startswith(first))


def is_folder(place: Path) -> bool:
    """Whether it stands for a file per hardware: what exists says so itself, a new name does by having no ending."""
    return place.is_dir() or (not place.exists() and not place.suffix)


def read(place: Path, hardware: Collection[str]) -> History:
    """What is stored of these hardwares.

    Raises:
        ReportError: naming the file that cannot be read.
    """
    if not place.exists():
        raise ReportError(f"{place}: there is no such history")
    files = [place / f"{name}{_ENDING}" for name in hardware] if is_folder(place) else [place]
    lines: list[bytes] = []
    for file in files:
        try:
            lines += file.read_bytes().splitlines()
        except FileNotFoundError:  # of this hardware nothing is stored
            continue
        except OSError as error:
            raise ReportError(f"{file}: {error.strerror or error}") from None
    parsed = [_parsed(line) for line in lines]
    known = [entry for entry in parsed if entry is not None and entry.schema <= SCHEMA and entry.hardware in hardware]
    known.sort(key=lambda entry: entry.began)
    return History(tuple(known), sum(entry is None or entry.schema > SCHEMA for entry in parsed))


def earlier(run: Run, place: Path) -> History:
    """What is stored of the hardware of a run, itself included where it was added.

    Raises:
        ReportError: naming the file that cannot be read.
    """
    return read(place, {basis.measurement.environment.hardware for basis in run.bases.values()})


def _parsed(line: bytes) -> Entry | None:
    try:
        return _adapter.validate_json(line)
    except ValidationError:
        return None


_adapter = TypeAdapter(Entry)
