"""Base's code checked out, and the processes that run tests on it."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.duet.channel import Process, python
from pytest_llmperf.duet.origin import import_roots, is_heads
from pytest_llmperf.duet.overlay import overlay
from pytest_llmperf.duet.partner import PATIENCE_S, Absent, BaseError, Partner, Reached
from pytest_llmperf.duet.repository import Base
from pytest_llmperf.duet.worktree import CheckedOut, Worktree, check_out, set_up, within
from pytest_llmperf.errors import MeasurementError, UsageError
from pytest_llmperf.git import outside_hooks
from pytest_llmperf.plugin import fresh
from pytest_llmperf.plugin.base import PROTOCOL, worktree_of
from pytest_llmperf.plugin.child import as_argument, own_cache, resolved_options
from pytest_llmperf.plugin.config import option
from pytest_llmperf.plugin.xdist import call_of

OPPOSITE = pytest.StashKey["Opposite"]()
"""Set where a process is head of a fresh pair."""
Tell = Callable[[str], None]
_HINT = (
    "if base needs other packages than head, ini llmperf_base_setup (such as `uv sync`) and llmperf_base_python give "
    "it an environment of its own; --llmperf-base-tests=head has it run head's tests"
)


@dataclass(frozen=True)
class Code:
    """A commit checked out, and how its modules are found.

    Args:
        said: what it is called, for people.
        roots: folders to be looked in first.
        tests: whose test files lie in it, `base` or `head`.
    """

    worktree: Worktree
    said: str
    roots: tuple[str, ...]
    tests: str = "base"

    def to_plain(self) -> dict[str, Any]:
        worktree = self.worktree
        return {
            "commit": worktree.commit,
            "head": str(worktree.head),
            "root": str(worktree.root),
            "said": self.said,
            "roots": list(self.roots),
            "tests": self.tests,
        }

    def remove(self) -> None:
        """Only this process's own."""
        if isinstance(self.worktree, CheckedOut):
            self.worktree.remove()

    @classmethod
    def from_plain(cls, record: Mapping[str, Any]) -> Code:
        return cls(worktree_of(record), record["said"], tuple(record["roots"]), record["tests"])


def checked_out(config: pytest.Config, base: Base, tests: str, modules: Sequence[Path], tell: Tell) -> Code:
    """Base's code, set up as the ini file says, with head's test modules put upon it where `tests` is `head`.

    Raises:
        LlmperfError: git could not check it out, or its set-up failed.
    """
    worktree: CheckedOut = check_out(config.rootpath, base.commit, tell)
    try:
        rootdir = worktree.counterpart(config.rootpath)
        rootdir.mkdir(parents=True, exist_ok=True)  # a part of the repository that is new in head
        if command := option(config, "base_setup"):
            tell(f"setting base up: {command}")
            set_up(worktree, command, rootdir)
        if tests == "head":
            folders = [config.rootpath / folder for folder in config.getini("testpaths")]
            overlay(worktree, modules, config.inipath, folders)
    except BaseException:
        worktree.remove()
        raise
    roots = tuple(str(root) for root in import_roots(worktree))
    return Code(worktree, f"{base.commit[:9]} ({base.said})", roots, tests)


class Calls:
    """How pytest is called on base's code."""

    def __init__(self, config: pytest.Config, code: Code, modules: Sequence[str]) -> None:
        self._config = config
        self._code = code
        self._modules = modules

    def launch(self) -> Process:
        """A process that begins to collect."""
        folder = Path(tempfile.mkdtemp(prefix="call-", dir=self._code.worktree.root.parent))  # and goes with it
        root = self._code.worktree.counterpart(self._config.rootpath)
        tests = [str(root / module) for module in self._modules if (root / module).is_file()]
        if not tests:  # nothing to collect, which pytest would take for the whole folder
            tests = [str(folder)]
        request = {**self._request(folder), "tests": tests, "basetemp": str(folder / "basetemp")}
        file = folder / "request.json"
        file.write_text(json.dumps(request), encoding="utf-8")
        command = [*self._command("pytest_llmperf.plugin.base"), str(file)]
        return Process(command, "base", folder=self._called_in(), environ=self._environ())

    def ready(self, process: Process) -> Process:
        """The process once it has collected, ready to run tests.

        Raises:
            BaseError: it could not get so far.
            FaultError: it would run other code than base's.
        """
        try:
            hello = process.hear("collected", patience=PATIENCE_S)
        except MeasurementError as error:
            told = fresh.reason(process.output())
            process.close()
            raise BaseError(f"base {self._code.said}: {str(error).partition(':')[0]}: {told}; {_HINT}") from None
        except BaseException:
            process.close()
            raise
        self._check(hello, process)
        return process

    def _check(self, hello: Mapping[str, Any], process: Process) -> None:
        fault = ""
        if hello["protocol"] != PROTOCOL:
            fault = "it has another version of pytest-llmperf than head, and they do not understand each other"
        elif hello["faults"] and self._code.tests == "base":
            module, why = next(iter(hello["faults"].items()))
            fault = f"it cannot collect {module}: {why}; {_HINT}"
        if fault:
            process.close()
            raise BaseError(f"base {self._code.said}: {fault}")

    def measured(self, nodeid: str, patience: float) -> fresh.Results:
        """What a fresh process measures in that test on base's code, by itself.

        Raises:
            MeasurementError: nothing.
        """
        with tempfile.TemporaryDirectory(prefix="llmperf-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            root = self._code.worktree.counterpart(self._config.rootpath)
            request = {**self._request(folder), "tests": [as_argument(root, nodeid)]}
            command = self._command("pytest_llmperf.plugin.apart")
            return fresh.results_of(request, self._called_in(), folder, command, patience, self._environ())

    def _request(self, folder: Path) -> dict[str, Any]:
        worktree = self._code.worktree
        arguments = [_moved(worktree, argument) for argument in call_of(self._config)[0]]
        arguments += [f"--rootdir={worktree.counterpart(self._config.rootpath)}", *own_cache(self._config, folder)]
        return {**self._code.to_plain(), "arguments": arguments, "options": resolved_options(self._config)}

    def _called_in(self) -> Path:
        worktree = self._code.worktree
        folder = worktree.counterpart(Path(call_of(self._config)[1]))
        return folder if folder.is_dir() else worktree.counterpart(self._config.rootpath)

    def _command(self, module: str) -> list[str]:
        given = option(self._config, "base_python")
        if given:
            return python(module, str(self._code.worktree.counterpart(self._config.rootpath) / given))
        elsewhere = [entry for entry in sys.path if entry and not is_heads(self._code.worktree, Path(entry).resolve())]
        return python(module, path=[*self._code.roots, *elsewhere])

    def _environ(self) -> dict[str, str]:
        before = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        others = [entry for entry in before if not is_heads(self._code.worktree, Path(entry).resolve())]
        return {**outside_hooks(), "PYTHONPATH": os.pathsep.join([*self._code.roots, *others])}


def _moved(worktree: Worktree, argument: str) -> str:
    """An argument that names a place in head by its full path, as one that names base's."""
    name, equals, value = argument.partition("=")
    if name.startswith("-") and equals:
        return f"{name}={_moved(worktree, value)}"
    place = Path(argument.partition("::")[0])
    if not place.is_absolute() or within(place, worktree.head) is None:
        return argument
    moved = worktree.counterpart(place)
    return argument.replace(str(place), str(moved), 1) if moved.exists() else argument


class Opposite:
    """What head's tests are run against: base's own tests, and head's on base's code where base has none.

    Args:
        codes: base's code with each kind of tests, made when first asked for.
        tests: all that head may measure, in order.
    """

    def __init__(
        self, config: pytest.Config, said: str, codes: Sequence[Callable[[], Code]], tests: Sequence[str]
    ) -> None:
        self.said = said
        self._config = config
        self._tests = list(tests)
        self._codes = list(codes)
        self._made: dict[int, Code] = {}
        self._partners: dict[int, Partner] = {}
        self._at = 0
        """Which of them runs the current test."""
        self._test = ""

    def launch(self) -> None:
        """Start base's process, without waiting for it."""
        self._partner(0).launch()

    def start(self) -> None:
        """Wait for base's process to collect.

        Raises:
            LlmperfError: it cannot.
        """
        self._partner(0).start()

    def begin(self, test: str) -> None:
        """Let base run a test up to where it first measures."""
        self._at = 0
        self._partner(0).begin(test)

    def reach(self, test: str, key: str) -> Reached | Absent:
        """Let base run a test up to where it measures `key`; head's test, where it has none of its own.

        Raises:
            BaseError: it ended, or does not answer.
        """
        if self._at and test != self._test:
            self.line.release()  # or three targets would be in memory
        self._at, self._test = 0, test
        found = self.line.reach(test, key)
        while isinstance(found, Absent) and found.missing and self._at + 1 < len(self._codes):
            self.line.release()
            self._at += 1
            try:
                found = self.line.reach(test, key)
            except UsageError as error:  # head's tests could not be put there
                raise BaseError(str(error)) from None
        if isinstance(found, Absent) and self.code.tests == "head":
            return dataclasses.replace(found, reason=f"head's test on its code: {found.reason}")
        return found

    @property
    def code(self) -> Code:
        """On which the last test ran."""
        return self._code(self._at)

    @property
    def line(self) -> Partner:
        return self._partner(self._at)

    def release(self) -> None:
        for partner in self._partners.values():
            partner.release()

    def close(self) -> None:
        for partner in self._partners.values():
            partner.close()
        for code in self._made.values():
            code.remove()

    def _code(self, index: int) -> Code:
        if index not in self._made:
            self._made[index] = self._codes[index]()
        return self._made[index]

    def _partner(self, index: int) -> Partner:
        if index not in self._partners:
            modules = list(dict.fromkeys(test.partition("::")[0] for test in self._tests))
            calls = Calls(self._config, self._code(index), modules)
            self._partners[index] = Partner(calls.launch, calls.ready, self._after)
        return self._partners[index]

    def _after(self, test: str) -> list[str]:
        return self._tests[self._tests.index(test) + 1 :] if test in self._tests else []
