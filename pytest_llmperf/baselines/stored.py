"""What is stored, wherever it lies: baselines and reports, read into one form.

A path is a folder of baselines, one hardware folder of it, one file of that, or a report: that of a run, as `pytest
--llmperf-json` writes it, or a JSON list as `llmperf measure --json` does. Each record of both holds a `recording`. A
hardware folder or a file of it brings along what is counted of the same tests, which lies beside it in
`exact-<device type>`.
"""

from __future__ import annotations

import json
import math
import os
import re
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_llmperf.baselines.compare import Baseline, levels
from pytest_llmperf.baselines.entries import parts_of
from pytest_llmperf.baselines.exact import device_type, exact_folder, is_exact, is_exact_folder
from pytest_llmperf.baselines.schema import MOST_SESSIONS, Entry, Learned, Recording, Session
from pytest_llmperf.baselines.store import Contents, Store
from pytest_llmperf.errors import BaselineError, UsageError
from pytest_llmperf.metrics import CATALOGUE, Kind

EXPECTED = (
    "a folder of baselines, a hardware folder or a file of it, or a report "
    "(pytest --llmperf-json, llmperf measure --json)"
)
HARDWARE = re.compile(r"(cpu|cuda|mps|served|exact)-.")


@dataclass(frozen=True)
class Stored:
    """One test on one hardware, with what is counted of it."""

    workload: Mapping[str, Any]
    sessions: Sequence[Session] = ()
    exact: Sequence[Session] = ()
    learned: Mapping[str, Learned] = field(default_factory=dict)

    @property
    def baseline(self) -> Baseline:
        return Baseline(self.sessions, self.exact, self.learned)

    @property
    def latest(self) -> Session:
        return max([*self.exact, *self.sessions], key=lambda session: session.recorded)

    @property
    def metrics(self) -> list[str]:
        """Of the catalogue, in its order."""
        known = {name for session in (*self.sessions, *self.exact) for name in session.metrics}
        return [name for name in CATALOGUE if name in known]

    def having(self, metric: str) -> list[Session]:
        """The sessions that measured it."""
        stored = self.exact if is_exact(metric) else self.sessions
        return [session for session in stored if metric in session.metrics]

    def figure(self, metric: str) -> float | None:
        """One number for all its sessions: of what is counted the latest, of times the middle of their logarithms."""
        medians = [session.metrics[metric].median for session in self.having(metric)]
        if not medians:
            return None
        if CATALOGUE[metric].kind is Kind.TIMED and min(medians) > 0:
            return math.exp(statistics.fmean(level.mean for level in levels(self.sessions, metric)))
        return medians[-1] if is_exact(metric) else statistics.median(medians)


def tests(contents: Contents, hardware: str) -> dict[str, Stored]:
    """The tests stored for one hardware, by key."""
    own = contents.entries.get(hardware, {})
    if is_exact_folder(hardware):
        return {key: Stored(entry.workload, exact=entry.sessions) for key, entry in own.items()}
    counted = contents.entries.get(exact_folder(device_type(hardware)), {})
    found = {}
    for key, entry in own.items():
        same = key in counted and counted[key].workload == entry.workload
        found[key] = Stored(entry.workload, entry.sessions, counted[key].sessions if same else (), entry.learned)
    return found


def read(path: Path) -> Contents:
    """What lies at a path.

    Raises:
        UsageError: nothing is there.
        BaselineError: it cannot be read, is something else, or empty.
    """
    _check_exists(path)
    return _not_empty(path, _read(path))


def read_folder(path: Path) -> Contents:
    """What a folder of baselines holds.

    Raises:
        UsageError: there is none, or something else.
        BaselineError: it cannot be read, or is empty.
    """
    _check_exists(path)
    if not path.is_dir() or _is_hardware(path):
        what = "one hardware's folder" if path.is_dir() else "a file"
        raise UsageError(f"{path} is {what}: expected a folder of baselines, with all hardware in it")
    return _not_empty(path, _of_store(path, path.absolute()))


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise UsageError(f"{path} does not exist: expected {EXPECTED}; pytest --llmperf-update records baselines")


def _not_empty(path: Path, found: Contents) -> Contents:
    if not any(found.entries.values()) and not found.noise:
        raise BaselineError(f"{path} holds no baselines: expected {EXPECTED}")
    return found


def _read(path: Path) -> Contents:
    if path.is_dir():
        return _of_hardware(path, path.absolute()) if _is_hardware(path) else _of_store(path, path.absolute())
    own = _own_hardware(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BaselineError(f"{path}: {error.strerror or error}: expected {EXPECTED}") from None
    except (ValueError, RecursionError) as error:
        if own is not None and path.suffix == ".json":
            return _of_file(path, own)  # which knows what to say of it
        raise BaselineError(f"{path}: {error or 'nested too deeply'}: expected {EXPECTED}") from None
    if isinstance(content, list):
        return _of_report(path, content)
    if isinstance(content, dict) and isinstance(content.get("results"), list):
        return _of_run(path, content["results"])
    if not isinstance(content, dict) or "schema" not in content:
        raise BaselineError(f"{path}: expected {EXPECTED}")
    if own is None:
        raise BaselineError(f"{path} lies in no hardware folder (cpu-…, cuda-…): expected {EXPECTED}")
    return _of_file(path, own)


def _is_hardware(folder: Path) -> bool:
    """Whether this is the folder of one hardware, and not one of baselines that only has such a name."""
    if not HARDWARE.match(folder.absolute().name):
        return False
    return _holds_baselines(folder.absolute().parent) or not any(
        HARDWARE.match(inner.name) for inner in folder.iterdir() if inner.is_dir()
    )


def _holds_baselines(folder: Path) -> bool:
    """Whether a `Store` has written there."""
    try:
        return "-merge" in (folder / ".gitattributes").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _of_store(path: Path, root: Path, folders: Collection[str] | None = None, file: str | None = None) -> Contents:
    try:
        found = Store(root).contents(folders, file)
    except BaselineError as error:  # which names the file from the folder's own name on; several may have that
        above = root.parent if path.is_absolute() else Path(os.path.relpath(root.parent))
        raise BaselineError(f"{above}{os.sep}{error}" if above.parts else str(error)) from None
    hardware = {name: entries for name, entries in found.entries.items() if HARDWARE.match(name)}
    return Contents(hardware, found.noise)


def _of_hardware(path: Path, folder: Path, file: str | None = None) -> Contents:
    return _of_store(path, folder.parent, (folder.name, exact_folder(device_type(folder.name))), file)


def _own_hardware(path: Path) -> Path | None:
    """The hardware folder that a file lies in: the nearest so named, or the one that lies in a store's."""
    named = [folder for folder in path.absolute().parents if HARDWARE.match(folder.name)]
    return next((folder for folder in named if _holds_baselines(folder.parent)), named[0] if named else None)


def _of_file(path: Path, hardware: Path) -> Contents:
    return _of_hardware(path, hardware, path.absolute().relative_to(hardware).as_posix())


def _of_report(path: Path, records: Sequence[Any]) -> Contents:
    entries: dict[str, dict[str, Entry]] = {}
    for number, record in enumerate(records, 1):
        recording = _recording(f"{path}: record {number}", record)
        for folder, entry in parts_of(recording).items():
            known = entries.setdefault(folder, {})
            known[recording.key] = _joined(path, recording.key, known.get(recording.key), entry)
    return Contents(entries, {})


def _of_run(path: Path, results: Sequence[Any]) -> Contents:
    kept = [result for result in results if isinstance(result, dict) and result.get("recording")]
    if results and not kept:
        raise BaselineError(
            f"{path}: no result holds a recording: it is the report of a duet or of a smoke run, which record nothing; "
            f"llmperf report shows it"
        )
    return _of_report(path, kept)


def _recording(place: str, record: Any) -> Recording:
    if not isinstance(record, dict) or "recording" not in record:
        raise BaselineError(
            f"{place}: recording is missing: expected a report (pytest --llmperf-json, llmperf measure --json)"
        )
    try:
        return Recording.model_validate(record["recording"])
    except ValueError as error:
        faults: Any = error
        first = faults.errors()[0]
        where = ".".join(map(str, ("recording", *first["loc"])))
        raise BaselineError(f"{place}: {where}: {first['msg']}; write the report anew") from None


def _joined(path: Path, key: str, known: Entry | None, more: Entry) -> Entry:
    """Reports of several runs in one list are several sessions."""
    if known is None:
        return more
    if known.workload != more.workload:
        raise BaselineError(f"{path}: {key} stands there with two workloads: give each a report of its own")
    return known.model_copy(update={"sessions": [*known.sessions, *more.sessions][-MOST_SESSIONS:]})
