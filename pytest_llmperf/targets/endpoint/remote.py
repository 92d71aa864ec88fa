"""The device of a server's model: out of sight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pytest_llmperf.model import Unknown
from pytest_llmperf.targets.device import MemoryTrack

_OUT_OF_SIGHT = Unknown("the memory of a server's device is out of sight")


class Remote:
    """Host time of the client; nothing is known of memory.

    Args:
        place: what the server runs on, or the name of its host.
    """

    has_own_clock = False

    def __init__(self, place: str) -> None:
        self.name = f"served:{place}"

    def stamp(self, clock: Callable[[], float]) -> float:
        return clock()

    def seconds(self, start: float, end: float) -> float:
        return end - start

    def synchronize(self) -> None:
        """A request has been answered when its last token came."""

    @contextmanager
    def track_memory(self) -> Iterator[MemoryTrack]:
        yield MemoryTrack(_OUT_OF_SIGHT, _OUT_OF_SIGHT)

    def reserved_bytes(self) -> Unknown:
        return _OUT_OF_SIGHT

    def available_bytes(self) -> Unknown:
        return _OUT_OF_SIGHT

    def release(self) -> None:
        """Nothing of it is ours."""
