"""A run spread over xdist's workers: measurements are not disturbed, and a target is loaded by one worker only.

The controller names a folder for the run. In it workers keep their locks, and tell the scheduler which tests share a
target: the controller itself collects nothing. Nothing is made there unless a test that measures was collected.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.plugin.config import WIDTH, option, width
from pytest_llmperf.plugin.gpus import VISIBLE, names_of, of_workers
from pytest_llmperf.units import now

FOLDER = "llmperf_folder"
"""Where a worker finds the run's folder in its `workerinput`."""
GROUPS = "groups.json"
CALL = "llmperf_call"
"""Where it finds the arguments and the folder with which pytest was called."""
RECORDED = "llmperf_recorded"
"""Where it finds when the run began: the workers measure in one sitting."""


class Controller:
    """Registered in the process that hands tests out."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._folder: Path | None = None
        self._begun = now()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_setupnodes(self, specs: Sequence[Any]) -> None:
        """Here, because a worker's first conftest may start CUDA, which then sees what it saw."""
        if option(self._config, "mode") == "off":
            return
        here = [spec for spec in specs if spec.popen and not spec.via]
        for spec, gpus in zip(here, of_workers(len(here)), strict=False):
            spec.env.setdefault(VISIBLE, gpus)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        if self._folder is None:
            # The process id, because nothing keeps two runs from being given the same --testrunuid.
            name = f"llmperf-{node.workerinput['testrunuid']}-{os.getpid()}"
            self._folder = Path(tempfile.gettempdir()) / name
            self._config.add_cleanup(self._remove)
        node.workerinput[FOLDER] = str(self._folder)
        node.workerinput[RECORDED] = self._begun
        node.workerinput[CALL] = call_of(self._config)
        node.workerinput[WIDTH] = width(self._config)

    @pytest.hookimpl(optionalhook=True, trylast=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> object | None:
        """Only in place of `--dist=load`, which is what `-n` means by itself; a conftest's own choice goes before."""
        if config.getoption("dist") != "load" or self._folder is None:
            return None
        from pytest_llmperf.plugin.scheduling import ByTarget

        return ByTarget(config, log, self._folder / GROUPS)

    def _remove(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class Worker:
    """Registered in a worker once a test that measures was collected: all workers collect the same."""

    def __init__(self, config: pytest.Config, measuring: Sequence[pytest.Item]) -> None:
        workerinput: dict[str, Any] = config.workerinput  # type: ignore[attr-defined]  # xdist's
        self._folder = Path(workerinput[FOLDER])
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._room = Room(self._folder, workerinput["workerid"])
        groups = groups_of(measuring)
        if groups:
            written = self._folder / f"{workerinput['workerid']}-{GROUPS}"
            written.write_text(json.dumps(groups), encoding="utf-8")
            written.replace(self._folder / GROUPS)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        with self._room.inside():
            return (yield)

    def exclusive(self, device: str) -> AbstractContextManager[object]:
        """Keeps away whatever would disturb a measurement on the device.

        Args:
            device: `cuda:0`, or `cuda:0,1` for a target spread over GPUs. On anything else a measurement has the
                whole run for itself.
        """
        if not device.startswith("cuda"):
            return self._room.alone()
        # Of older drivers a slice's name is a path. In order, so that two who want the same do not wait for each other.
        return _all_of([self._folder / f"gpu-{gpu.replace('/', '-')}.lock" for gpu in names_of(device)])


class Room:
    """Every test of a run is in the room while it runs; a measurement has it alone.

    A worker in the room holds a lock of its own. Who wants to be alone gives that up, takes the door, hangs out the
    sign, and waits until each of the others' locks has been free: whoever sees the sign waits at the door before the
    next test, so that a measurement need not wait for a moment in which nobody happens to run one. The sign is hung
    out before the others' locks are looked at, and looked for after one's own is taken: one side always sees the other.

    These are plain file locks, which fall when their process dies, and waiting for one is a look every 50 ms, which an
    interrupt ends. filelock's ReadWriteLock is no choice: its waits inside SQLite cannot be interrupted in older
    versions, and leave a lock that no longer works.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        self._folder = folder
        self._own_path = folder / f"worker-{worker}.lock"
        self._own = _lock(self._own_path)
        self._door = _lock(folder / "door.lock")
        self._sign = folder / "sign"

    @contextmanager
    def inside(self) -> Iterator[None]:
        try:
            self._enter()
            yield
        finally:
            self._own.release()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A test that is inside is so again afterwards."""
        inside = self._own.is_locked
        self._own.release()
        try:
            with self._door:
                self._sign.touch()
                try:
                    self._wait_for_the_others()
                    yield
                finally:
                    self._sign.unlink(missing_ok=True)
        finally:
            if inside:
                self._enter()

    def _enter(self) -> None:
        self._own.acquire()
        if self._sign.exists():  # also one left by a killed worker: it costs a turn at the door, and falls at the next
            self._own.release()
            with self._door:
                self._own.acquire()

    def _wait_for_the_others(self) -> None:
        """Not only for those there were at the start: xdist puts new workers in the place of crashed ones."""
        for path in sorted(self._folder.glob("worker-*.lock")):
            if path != self._own_path:
                with _lock(path):
                    pass


def _lock(path: Path) -> Any:
    from filelock import FileLock

    return FileLock(path, thread_local=False)  # a test may measure in a thread


@contextmanager
def _all_of(paths: Sequence[Path]) -> Iterator[None]:
    with ExitStack() as held:
        for path in paths:
            held.enter_context(_lock(path))
        yield


def call_of(config: pytest.Config) -> tuple[list[str], str]:
    """The arguments and the folder with which pytest was called, whether or not this is a worker."""
    if hasattr(config, "workerinput"):
        arguments, folder = config.workerinput[CALL]
        return list(arguments), folder
    return [str(argument) for argument in config.invocation_params.args], str(config.invocation_params.dir)


def groups_of(measuring: Sequence[pytest.Item]) -> dict[str, int]:
    """Node id → number of the target, for tests that share theirs with another."""
    from pytest_llmperf.plugin.marks import checked_settings

    sharing: dict[object, list[str]] = {}
    for item in measuring:
        settings = checked_settings(item)
        if settings.target is not None:
            sharing.setdefault((settings.target, settings.load_options.key), []).append(item.nodeid)
    together = [nodeids for nodeids in sharing.values() if len(nodeids) > 1]
    return {nodeid: number for number, nodeids in enumerate(together) for nodeid in nodeids}
