"""An event loop that knows how late it is itself."""

from __future__ import annotations

import asyncio
import selectors
from array import array
from collections.abc import Callable


class Watch(selectors.DefaultSelector):
    """Notes how long each batch of events took to be handled: whatever came meanwhile had to wait for so long."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._woke = clock()
        self._batch = 0
        self._stretches = array("d")
        self._events = array("L")

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._batch:
            self._stretches.append(self._clock() - self._woke)
            self._events.append(self._batch)
        ready = super().select(timeout)
        self._woke = self._clock()
        self._batch = len(ready)
        return ready

    def forget(self) -> None:
        """Begin anew."""
        del self._stretches[:], self._events[:]
        self._batch = 0

    def lag(self, share: float = 0.99) -> float:
        """The seconds within which this share of the events was handled, once they were seen; 0 if there were none."""
        left = share * sum(self._events)
        for stretch, events in sorted(zip(self._stretches, self._events, strict=True)):
            left -= events
            if left <= 0:
                return stretch
        return 0.0


def watched_loop(clock: Callable[[], float]) -> tuple[asyncio.AbstractEventLoop, Watch]:
    """A loop, and who watches it."""
    watch = Watch(clock)
    return asyncio.SelectorEventLoop(watch), watch
