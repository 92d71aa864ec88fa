"""The control groups of this process: how much processor time they grant, and how much they withheld."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def quota(root: Path = _ROOT) -> float:
    """Cores' worth of time that the group of this process, or one above it, grants; infinite without one."""
    return min((_granted(folder) for folder in _folders(root)), default=math.inf)


def withheld(root: Path = _ROOT) -> float:
    """Seconds for which threads of a group had used up its quota, since it was made."""
    return max((_throttled(folder) for folder in _folders(root)), default=0.0)


def _folders(root: Path) -> Iterator[Path]:
    """Those of the groups that this process is in, and of the groups above them."""
    try:
        lines = Path("/proc/self/cgroup").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in filter(None, (re.fullmatch(r"\d+:([^:]*):(.*)", line) for line in lines)):
        base = root / "cpu" if "cpu" in line[1].split(",") else root
        own = base / line[2].lstrip("/")
        yield from (folder for folder in (own, *own.parents) if folder == base or base in folder.parents)


def _granted(folder: Path) -> float:
    """The quota that one group itself sets, in version 2 or version 1 of the interface."""
    try:
        granted, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            granted, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return math.inf
    try:
        return math.inf if granted.strip() in ("max", "-1") else int(granted) / int(period)
    except (ValueError, ZeroDivisionError):  # what makes no sense grants nothing, and takes nothing
        return math.inf


def _throttled(folder: Path) -> float:
    try:
        told = (folder / "cpu.stat").read_text()
    except OSError:
        return 0.0
    match = re.search(r"^throttled_(usec|time) (\d+)$", told, re.MULTILINE)  # version 1 counts nanoseconds
    return int(match[2]) / (1e6 if match[1] == "usec" else 1e9) if match else 0.0
