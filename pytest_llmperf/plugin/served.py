"""The servers of one session, and what its tests get of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llmperf import servers
from pytest_llmperf.errors import LlmperfError, UsageError
from pytest_llmperf.plugin.progress import Progress
from pytest_llmperf.servers import Launch

if TYPE_CHECKING:
    from pytest_llmperf.targets.endpoint import Endpoint

_LOG_NAME = 60


class Server(servers.Server):
    """A running server, as a test sees it."""

    def endpoint(self, *, path: str = "/v1", **arguments: Any) -> Endpoint:
        """What to measure: `endpoint(url, **arguments)` with this server's URL.

        Args:
            path: where its API begins.

        Raises:
            TargetError: the server has ended.
        """
        from pytest_llmperf.targets.endpoint import endpoint

        self.check()
        return endpoint(f"{self.url}{path}", **arguments)


class Servers:
    """What the fixture `llm_server` gives: called with a command, it starts it, or finds it started.

    Args:
        folder: for logs.
    """

    def __init__(self, config: pytest.Config, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self._started: dict[Launch, Server | LlmperfError] = {}

    def __call__(
        self,
        command: str | Sequence[str | os.PathLike[str]],
        ready: str,
        *,
        timeout: float = 300.0,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        name: str | None = None,
    ) -> Server:
        """The server that the command starts, once it is ready; the same one for the same arguments.

        `{port}` in `command`, `ready` and `env` is a free port.

        Args:
            command: as text, split into words as a shell would, or a list of words.
            ready: a URL that answers 200 once the server is ready.
            timeout: seconds in which it has to be.
            env: on top of this process's environment.
            cwd: the folder in which the command runs, rootdir unless given.
            name: tells servers of the same command apart.
        """
        try:
            return self._ready(command, ready, timeout, env, cwd, name)
        except LlmperfError as error:
            if self._config.get_verbosity() >= 2:
                raise
            message = str(error)
        raise pytest.fail.Exception(f"llm_server: {message}", pytrace=False) from None

    def close(self) -> None:
        for server in self._started.values():
            if isinstance(server, Server):
                server.stop()

    def _ready(
        self,
        command: str | Sequence[str | os.PathLike[str]],
        ready: str,
        timeout: float,
        env: Mapping[str, str] | None,
        cwd: str | os.PathLike[str] | None,
        name: str | None,
    ) -> Server:
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
            raise UsageError(f"timeout={timeout!r}: expected seconds, more than 0")
        if cwd is not None and (not isinstance(cwd, (str, os.PathLike)) or "\0" in str(cwd)):
            raise UsageError(f"cwd={cwd!r}: expected the path of a folder")
        folder = self._config.rootpath / (cwd or "")
        launch = Launch.of(command, ready, env=env, folder=folder, name=name)
        if launch not in self._started:
            self._started[launch] = self._start(launch, timeout)
        known = self._started[launch]
        if isinstance(known, LlmperfError):  # it would fail again, and take as long
            raise known
        known.check()
        return known

    def _start(self, launch: Launch, timeout: float) -> Server | LlmperfError:
        progress = Progress(self._config)
        log = self._folder / f"{Path(launch.command[0]).name[:_LOG_NAME]}-{len(self._started) + 1}.log"
        try:
            return Server(launch, log, timeout=timeout, tell=progress)
        except LlmperfError as error:
            return error
        finally:
            progress("")
