"""Keeps a server: starts its command, and ends every process of it as soon as who asked for it ends or says so.

A process of its own, so that a server outlives nobody, however its owner ends. It is run by its file alone, with the
standard library alone: it is the same wherever the tests' own modules come from. It says lines of JSON.

On Linux it adopts what the server's processes leave behind (prctl(2), "PR_SET_CHILD_SUBREAPER"), so that none of them
can slip away; elsewhere those are ended that stay in the server's process group.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_LOOK_AGAIN_S = 0.02
_PR_SET_CHILD_SUBREAPER = 36
_READABLE_BY_ALL = 0o644


def main() -> int:
    asked: dict[str, Any] = json.loads(sys.argv[1])
    os.setpgrp()  # Ctrl-C is the owner's to answer
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        server = _start(asked["command"], asked["folder"], asked["log"])
    except OSError as error:
        _say(error=error.strerror)
        return 1
    _say(pid=server)
    reaper = threading.Thread(target=_reap, args=(server,), daemon=True)
    reaper.start()
    _wait_for_owner(asked["owner"])
    _end(server, reaper, asked["grace"])
    return 0


def _start(command: list[str], folder: str, log: str) -> int:
    """In a process group of its own: some servers end by a signal to their whole group."""
    os.chdir(folder)
    return os.posix_spawnp(
        command[0],
        command,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, _READABLE_BY_ALL),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setpgroup=0,
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores both
    )


def _reap(server: int) -> None:
    """Asleep in the kernel until a process ends; over when none is left."""
    while True:
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return
        if pid == server:
            _say(status=os.waitstatus_to_exitcode(status))


def _wait_for_owner(owner: int) -> None:
    """Until it speaks, closes or ends: a process forked from it may hold its end of the pipe open."""
    watched = [sys.stdin.fileno()]
    if sys.platform == "linux":
        try:
            watched.append(os.pidfd_open(owner))
        except ProcessLookupError:
            return
        except OSError:  # an older kernel
            pass
    select.select(watched, [], [])


def _end(server: int, reaper: threading.Thread, grace: float) -> None:
    """Ask each process to end, once those that would end it have had their chance; then see to it."""
    told: set[int] = set()
    late = time.monotonic() + grace
    while reaper.is_alive():
        over = time.monotonic() >= late
        for child in _children(server):
            if over or child not in told:
                told.add(child)
                _signal(child, signal.SIGKILL if over else signal.SIGTERM)
        reaper.join(_LOOK_AGAIN_S)
    _signal(-server, signal.SIGKILL)


def _children(server: int) -> list[int]:
    """What hangs directly below this process; where that cannot be told, the server's group."""
    if sys.platform != "linux":
        return [-server]
    me = str(os.getpid())
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone by now
            _, parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            if parent == me:
                found.append(int(folder.name))
    return found


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _say(**content: Any) -> None:
    with suppress(OSError):  # nobody listens any more
        os.write(sys.stdout.fileno(), json.dumps(content).encode() + b"\n")


if __name__ == "__main__":
    raise SystemExit(main())
