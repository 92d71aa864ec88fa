"""Memory of a server's processes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pytest_llmperf.model import Memory, Unknown
from pytest_llmperf.nvml import process_bytes
from pytest_llmperf.resident import ResidentSet

if TYPE_CHECKING:
    import psutil

_SAMPLE_EVERY_S = 0.1
"""This process measures meanwhile."""
_MODEL = Unknown("a server's model is out of sight")


def none_of(reason: str) -> Memory:
    """Where the processes are not in sight."""
    return dataclasses.replace(_of_its_model(), peak_rss=Unknown(reason), process_gpu=Unknown(reason))


class Tree:
    """All processes below one, watched from when it is made.

    Args:
        root: the process above them, which is none of them.
        port: where one of them listens; if none does, others do the work.
    """

    def __init__(self, root: int, port: int) -> None:
        self._root = root
        self._port = port
        self._resident = ResidentSet(self._pids, _SAMPLE_EVERY_S)

    def memory(self) -> Memory:
        processes = _below(self._root)
        if not any(_listens(process, self._port) for process in processes):
            return none_of(f"no process that the command started listens on port {self._port} (a container's do not)")
        gpu = process_bytes(self._pids(), "the server")
        return dataclasses.replace(_of_its_model(), peak_rss=self._resident.peak(), process_gpu=gpu)

    def close(self) -> None:
        self._resident.close()

    def _pids(self) -> list[int]:
        return [process.pid for process in _below(self._root)]


def _of_its_model() -> Memory:
    return Memory(*[_MODEL] * len(dataclasses.fields(Memory)))


def _below(root: int) -> list[psutil.Process]:
    import psutil

    try:
        return psutil.Process(root).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _listens(process: psutil.Process, port: int) -> bool:
    import psutil

    try:
        connections = process.net_connections if hasattr(process, "net_connections") else process.connections
        return any(seen.status == psutil.CONN_LISTEN and seen.laddr.port == port for seen in connections("tcp"))
    except psutil.Error:  # it has just ended, or is another user's
        return False
