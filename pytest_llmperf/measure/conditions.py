"""What the machine did while a measurement was made: facts, seen apart from the times themselves."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pytest_llmperf.model import Conditions, Unknown


@dataclass
class Watch:
    """Filled when its stretch ends."""

    seen: Conditions = field(default_factory=Conditions)


@contextmanager
def watched() -> Iterator[Watch]:
    """Compare the machine's own account of processor time, before and after, with that of this process."""
    watch = Watch()
    before = _Account.now()
    yield watch
    watch.seen = before.until(_Account.now())


@dataclass(frozen=True)
class _Account:
    """Seconds, summed over all processors."""

    wall: float
    busy: float
    stolen: float
    own: float
    processors: int

    @classmethod
    def now(cls) -> _Account:
        import psutil

        times = psutil.cpu_times()
        stolen = getattr(times, "steal", 0.0)
        idle = times.idle + getattr(times, "iowait", 0.0)
        guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # contained in user and nice
        own = os.times()
        return cls(
            time.monotonic(),
            sum(times) - guests - idle - stolen,
            stolen,
            own.user + own.system,
            psutil.cpu_count() or 1,
        )

    def until(self, end: _Account) -> Conditions:
        wall = end.wall - self.wall
        if wall < _SHORTEST_S:
            too_short = Unknown("too short a time to tell")
            return Conditions(too_short, too_short, self.processors)
        foreign = max(0.0, (end.busy - self.busy) - (end.own - self.own)) / wall
        return Conditions(foreign, max(0.0, end.stolen - self.stolen) / wall, self.processors)


_SHORTEST_S = 0.2
"""The kernel counts in hundredths of a second; below this the share would be rounding."""
