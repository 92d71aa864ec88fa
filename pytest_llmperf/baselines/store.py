"""Where baselines lie, and how they change: one file per hardware and test module, never torn, never lost.

    FOLDER/<hardware>/<test module>.json            timed metrics and memory
    FOLDER/exact-<device type>/<test module>.json   counted metrics, which no hardware changes

Whoever writes holds the folder's lock, reads the file again, writes beside it and renames.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from filelock import FileLock

from pytest_llmperf.baselines import schema
from pytest_llmperf.baselines.compare import GATING_VERSIONS, Baseline, is_exact, learned
from pytest_llmperf.baselines.schema import MOST_SESSIONS, Entry, File, NoiseFile, Reading, Recording, Session
from pytest_llmperf.errors import BaselineError

NOISE = "noise.json"


@dataclass(frozen=True)
class Change:
    """What recording did to one test's baseline.

    Args:
        kind: `new`, `updated` or `unchanged`.
        medians: metric → stored before (None where it was not) and now.
    """

    key: str
    kind: str
    medians: Mapping[str, tuple[float | None, float]]


@dataclass(frozen=True)
class Contents:
    """All that baselines hold: entries by folder (hardware, or `exact-<device type>`) and key, noise by hardware."""

    entries: Mapping[str, Mapping[str, Entry]] = field(default_factory=dict)
    noise: Mapping[str, NoiseFile] = field(default_factory=dict)


class Store:
    """The baselines in one folder. What was read once is kept for the run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[Path, File | None] = {}

    def find(self, key: str, hardware: str, device_type: str, workload: Mapping[str, object]) -> Baseline:
        """What a test is compared with: what is stored for this hardware and workload.

        Raises:
            BaselineError: a file that cannot be read.
        """
        bound, exact = (
            entry if entry is not None and entry.workload == workload else None
            for entry in (self._entry(self._path(part, key), key) for part in (hardware, f"exact-{device_type}"))
        )
        return Baseline(
            bound.sessions if bound else (), exact.sessions if exact else (), bound.learned if bound else {}
        )

    def hardware_with(self, key: str) -> list[str]:
        """The kinds of hardware for which a test has a baseline."""
        folders = sorted(path for path in self._subfolders() if not path.name.startswith("exact-"))
        return [path.name for path in folders if self._entry(self._path(path.name, key), key) is not None]

    def record(self, recordings: Sequence[Recording], *, append: bool) -> list[Change]:
        """Store what was measured, as the new baseline or as one more session of the old.

        Raises:
            BaselineError: a file could not be read or written; those before it were, and it is as it was.
        """
        parts: dict[Path, dict[str, Entry]] = {}
        for recording in recordings:
            counted, bound = split(recording)
            for folder, entry in ((recording.hardware, bound), (f"exact-{recording.device_type}", counted)):
                if entry is not None:
                    parts.setdefault(self._path(folder, recording.key), {})[recording.key] = entry
        before: dict[str, list[tuple[Entry | None, Entry]]] = {}
        with self._locked():
            for path, entries in parts.items():
                exact = path.relative_to(self.folder).parts[0].startswith("exact-")
                for key, pair in self._rewrite(path, entries, append=append, exact=exact).items():
                    before.setdefault(key, []).append(pair)
        return [_change(key, pairs) for key, pairs in before.items()]

    def names(self, hardware: str) -> dict[str, list[str]]:
        """The tests stored for one hardware: by file below its folder, their names within the module."""
        root = self.folder / hardware
        files = sorted(path for path in root.rglob("*.json") if path != root / NOISE)
        return {path.relative_to(root).as_posix(): list((self._file(path) or File(tests={})).tests) for path in files}

    def prune(self, hardware: str, stale: Mapping[str, Collection[str]]) -> None:
        """Drop the named tests, by file as `names()` has them; a file that holds no test any more goes too."""
        with self._locked():
            for name, tests in stale.items():
                path = self.folder / hardware / name
                content = self._fresh(path)
                kept = {test: entry for test, entry in content.tests.items() if test not in tests}
                if kept:
                    self._write(path, content.model_copy(update={"tests": kept}))
                else:
                    self._guarded(path).unlink()
                    self._read.pop(path, None)

    def noise(self, hardware: str) -> NoiseFile | None:
        """What `llmperf calibrate` learned of this hardware."""
        path = self.folder / hardware / NOISE
        return schema.load(self._guarded(path), NoiseFile, self._name(path))

    def add_noise(self, hardware: str, calibration: schema.Calibration) -> Path:
        """Store one more calibration; its file."""
        path = self.folder / hardware / NOISE
        with self._locked():
            known = self.noise(hardware)
            earlier = known.calibrations if known else []
            self._write(path, NoiseFile(calibrations=[*earlier, calibration]))
        return path

    def contents(self, folders: Collection[str] | None = None, file: str | None = None) -> Contents:
        """Everything there is, or what these folders hold, or this file in each of them.

        Raises:
            BaselineError: a file that cannot be read.
        """
        names = sorted(path.name for path in self._subfolders() if folders is None or path.name in folders)
        noise = {name: self.noise(name) for name in names if file is None or file == NOISE}
        return Contents(
            {name: self._entries(name, [file] if file else self._files(name)) for name in names if file != NOISE},
            {name: known for name, known in noise.items() if known is not None},
        )

    def rewrite(self, change: Callable[[Contents], Contents]) -> list[Path]:
        """Store what `change` makes of everything there is, while nobody else writes; the files that are others now.

        What `change` leaves out stays.
        """
        written = []
        with self._locked():
            self._read.clear()
            before = self.contents()
            after = change(before)
            for path, tests in self._by_file(after).items():
                content = self._file(path) or File(tests={})
                if content.tests != (wanted := {**content.tests, **tests}):
                    self._write(path, content.model_copy(update={"tests": wanted}))
                    written.append(path)
            for hardware, noise in after.noise.items():
                if before.noise.get(hardware) != noise:
                    self._write(self.folder / hardware / NOISE, noise)
                    written.append(self.folder / hardware / NOISE)
        return written

    def _entries(self, folder: str, files: Sequence[str]) -> dict[str, Entry]:
        return {
            f"{_module(file)}::{name}": entry
            for file in files
            for name, entry in (self._file(self.folder / folder / file) or File(tests={})).tests.items()
        }

    def _files(self, folder: str) -> list[str]:
        root = self.folder / folder
        return [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.json")) if path != root / NOISE]

    def _by_file(self, contents: Contents) -> dict[Path, dict[str, Entry]]:
        parts: dict[Path, dict[str, Entry]] = {}
        for folder, entries in contents.entries.items():
            for key, entry in entries.items():
                parts.setdefault(self._path(folder, key), {})[_name_in_module(key)] = entry
        return parts

    def _rewrite(
        self, path: Path, entries: Mapping[str, Entry], *, append: bool, exact: bool
    ) -> dict[str, tuple[Entry | None, Entry]]:
        content = self._fresh(path)
        tests = dict(content.tests)
        changed = {}
        for key, entry in entries.items():
            name = _name_in_module(key)
            old = tests.get(name)
            comparable = old if old is not None and old.workload == entry.workload else None
            tests[name] = _merged(comparable, entry, append=append, exact=exact)
            changed[key] = (old, tests[name])
        if tests != content.tests:
            self._write(path, content.model_copy(update={"tests": tests}))
        return changed

    def _entry(self, path: Path, key: str) -> Entry | None:
        content = self._file(path)
        return content.tests.get(_name_in_module(key)) if content else None

    def _file(self, path: Path) -> File | None:
        if path not in self._read:
            self._read[path] = schema.load(self._guarded(path), File, self._name(path))
        return self._read[path]

    def _fresh(self, path: Path) -> File:
        """As it is on the disk now: another process may have written since."""
        self._read.pop(path, None)
        return self._file(path) or File(tests={})

    def _write(self, path: Path, content: File | NoiseFile) -> None:
        name = self._name(path)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            attributes = self.folder / ".gitattributes"
            if not attributes.exists():
                attributes.write_text("# An automatic merge would mix the rows of two baselines.\n*.json -merge\n")
            _replace(self._guarded(path), schema.written(content))
        except OSError as error:
            raise BaselineError(
                f"{name}: {error.strerror or error}: not recorded, and what was stored is as it was; "
                f"mend that, or name another folder by --llmperf-baselines"
            ) from None
        self._read.pop(path, None)

    def _path(self, hardware: str, key: str) -> Path:
        module = PurePosixPath(key.partition("::")[0])
        parts = ["_up" if part == ".." else part for part in module.parts if part != module.anchor]
        name = "/".join(parts).removesuffix(".py") + ".json"
        return self.folder / hardware / (name if name != NOISE else "noise.py.json")

    def _guarded(self, path: Path) -> Path:
        """The path, unless a link leads it out of the folder."""
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise BaselineError(
                f"{self._name(path)} is a link that leads out of {self.folder}, to {path.resolve()}: "
                f"replace it by a file, or name the real folder by --llmperf-baselines"
            )
        return path

    def _name(self, path: Path) -> str:
        return f"{self.folder.name}/{path.relative_to(self.folder).as_posix()}"

    def _subfolders(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if path.is_dir()] if self.folder.is_dir() else []

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time on this machine; the lock lies outside the folder, which is in version control."""
        digest = hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:16]
        user = getattr(os, "getuid", lambda: 0)()
        with FileLock(Path(tempfile.gettempdir()) / f"llmperf-{user}-{digest}.lock"):
            yield


def split(recording: Recording) -> tuple[Entry | None, Entry | None]:
    """The counted metrics of a recording, and the rest."""
    parts = []
    for counted in (True, False):
        sessions = [
            session.model_copy(update={"metrics": metrics})
            for session in recording.sessions
            if (metrics := {name: r for name, r in session.metrics.items() if is_exact(name) is counted})
        ]
        parts.append(Entry(workload=recording.workload, sessions=sessions[-MOST_SESSIONS:]) if sessions else None)
    return parts[0], parts[1]


def _merged(old: Entry | None, new: Entry, *, append: bool, exact: bool) -> Entry:
    if old is None:
        return new
    if exact:
        return _merged_exact(old, new, append=append)
    if append:
        return old.model_copy(update={"sessions": [*old.sessions, *new.sessions][-MOST_SESSIONS:]})
    return new.model_copy(update={"learned": learned(old)})


def _merged_exact(old: Entry, new: Entry, *, append: bool) -> Entry:
    """One session for each set of versions, and more only where they contradict each other."""
    said = [_said(session) for session in new.sessions]
    merged = [session for session in old.sessions if append or _said(session) in said]
    for session in new.sessions:
        if _said(session) not in map(_said, merged):
            merged.append(session)
    return old.model_copy(update={"sessions": merged[-MOST_SESSIONS:]})


def _said(session: Session) -> tuple[dict[str, Reading], list[str | None]]:
    """What a session says of the counted metrics, and for which versions."""
    return session.metrics, [session.versions.get(name) for name in GATING_VERSIONS]


def _change(key: str, pairs: Sequence[tuple[Entry | None, Entry]]) -> Change:
    medians = {
        name: (_latest(old).get(name) if old else None, median)
        for old, new in pairs
        for name, median in _latest(new).items()
    }
    if all(old is None for old, _ in pairs):
        return Change(key, "new", medians)
    return Change(key, "unchanged" if all(old == new for old, new in pairs) else "updated", medians)


def _latest(entry: Entry) -> dict[str, float]:
    return {name: reading.median for session in entry.sessions for name, reading in session.metrics.items()}


def _name_in_module(key: str) -> str:
    return key.partition("::")[2] or key


def _module(file: str) -> str:
    """The test module of a file, named below its hardware: `Store._path` the other way round."""
    parts = [".." if part == "_up" else part for part in file.removesuffix(".json").split("/")]
    return "/".join(parts).removesuffix(".py") + ".py"


def _replace(path: Path, text: str) -> None:
    """All of the new text, or all of the old: written beside it, brought to the disk, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed; the lock is ours
        left.unlink()
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
