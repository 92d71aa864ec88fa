"""Several ranks as threads of one process, which meet in a store in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from torch.distributed import HashStore

from pytest_llmperf import meeting as module
from pytest_llmperf import ranks
from pytest_llmperf.meeting import Meeting

PATIENCE_S = 20.0
"""Who waits for longer waits for ever."""


def together(world: int, work: Callable[[Meeting], Any]) -> list[Any]:
    """What each of so many ranks comes to, or the error that it ends with."""
    store = HashStore()
    meetings = [Meeting(store, rank, world) for rank in range(world)]

    def outcome(meeting: Meeting) -> Any:
        try:
            return work(meeting)
        except Exception as error:
            return error

    with ThreadPoolExecutor(world) as threads, pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "PATIENCE_S", PATIENCE_S)
        return list(threads.map(outcome, meetings))


def acting(monkeypatch: pytest.MonkeyPatch, world: int, work: Callable[[int], Any]) -> list[Any]:
    """The same, where the work is that of a rank in a process of its own."""
    mine = threading.local()
    monkeypatch.setattr(ranks, "world", lambda: world)
    monkeypatch.setattr(ranks, "rank", lambda: mine.meeting.rank)
    monkeypatch.setattr(ranks, "meeting", lambda: mine.meeting)

    def as_rank(meeting: Meeting) -> Any:
        mine.meeting = meeting
        return work(meeting.rank)

    return together(world, as_rank)
