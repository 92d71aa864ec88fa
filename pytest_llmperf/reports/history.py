"""What runs measured, one line of JSON per run and hardware, and where in that a metric became another.

A writer holds a lock beside the file and adds one whole line. A line that a killed process left unfinished is closed
and kept; so is one that a newer version wrote. Only when a file holds `MOST` lines do the oldest leave it.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from pytest_llmperf.errors import ReportError
from pytest_llmperf.metrics import CATALOGUE, Kind
from pytest_llmperf.reports.run import Run
from pytest_llmperf.results import Result, Verdict
from pytest_llmperf.verdict.rule import worse

SCHEMA = 1
MOST = 1_000
"""Lines in a file: the runs of some years of a busy main branch, in some 10 MB."""
PATIENCE_S = 30.0
_ENDING = ".jsonl"


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


@dataclass(frozen=True)
class Series:
    """One metric of one measurement on one hardware, through the runs."""

    key: str
    metric: str
    hardware: str
    runs: Sequence[Entry]
    values: Sequence[float]


@dataclass(frozen=True)
class Shift:
    """A change point.

    Args:
        index: of the first run after it.
        before: the median since the change point before.
        after: the median until the next.
    """

    series: Series
    index: int
    before: float
    after: float

    @property
    def change(self) -> float:
        """After/before − 1; what grows from nothing grows without end."""
        return self.after / self.before - 1 if self.before else math.copysign(math.inf, self.after)

    @property
    def is_worse(self) -> bool:
        return worse(CATALOGUE[self.series.metric]) * (self.after - self.before) > 0


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


def append(run: Run, place: Path) -> None:
    """Add a run to the file, or in the folder to the file of its hardware.

    Raises:
        ReportError: naming the file, and why nothing was added to it.
    """
    for entry in entries_of(run):
        file = place / f"{entry.hardware}{_ENDING}" if is_folder(place) else place
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(file.with_name(f".{file.name}.lock"), timeout=PATIENCE_S):
                _add(file, _adapter.dump_json(entry) + b"\n")
        except Timeout:
            fault = f"another process has been writing there for {PATIENCE_S:.0f} s; let it end"
            raise ReportError(f"{file}: {fault}: nothing was added") from None
        except OSError as error:
            raise ReportError(f"{error.filename or file}: {error.strerror or error}: nothing was added") from None


def _add(file: Path, line: bytes) -> None:
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    if lines and all(_parsed(each) is None for each in lines):
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


def series_of(history: History, key: str, hardware: str) -> list[Series]:
    """By metric, all that is known of one measurement from two runs on."""
    runs = [entry for entry in history.entries if entry.hardware == hardware and key in entry.results]
    found = []
    for metric in dict.fromkeys(name for run in runs for name in run.results[key].medians):
        known = [run for run in runs if metric in run.results[key].medians and metric in CATALOGUE]
        if len(known) > 1:
            values = [run.results[key].medians[metric] for run in known]
            found.append(Series(key, metric, hardware, known, values))
    return found


_FEWEST = 3
"""Runs on each side of a change point: of fewer none is to be told from a bad day."""
_PENALTY = 5.0
"""Of a change point, in log(n) squares of the noise. Simulated, of series of 20 to 200 runs without one at most 3 in
100 have any (normal, or Student's with 3 degrees of freedom); of steps of 5 standard deviations 99 in 100 are found."""
_LEAST_NOISE = 0.005
"""A share of the values: smaller steps are not worth a mark."""


def shifts(series: Series) -> list[Shift]:
    """The change points, by ruptures: least squares between them, at a price for each.

    What one run alone has measured counts for nothing, and the noise is that from run to run, which no step adds to.
    """
    if len(series.values) < 2 * _FEWEST:
        return []
    import numpy
    import ruptures
    from scipy.ndimage import median_filter

    values = numpy.asarray(series.values, dtype=float)
    noise = 1.4826 * float(numpy.median(numpy.abs(numpy.diff(values)))) / math.sqrt(2)
    scale = max(noise, _LEAST_NOISE * float(numpy.median(numpy.abs(values)))) or 1.0
    signal = median_filter(values, 3, mode="nearest") / scale
    search = ruptures.KernelCPD(kernel="linear", min_size=_FEWEST).fit(signal.reshape(-1, 1))
    ends = [0, *map(int, search.predict(pen=_PENALTY * math.log(len(values))))]
    levels = [statistics.median(series.values[start:end]) for start, end in pairwise(ends)]
    steps = zip(ends[1:-1], pairwise(levels), strict=True)
    return [Shift(series, end, before, after) for end, (before, after) in steps if before != after]
