"""The processes that serve a model together, as torchrun starts them: ranks. By itself a process is rank 0 of one.

All ranks run the same tests in lockstep, since the model's own collectives wait for every rank. Whatever may differ
between them (a time, free memory, an error) is exchanged before anything is decided by it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from pytest_llmperf.meeting import Meeting

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_Value = TypeVar("_Value")


def world(environ: Mapping[str, str] = os.environ) -> int:
    """How many ranks there are."""
    return int(environ["WORLD_SIZE"]) if all(environ.get(name, "").isdecimal() for name in _VARIABLES) else 1


def rank() -> int:
    """Which of them this process is; rank 0 judges, and writes."""
    return int(os.environ["RANK"]) if world() > 1 else 0


def local_rank() -> int:
    """Which of those on this machine."""
    return int(os.environ["LOCAL_RANK"]) if world() > 1 else 0


def gathered(value: _Value) -> list[_Value]:
    """What each rank has to say, by rank.

    Raises:
        LlmperfError: a rank has failed, or has left the test.
    """
    return [value] if world() == 1 else meeting().gathered(value)


def agreed(value: _Value) -> _Value:
    """What rank 0 has to say."""
    return gathered(value)[0]


def together(work: Callable[[], _Value]) -> _Value:
    """What it comes to in this rank; where it fails in one rank, it fails in all of them."""
    return work() if world() == 1 else meeting().together(work)


def shared(clock: Callable[[], float]) -> Callable[[], float]:
    """The clock of rank 0, for what all ranks decide alike; asked equally often by each."""
    return clock if world() == 1 else lambda: agreed(clock())


@functools.cache
def meeting() -> Meeting:
    """Where the ranks of this run meet."""
    from pytest_llmperf.meeting import arranged  # late: most runs are of one process

    return arranged()
