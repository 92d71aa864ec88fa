"""The resident set of processes: exactly by the kernel's high-water marks where they can be reset, else by sampling."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from pytest_llmperf.model import Unknown

_PROC = Path("/proc")
_ENDED = re.compile(r"^State:\s+[ZX]", re.MULTILINE)
_RESET_PEAK = "5"  # proc(5): reset the peak resident set size to the current value


class ResidentSet:
    """The resident set of processes together, watched until it is closed.

    A high-water mark is each process's own, so that exact peaks are added up whether or not they coincide. Pages that
    processes share count in each of them.

    Args:
        pids: of the processes, asked anew at each look: some may end, others begin.
        every: seconds between samples, where it takes samples.
    """

    def __init__(self, pids: Callable[[], Collection[int]], every: float) -> None:
        self._pids = pids
        self._every = every
        self._highest = 0
        self._done = threading.Event()
        self._sampler: threading.Thread | None = None
        if not all(map(_reset, pids())):
            self._look()
            self._sampler = threading.Thread(target=self._sample, name="llmperf-rss", daemon=True)
            self._sampler.start()

    def peak(self) -> int | Unknown:
        """Bytes since the watch began."""
        if self._sampler is None:
            return _high_water(self._pids())
        self._look()
        return self._highest

    def close(self) -> None:
        self._done.set()
        if self._sampler is not None:
            self._sampler.join()

    def _sample(self) -> None:
        while not self._done.wait(self._every):
            self._look()

    def _look(self) -> None:
        self._highest = max(self._highest, sum(map(_resident, self._pids())))


def _reset(pid: int) -> bool:
    try:
        (_PROC / str(pid) / "clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return _PROC.is_dir() and not (_PROC / str(pid)).exists()  # it has just ended
    return True


def _high_water(pids: Collection[int]) -> int | Unknown:
    total = 0
    for pid in pids:
        status = _PROC / str(pid) / "status"
        try:
            text = status.read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        if _ENDED.search(text):  # it holds no memory any more, and waits for its parent to hear of it
            continue
        match = re.search(r"^VmHWM:\s+(\d+) kB", text, re.MULTILINE)
        if match is None:
            return Unknown(f"{status} shows no VmHWM")
        total += int(match[1]) * 1024
    return total


def _resident(pid: int) -> int:
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:  # it has just ended
        return 0
