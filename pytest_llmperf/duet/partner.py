"""Head's end of the conversation with base's pytest: which test it runs, and where in it it stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_llmperf.duet.channel import FaultError, Message, Process
from pytest_llmperf.duet.script import Pace
from pytest_llmperf.errors import LlmperfError, MeasurementError

DONE = "done"
"""Said when a test is over, whatever was asked last: it may fail anywhere."""
PATIENCE_S = 900.0
"""For base to load a target and warm it up, or to end a test."""
MOST_STARTS = 3
"""A base that has ended so often is not started again."""


class BaseError(LlmperfError):
    """Base did not do its part. Head can still be measured by itself.

    Args:
        no_room: for want of memory beside head.
    """

    def __init__(self, reason: str, *, no_room: bool = False) -> None:
        super().__init__(reason)
        self.no_room = no_room


@dataclass(frozen=True)
class Absent:
    """Why there is nothing in base to compare with."""

    reason: str
    missing: bool = False
    """Base has no such test."""
    no_room: bool = False
    """Base could do it, but not beside head: both do not fit into memory."""


@dataclass(frozen=True)
class Reached:
    """Base stands where the same is measured, warm and waiting."""

    pace: Pace
    workload: Mapping[str, Any]


class Partner:
    """Base's process, started when it is first needed, and again after it has ended.

    Args:
        launch: starts it.
        ready: waits until it can be told what to do.
        upcoming: the tests that head may measure after this one, in order.
    """

    def __init__(
        self,
        launch: Callable[[], Process],
        ready: Callable[[Process], Process],
        upcoming: Callable[[str], Sequence[str]],
    ) -> None:
        self._launch = launch
        self._ready = ready
        self._upcoming = upcoming
        self._launched: Process | None = None
        self._process: Process | None = None
        self._starts = 0
        self._test = ""
        self._heard: Message | None = None
        """Where base stands in the test that it runs: `ready` to measure, or `done`."""
        self._passed: list[str] = []
        """What it measured by itself on the way there."""

    def launch(self) -> None:
        """Start base's process now, if it is not started, without waiting for it."""
        if self._process is None and self._launched is None:
            self._starts += 1
            self._launched = self._launch()

    def start(self) -> None:
        """Have base's process started, and ready.

        Raises:
            LlmperfError: it cannot be started.
        """
        self.launch()
        if self._launched is not None:
            launched, self._launched = self._launched, None
            self._process = self._ready(launched)

    def begin(self, test: str) -> None:
        """Let base run a test up to where it first measures, and stand there warm.

        Raises:
            BaseError: it ended, or does not answer.
        """
        if self._test != test:
            self.leave()
            self.tell("test", id=test, upcoming=list(self._upcoming(test)))
            self._test = test
            self._passed.clear()
            self._heard = self.hear("ready", DONE, patience=PATIENCE_S)

    def reach(self, test: str, key: str) -> Reached | Absent:
        """Let base run a test up to where it measures `key`, and stand there warm.

        Raises:
            BaseError: it ended, or does not answer.
        """
        self.begin(test)
        while True:
            assert self._heard is not None
            if self._heard["say"] == DONE:
                return self._absent(self._heard, key)
            if self._heard["key"] == key:
                return Reached(Pace(**self._heard["pace"]), self._heard["workload"])
            self._passed.append(self._heard["key"])
            self._go_on("alone")

    def measured(self) -> Mapping[str, Any]:
        """End the measurement that base stands in; what came of it.

        Raises:
            BaseError: it ended, failed, or does not answer.
        """
        figures = self._go_on("end")
        if figures is None:
            raise self._failed()
        return figures

    def pass_by(self) -> None:
        """Let base measure by itself what head does not compare."""
        self._go_on("alone")

    def leave(self) -> None:
        """Let base come to the end of its test."""
        try:
            while self._heard is not None and self._heard["say"] == "ready":
                self._go_on("alone")
        finally:
            self._test, self._heard = "", None

    def release(self) -> None:
        """Let base forget its targets, so that other processes have room."""
        self.leave()
        if self._process is not None:
            self.tell("release")
            self.hear("released", patience=PATIENCE_S)

    def close(self) -> None:
        for process in (self._process, self._launched):
            if process is not None:
                process.close()
        self._process = self._launched = None

    def tell(self, say: str, **content: Any) -> None:
        self._asked(lambda process: process.tell(say, **content))

    def hear(self, *expected: str, patience: float | None = None) -> Message:
        """As `Process.hear`.

        Raises:
            BaseError: it ended, does not answer, or came to the end of its test where it should have gone on.
        """
        message: Message = self._asked(lambda process: process.hear(*expected, DONE, patience=patience))
        if message["say"] == DONE and DONE not in expected:
            self._heard = message
            raise self._failed()
        return message

    def _failed(self) -> BaseError:
        """Why base's test ended while it was measured."""
        assert self._heard is not None
        found = self._absent(self._heard, self._test)
        return BaseError(found.reason, no_room=found.no_room)

    def _go_on(self, how: str) -> Message | None:
        """From one measurement to where base stands next; what came of it, None where its test failed in it."""
        self.tell(how)
        measured = self.hear("measured", DONE, patience=PATIENCE_S)
        if measured["say"] == DONE:
            self._heard = measured
            return None
        self._heard = self.hear("ready", DONE, patience=PATIENCE_S)
        return measured

    def _absent(self, done: Message, key: str) -> Absent:
        outcome, why = done["outcome"], done.get("why", "")
        if outcome == "missing":
            return Absent(f"it cannot collect the test: {why}" if why else "it has no such test", missing=True)
        if outcome == "passed":
            label = key.removeprefix(self._test).removeprefix("::") or "this"
            if key in self._passed:
                return Absent(f"its test measures {label} earlier: both must measure in the same order")
            return Absent(f"its test does not measure {label}")
        told = {"failed": "its test fails", "skipped": "its test is skipped"}
        return Absent(": ".join(filter(None, [told.get(outcome, outcome), why])), no_room=bool(done.get("no_room")))

    def _asked(self, ask: Callable[[Process], Any]) -> Any:
        if self._process is None:
            if self._starts >= MOST_STARTS and self._launched is None:
                raise BaseError(f"it has ended {MOST_STARTS} times, and is not started again")
            self.start()
        assert self._process is not None
        try:
            return ask(self._process)
        except (MeasurementError, FaultError) as error:
            self.close()
            self._test, self._heard = "", None
            if isinstance(error, FaultError):
                raise
            raise BaseError(str(error)) from None
