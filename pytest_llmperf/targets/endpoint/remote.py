"""The device of a server's model: out of sight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pytest_llmperf.model import Unknown
from pytest_llmperf.targets.device import HostTime, MemoryTrack

_OUT_OF_SIGHT = Unknown("the memory of a server's device is out of sight")


class Remote(HostTime):
    """The client's own time; nothing is known of memory.

    Args:
        place: what the server runs on, or the name of its host.
    """

    def __init__(self, place: str) -> None:
        self.name = f"served:{place}"
        self.names = (self.name,)

    @contextmanager
    def track_memory(self) -> Iterator[MemoryTrack]:
        yield MemoryTrack(*[_OUT_OF_SIGHT] * 4)

    def held_bytes(self) -> Unknown:
        return _OUT_OF_SIGHT

    def rooms(self) -> tuple[()]:
        return ()

    def available_bytes(self) -> Unknown:
        return _OUT_OF_SIGHT

    def release(self) -> None:
        """Nothing of it is ours."""
