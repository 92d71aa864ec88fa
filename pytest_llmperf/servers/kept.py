"""The owner's end of a keeper."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from pytest_llmperf.errors import TargetError
from pytest_llmperf.servers import keeper
from pytest_llmperf.servers.launch import Launch

_GRACE_S = 5.0
"""For processes to end by themselves when they are asked to."""
_PATIENCE_S = 10.0
"""For a keeper to end them after that."""


class Kept:
    """The processes of a command, none of which outlives this one.

    Args:
        log: where their output goes.

    Raises:
        TargetError: the command cannot be started.
    """

    def __init__(self, launch: Launch, log: Path) -> None:
        if os.name != "posix":
            raise TargetError("servers are started on Linux and macOS only; start it by hand and measure endpoint(url)")
        program, environ = launch.command[0], launch.environ
        if os.sep not in program and shutil.which(program, path=environ.get("PATH")) is None:
            raise TargetError(f"there is no program {program!r} on PATH: install it where the tests run")
        asked = {
            "command": launch.command,
            "folder": str(launch.folder),
            "log": str(log),
            "owner": os.getpid(),
            "grace": _GRACE_S,
        }
        with log.open("ab") as output:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", keeper.__file__, json.dumps(asked)],
                bufsize=0,  # a line read ahead would be one that `select` does not see
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
            )
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._into, self._out = self._keeper.stdin, self._keeper.stdout
        self._status: int | None = None
        try:
            said = json.loads(self._out.readline() or "{}")
            if "pid" not in said:
                raise TargetError(f"{program!r} cannot be started: {said.get('error', 'it is not said why')}")
        except BaseException:
            self.close()
            raise
        self.pid: int = said["pid"]

    @property
    def root(self) -> int:
        """The process above all of them."""
        return self._keeper.pid

    @property
    def status(self) -> int | None:
        """That with which the first of them ended, as `subprocess` tells it; None as long as it runs."""
        if self._status is None and select.select([self._out], [], [], 0)[0]:
            said = json.loads(self._out.readline() or "{}")
            self._status = said.get("status", -signal.SIGKILL)  # of the keeper, where it says nothing
        return self._status

    def close(self) -> None:
        """End them all, whatever they are doing."""
        with suppress(OSError, ValueError):  # the keeper has ended, or was told before
            self._into.write(b"\n")
        self._into.close()
        try:
            self._keeper.wait(_GRACE_S + _PATIENCE_S)
        except subprocess.TimeoutExpired:  # of a process that not even the kernel can end
            self._keeper.kill()
            self._keeper.wait()
        _ = self.status  # the last that is heard
        self._out.close()
