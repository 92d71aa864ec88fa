"""Where ranks say to each other what they have to say.

They meet in the store through which torchrun's processes find each other, and in no process group: whoever loads a
model makes that, as the model needs it, and a wait in the store ends when it is to end.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from pytest_llmperf.errors import LlmperfError, MeasurementError

PATIENCE_S = 7200.0
"""For ranks that load or measure; torchrun ends all of them where one has ended."""
AFTER_FAILURE_S = 60.0
"""For ranks that may wait in a collective of the model for this one, which has failed, and then never come."""

_Value = TypeVar("_Value")


class Store(Protocol):
    """As torch has it."""

    def set(self, key: str, value: Any) -> None: ...

    def wait(self, keys: list[str], timeout: timedelta) -> None: ...

    def multi_get(self, keys: list[str]) -> list[bytes]: ...

    def delete_key(self, key: str) -> bool: ...


@dataclass(frozen=True)
class _Said:
    value: Any = None
    failed: LlmperfError | None = None
    left: str | None = None
    """The test that the rank is at the end of."""
    why: str = ""
    """It failed there, if it did."""


@dataclass
class Meeting:
    """One rank among the others.

    Args:
        lost: why the ranks cannot go on together; empty as long as they can.
    """

    store: Store
    rank: int
    world: int
    lost: str = ""
    _times: int = field(default=0)

    def gathered(self, value: _Value) -> list[_Value]:
        return [each.value for each in self._heard(_Said(value))]

    def together(self, work: Callable[[], _Value]) -> _Value:
        try:
            done = work()
        except Exception as error:
            if not self.lost:
                self._exchanged(_Said(failed=_portable(error)), AFTER_FAILURE_S)
            raise
        self._heard(_Said())
        return done

    def regroup(self, test: str, why: str = "") -> None:
        """At the end of a test, wait until every rank is there, however it got there.

        Args:
            why: the test failed in this rank, which those are told who are still inside of it.
        """
        tests: list[str | None] = [None]
        with contextlib.suppress(MeasurementError):  # then they are lost
            while None in tests:
                tests = [each.left for each in self._exchanged(_Said(left=test, why=why), PATIENCE_S)]
            if len(set(tests)) > 1:
                self.lost = f"the ranks run different tests: {', '.join(map(str, tests))}"

    def part(self) -> None:
        """At the end of a run, wait until rank 0 has written all: torchrun ends it when another has failed and ends."""
        self.regroup("the end of the run")
        if self.rank == 0:
            self.store.set("written", b"")
        else:
            self._came(["written"], AFTER_FAILURE_S)

    def _heard(self, say: _Said) -> list[_Said]:
        """What all say who are still in the test."""
        said = self._exchanged(say, PATIENCE_S)
        for rank, each in enumerate(said):
            if each.left is not None:
                raise MeasurementError(": ".join(filter(None, [f"rank {rank} has left the test", each.why])))
            if each.failed is not None:
                raise type(each.failed)(f"rank {rank}: {each.failed}")
        return said

    def _exchanged(self, say: _Said, patience: float) -> list[_Said]:
        if self.lost:
            raise MeasurementError(self.lost)
        now, self._times = self._times, self._times + 1
        keys = [f"{now}/{rank}" for rank in range(self.world)]
        self.store.set(keys[self.rank], pickle.dumps(say))
        if not self._came(keys, patience):
            waited = f"rank {self.rank} waited {patience:g} s in vain for the other ranks"
            self.lost = f"{say.failed}; {waited}" if say.failed else waited
            raise MeasurementError(self.lost)
        if now:  # whoever is here has read what was said the time before
            self.store.delete_key(f"{now - 1}/{self.rank}")
        said: list[_Said] = [pickle.loads(each) for each in self.store.multi_get(keys)]
        return said

    def _came(self, keys: list[str], patience: float) -> bool:
        try:
            self.store.wait(keys, timedelta(seconds=patience))
        except RuntimeError:  # of torch: they did not come, or the store is gone
            return False
        return True


def _portable(error: Exception) -> LlmperfError:
    """What other ranks can be told of it."""
    if isinstance(error, LlmperfError):
        return error
    return MeasurementError(f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}")


def arranged() -> Meeting:
    """The meeting of torchrun's processes."""
    from torch.distributed import distributed_c10d, rendezvous  # type: ignore[attr-defined]  # it is exported

    store, number, ranks = next(iter(rendezvous("env://")))
    return Meeting(distributed_c10d.PrefixStore("llmperf", store), number, ranks)
