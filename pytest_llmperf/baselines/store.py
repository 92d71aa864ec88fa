"""Where baselines lie, and how they change: one file per hardware and test module, never torn, never lost.

    FOLDER/<hardware>/<test module>.json            timed metrics and memory
    FOLDER/exact-<device type>/<test module>.json   counted metrics, which no hardware changes

Of a module `.py` is left out, unless its name has more dots or is noise.py; `..` is `_up`, the root `_root`.
Whoever writes holds the folder's lock, reads the file again, writes beside it and renames.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from pytest_llmperf.baselines import schema
from pytest_llmperf.baselines.compare import Baseline
from pytest_llmperf.baselines.entries import Change, change_of, merged, parts_of
from pytest_llmperf.baselines.exact import exact_folder, is_exact_folder
from pytest_llmperf.baselines.schema import Entry, File, NoiseFile, Recording
from pytest_llmperf.errors import BaselineError

NOISE = "noise.json"
PATIENCE_S = 60.0
"""How long another process may be writing; it takes milliseconds."""
LOCK = ".lock"
BESIDE = {
    ".gitattributes": "# An automatic merge would mix the rows of two baselines.\n*.json text eol=lf -merge\n",
    ".gitignore": f"/{LOCK}\n.*.tmp\n",
}
"""What git has to know of the folder."""


@dataclass(frozen=True)
class Contents:
    """All that baselines hold: entries by folder (hardware, or `exact-<device type>`) and key, noise by hardware."""

    entries: Mapping[str, Mapping[str, Entry]] = field(default_factory=dict)
    noise: Mapping[str, NoiseFile] = field(default_factory=dict)


class Store:
    """The baselines in one folder. What was read once is kept for the run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[Path, Any] = {}

    def find(self, key: str, hardware: str, device_type: str, workload: Mapping[str, object]) -> Baseline:
        """What a test is compared with: what is stored for this hardware and workload.

        Raises:
            BaselineError: a file that cannot be read.
        """
        bound, exact = (
            entry if entry is not None and entry.workload == workload else None
            for entry in (self._entry(self._path(part, key), key) for part in (hardware, exact_folder(device_type)))
        )
        return Baseline(
            bound.sessions if bound else (), exact.sessions if exact else (), bound.learned if bound else {}
        )

    def hardware_with(self, key: str) -> list[str]:
        """The kinds of hardware for which a test has a baseline that can be read."""
        found = []
        for path in sorted(self._subfolders()):
            with contextlib.suppress(BaselineError):  # of other hardware, which this run has nothing to do with
                if not is_exact_folder(path.name) and self._entry(self._path(path.name, key), key) is not None:
                    found.append(path.name)
        return found

    def record(self, recordings: Sequence[Recording], *, append: bool) -> list[Change]:
        """Store what was measured, as the new baseline or as one more session of the old.

        Raises:
            BaselineError: files that could not be read or written, which are as they were; all others are written.
        """
        parts: dict[Path, dict[str, Entry]] = {}
        for recording in recordings:
            for folder, entry in parts_of(recording).items():
                parts.setdefault(self._path(folder, recording.key), {})[recording.key] = entry
        if not parts:
            return []
        changed: dict[str, list[tuple[Entry | None, Entry]]] = {}
        faults: list[str] = []
        with self._locked():
            for path, entries in parts.items():
                try:
                    rewritten = self._rewrite(path, entries, append=append)
                except BaselineError as error:
                    faults.append(str(error))
                    continue
                for key, pair in rewritten.items():
                    changed.setdefault(key, []).append(pair)
        if faults:
            raise BaselineError(_partly(faults, len(parts)))
        return [change_of(key, pairs) for key, pairs in changed.items()]

    def names(self, hardware: str, *, all_readable: bool = False) -> dict[str, list[str]]:
        """The tests stored for one hardware: by module, their names within it. What cannot be read names none.

        Raises:
            BaselineError: a file cannot be read, where all must be.
        """
        found = {}
        for file in self._files(hardware):
            with contextlib.nullcontext() if all_readable else contextlib.suppress(BaselineError):
                if content := self._file(self.folder / hardware / file):
                    found[_module_of(PurePosixPath(file))] = list(content.tests)
        return found

    def prune(self, hardware: str, stale: Mapping[str, Collection[str]]) -> None:
        """Drop the named tests, by module as `names()` has them; a file that holds no test any more goes too.

        Raises:
            BaselineError: a file could not be read or written; it is as it was.
        """
        with self._locked():
            for module, tests in stale.items():
                path = self._path(hardware, module)
                content = self._fresh(path)
                kept = {test: entry for test, entry in content.tests.items() if test not in tests}
                if kept and kept != content.tests:
                    self._write(path, content.model_copy(update={"tests": kept}))
                elif not kept:
                    self._remove(path)

    def noise(self, hardware: str) -> NoiseFile | None:
        """What `llmperf calibrate` learned of this hardware."""
        return self._once(self.folder / hardware / NOISE, NoiseFile)

    def add_noise(self, hardware: str, calibration: schema.Calibration) -> Path:
        """Store one more calibration; its file."""
        path = self.folder / hardware / NOISE
        with self._locked():
            self._read.pop(path, None)  # another process may have written since
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
            f"{_module_of(PurePosixPath(file))}::{name}": entry
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
        self, path: Path, entries: Mapping[str, Entry], *, append: bool
    ) -> dict[str, tuple[Entry | None, Entry]]:
        """Each test's comparable entry before, and its entry now."""
        exact = is_exact_folder(path.relative_to(self.folder).parts[0])
        content = self._fresh(path)
        tests = dict(content.tests)
        changed = {}
        for key, entry in entries.items():
            name = _name_in_module(key)
            old = tests.get(name)
            comparable = old if old is not None and old.workload == entry.workload else None
            tests[name] = merged(comparable, entry, append=append, exact=exact)
            changed[key] = (comparable, tests[name])
        if tests != content.tests:
            self._write(path, content.model_copy(update={"tests": tests}))
        return changed

    def _entry(self, path: Path, key: str) -> Entry | None:
        content = self._file(path)
        return content.tests.get(_name_in_module(key)) if content else None

    def _file(self, path: Path) -> File | None:
        return self._once(path, File)

    def _once(self, path: Path, form: type[schema.Form]) -> schema.Form | None:
        if path not in self._read:
            self._read[path] = schema.load(self._guarded(path), form, self._name(path))
        content: schema.Form | None = self._read[path]
        return content

    def _fresh(self, path: Path) -> File:
        """As it is on the disk now: another process may have written since."""
        self._read.pop(path, None)
        return self._file(path) or File(tests={})

    def _write(self, path: Path, content: File | NoiseFile) -> None:
        try:
            _replace(self._guarded(path).resolve(), schema.written(content))
        except OSError as error:
            raise self._unwritten(self._name(path), error) from None
        except UnicodeEncodeError as error:
            raise BaselineError(
                f"{self._name(path)}: {error.object[error.start]!a}, in the name of a test or target, is half a "
                f"character: not recorded, and what was stored is as it was; rename it"
            ) from None
        finally:
            self._read.pop(path, None)

    def _remove(self, path: Path) -> None:
        """Remove a file, and folders that it leaves empty."""
        try:
            self._guarded(path).unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritten(self._name(path), error) from None
        self._read.pop(path, None)
        for folder in path.relative_to(self.folder).parents[:-1]:
            with contextlib.suppress(OSError):
                (self.folder / folder).rmdir()

    def _unwritten(self, name: str, error: OSError) -> BaselineError:
        return BaselineError(
            f"{name}: {error.strerror or error}: not recorded, and what was stored is as it was; "
            f"mend that, or name another folder by --llmperf-baselines"
        )

    def _path(self, hardware: str, key: str) -> Path:
        return self.folder / hardware / _file_of(key.partition("::")[0])

    def _guarded(self, path: Path) -> Path:
        """The path, unless a link leads it out of the folder."""
        try:
            real = path.resolve()
        except (OSError, RuntimeError) as error:  # a link to itself is either, by Python's version, or found on opening
            raise BaselineError(f"{self._name(path)}: {error}; replace the link by a file") from None
        if not real.is_relative_to(self.folder.resolve()):
            raise BaselineError(
                f"{self._name(path)} is a link that leads out of {self.folder}, to {real}: "
                f"replace it by a file, or name the real folder by --llmperf-baselines"
            )
        return path

    def _name(self, path: Path) -> str:
        return f"{self.folder.name}/{path.relative_to(self.folder).as_posix()}"

    def _subfolders(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if path.is_dir()] if self.folder.is_dir() else []

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time. The lock lies in the folder itself, where all who write there find the same one."""
        name = self.folder.name
        if self.folder.exists() and not self.folder.is_dir():
            raise BaselineError(
                f"{self.folder} is a file, where baselines need a folder: not recorded; "
                f"move it, or name another folder by --llmperf-baselines"
            )
        lock = FileLock(self._guarded(self.folder / LOCK), timeout=PATIENCE_S)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise BaselineError(
                f"{name}: not recorded: another process has been writing there for {PATIENCE_S:.0f} s; "
                f"let it end, and run this again"
            ) from None
        except OSError as error:
            raise self._unwritten(name, error) from None
        try:
            for beside, text in BESIDE.items():
                self._complete(self.folder / beside, text)
            yield
        finally:
            lock.release()

    def _complete(self, path: Path, text: str) -> None:
        """Write a file that is not there."""
        try:
            if not self._guarded(path).exists():
                _replace(path.resolve(), text)
        except OSError as error:
            raise self._unwritten(self._name(path), error) from None


@functools.cache
def _file_of(module: str) -> str:
    path = PurePosixPath(module)
    parts = [_PARTS.get(part) or re.sub(r"^(?=_+(up|root)$)", "_", part) for part in path.parts]
    name = "/".join(parts)
    short = name.removesuffix(".py")
    plain = "." not in short.rpartition("/")[2] and f"{short}.json" != NOISE
    return f"{short if plain else name}.json"


def _module_of(file: PurePosixPath | Path) -> str:
    """Of a file below its hardware's folder the module: the reverse of `_file_of`."""
    named = {file: part for part, file in _PARTS.items() if part != "//"}
    parts = [named.get(part) or re.sub(r"^_(?=_+(up|root)$)", "", part) for part in file.parts]
    module = str(PurePosixPath(*parts)).removesuffix(".json")
    return module if PurePosixPath(module).suffix else f"{module}.py"


_PARTS = {"..": "_up", "/": "_root", "//": "_root"}
"""Of a module's path, as they are named in the folder of baselines."""


def _partly(faults: Sequence[str], files: int) -> str:
    """What was not recorded, and what was."""
    shown = list(faults[:_MOST_FAULTS])
    if len(faults) > len(shown):
        shown.append(f"and {len(faults) - len(shown)} more files like that")
    written = files - len(faults)
    if written:
        shown.append(f"what else was measured is recorded ({written} {'file' if written == 1 else 'files'})")
    return "\n".join(shown)


_MOST_FAULTS = 3


def _name_in_module(key: str) -> str:
    return key.partition("::")[2] or key


def _replace(path: Path, text: str) -> None:
    """All of the new text, or all of the old: written beside it, brought to the disk, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(".*.tmp"):  # of a process that was killed: the lock is ours
        left.unlink()
    part = path.with_name(f".{os.getpid()}.tmp")
    try:
        with part.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
