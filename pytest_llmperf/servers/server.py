"""A server that runs, from its start to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pytest_llmperf.errors import TargetError
from pytest_llmperf.model import Memory
from pytest_llmperf.names import host_name
from pytest_llmperf.servers import log as logs
from pytest_llmperf.servers.kept import Kept
from pytest_llmperf.servers.launch import PORT, Launch, free_port
from pytest_llmperf.servers.ready import PATIENCE_S, is_taken, what_is_amiss
from pytest_llmperf.servers.tree import Tree, none_of
from pytest_llmperf.units import how_ended, short_duration

if TYPE_CHECKING:
    from typing_extensions import Self

_LOOK_AGAIN_S = 0.1
_LEAST_PATIENCE_S = 0.5
_PORTS = {"http": 80, "https": 443}
_RUNNING: dict[tuple[str, int], Server] = {}
"""By host and port: an endpoint is named by its URL alone, and asks here for the processes behind it."""


class Server:
    """A command that serves, ready from its making until `stop()`.

    Args:
        log: where its output goes.
        timeout: seconds in which it has to be ready.
        tell: what is being waited for, for people who wait.

    Raises:
        TargetError: it cannot be started, has ended, or was not ready in time; nothing of it is left then.
    """

    def __init__(
        self, launch: Launch, log: Path, *, timeout: float, tell: Callable[[str], None] = lambda stage: None
    ) -> None:
        launch = launch.at(free_port()) if launch.wants_port else launch
        parts = urlsplit(launch.ready)
        self.name = launch.name
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._place = _place(launch.ready)
        self.port = self._place[1]
        self.log = log
        if is_taken(parts.hostname or "", self.port):
            raise TargetError(
                f"{self.name}: at {self.url} another process answers already; end it, or write {PORT} in the command "
                f"and in ready= for a port that is free"
            )
        self._kept = Kept(launch, log)
        self._tree: Tree | None = None
        try:
            self._wait(launch.ready, timeout, tell)
        except BaseException:
            self.stop()
            raise
        _RUNNING[self._place] = self

    @property
    def pid(self) -> int:
        """Of the process that the command started."""
        return self._kept.pid

    @property
    def alive(self) -> bool:
        """Whether that process runs."""
        return self._kept.status is None

    def check(self) -> None:
        """See that it runs.

        Raises:
            TargetError: it has ended; with the last that it printed.
        """
        if (status := self._kept.status) is not None:
            hint = " (it has to stay in the foreground)" * (status == 0)
            raise TargetError(f"{self.name} (pid {self.pid}) has ended {how_ended(status)}{hint}{logs.told(self.log)}")

    def begin(self) -> None:
        """Watch its memory from now on.

        Raises:
            TargetError: it has ended.
        """
        self.check()
        self._forget()
        self._tree = Tree(self._kept.root, self.port)

    def memory(self) -> Memory:
        """Of all its processes together, since `begin()`."""
        if self._tree is None:
            return none_of("nobody watched the server's memory")
        return self._tree.memory()

    def stop(self) -> None:
        """End all its processes, whatever they are doing."""
        if _RUNNING.get(self._place) is self:
            del _RUNNING[self._place]
        self._forget()
        self._kept.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _wait(self, ready: str, timeout: float, tell: Callable[[str], None]) -> None:
        began = time.monotonic()
        while amiss := what_is_amiss(ready, _patience(timeout - (time.monotonic() - began))):
            self.check()
            waited = time.monotonic() - began
            if waited >= timeout:
                raise TargetError(
                    f"{self.name} is not ready after {short_duration(timeout)}: GET {ready} {amiss}; "
                    f"timeout= gives it longer{logs.told(self.log)}"
                )
            tell(" · ".join([f"waiting for {self.name}, {waited:.0f} s", *logs.last_lines(self.log, 1)]))
            time.sleep(_LOOK_AGAIN_S)
        self.check()  # or another one answers

    def _forget(self) -> None:
        if self._tree is not None:
            self._tree.close()
            self._tree = None


def _patience(left: float) -> float:
    """Seconds that one look may take, where so many are left."""
    return min(PATIENCE_S, max(_LEAST_PATIENCE_S, left))


def serving(url: str) -> Server | None:
    """The server of this run that serves a URL, if one does."""
    try:
        return _RUNNING.get(_place(url))
    except ValueError:
        return None


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return host_name(parts.hostname or ""), parts.port or _PORTS.get(parts.scheme, 0)
