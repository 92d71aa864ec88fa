"""pytest on base's code: runs the tests that head names, each up to where it measures, and there does as it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.duet.channel import FAULT, Channel, Message, own_channel
from pytest_llmperf.duet.origin import strangers
from pytest_llmperf.duet.partner import DONE
from pytest_llmperf.duet.sides import TOLD
from pytest_llmperf.duet.worktree import Worktree
from pytest_llmperf.errors import LlmperfError
from pytest_llmperf.plugin.child import Child, run_as
from pytest_llmperf.targets import Endpoint, Pretrained, Reference

PROTOCOL = 1
"""What head and base say to each other; base may have another version of this package, in its own environment."""


class OnBase(Child):
    """Any child that runs on base's code."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        super().__init__(request)
        self._worktree = worktree_of(request)

    def locate(self, reference: Reference) -> Reference:
        """A local folder that base has not, where head has it, since git ignores what is large; base's own server."""
        if isinstance(reference, Endpoint):
            return reference.of_base()
        if not isinstance(reference, Pretrained):
            return reference
        here = Path(reference.name).absolute()
        there = None if here.exists() else self._worktree.in_head(here)
        return Pretrained(str(there)) if there is not None and there.exists() else reference

    def fault(self) -> str:
        """Why what is loaded is not all base's code; empty where it is."""
        found = strangers(self._worktree, [Path(root) for root in self.request["roots"]])
        more = f" (and {len(found) - 1} more such modules)" if len(found) > 1 else ""
        return f"base would not run base's code: {found[0]}{more}" if found else ""


class Base(OnBase):
    """The plugin that makes a pytest run serve as base."""

    def __init__(self, request: Mapping[str, Any], channel: Channel) -> None:
        super().__init__(request)
        self._head = self.line = Proving(channel, self.fault)
        self._faults: dict[str, str] = {}
        """Module → why it could not be collected."""
        self._reports: list[pytest.TestReport] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> None:
        super().pytest_cmdline_main(config)
        config.option.verbose = -1

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self) -> tuple[str, str, str]:
        """Nothing: what it prints last is why it ended, where it did."""
        return "", "", ""

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._faults[report.nodeid] = last_line(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of pytest's own loop: which test comes next is head's to say."""
        items = {item.nodeid: item for item in session.items}
        self._head.tell("collected", protocol=PROTOCOL, tests=len(items), faults=self._faults)
        while True:
            message = self._head.hear("test", "release", *TOLD)
            if message["say"] in TOLD:  # before head knew that the test had failed
                continue
            if message["say"] == "release":
                self._release(session.config)
            elif message["id"] in items:
                following = next((items[id_] for id_ in message["upcoming"] if id_ in items), None)
                self._run(session, items[message["id"]], following)
            else:
                fault = self._faults.get(message["id"].partition("::")[0], "")
                self._head.tell(DONE, outcome="missing", why=fault)

    def _run(self, session: pytest.Session, item: pytest.Item, following: pytest.Item | None) -> None:
        """One test with its fixtures; what it leaves set up is what the following one shares with it."""
        session._setupstate.teardown_exact(item)  # another was to follow the last one
        self._reports.clear()
        self.no_room = False
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        failed = next((report for report in self._reports if report.failed), None)
        skipped = next((report for report in self._reports if report.skipped), None)
        telling = failed or skipped
        outcome = telling.outcome if telling else "passed"
        self._head.tell(DONE, outcome=outcome, why=last_line(telling) if telling else "", no_room=self.no_room)

    def _release(self, config: pytest.Config) -> None:
        running: Any = config.pluginmanager.get_plugin("llmperf-running")
        if running is not None:
            running.release()
        self._head.tell("released")


class Proving:
    """A channel on which base speaks of a measurement only as long as all code that is loaded is base's."""

    def __init__(self, channel: Channel, fault: Callable[[], str]) -> None:
        self._channel = channel
        self._fault = fault

    def tell(self, say: str, **content: Any) -> None:
        """As `Channel.tell`.

        Raises:
            LlmperfError: a module of the project was loaded from elsewhere; head is told so.
        """
        if say in ("collected", "ready", "measured") and (fault := self._fault()):
            self._channel.tell(FAULT, why=fault)
            raise LlmperfError(fault)
        self._channel.tell(say, **content)

    def hear(self, *expected: str, patience: float | None = None) -> Message:
        return self._channel.hear(*expected, patience=patience)


def worktree_of(record: Mapping[str, Any]) -> Worktree:
    return Worktree(record["commit"], Path(record["head"]), Path(record["root"]))


def last_line(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a test or a module failed or was skipped, in one line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        return str(crash.message).strip().splitlines()[0]
    if isinstance(report.longrepr, tuple):  # skipped: path, line, reason
        return report.longrepr[2].removeprefix("Skipped: ")
    lines = [line.strip() for line in str(report.longrepr).splitlines() if line.strip()]
    errors = [line.removeprefix("E").strip() for line in lines if line.startswith("E  ")]
    return (errors or lines or [""])[-1 if errors else 0]


def main() -> int:
    """Run as base."""
    channel = own_channel()
    return run_as(lambda request: Base(request, channel))
