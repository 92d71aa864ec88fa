"""What a run has measured, as its test reports told it (they also come from xdist's workers), and what is stored of it.

Only the process that has the terminal writes; workers send plain data.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llmperf.errors import BaselineError
from pytest_llmperf.plugin.config import baselines_folder, is_recording, option

if TYPE_CHECKING:
    from pytest_llmperf.baselines.store import Store
    from pytest_llmperf.model import Result
    from pytest_llmperf.reports.recorded import Recorded


SEEN = "llmperf_seen"
"""Where a worker of xdist leaves in its `workeroutput` what it collected."""


class Seen:
    """Collects results; at the end records them, says what is stale, and prints the summary."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._results: dict[str, dict[str, Any]] = {}
        self._existing: set[str] = set()
        """Node ids, also of tests that were not chosen."""
        self._unsure: set[str] = set()
        """Modules of which tests may exist that were not collected."""
        self._complete = False
        """Whether collection came to its end."""
        self._recorded: Recorded | None = None
        self._fault = ""

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        self._existing.add(item.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:
            self._unsure.add(_module(report.nodeid))

    def pytest_collection_finish(self) -> None:
        self._complete = not self._config.getoption("lf", False)  # which leaves tests out before they are collected

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """What a worker of xdist collected; the controller collects nothing."""
        if seen := getattr(node, "workeroutput", {}).get(SEEN):
            existing, unsure, self._complete = seen
            self._existing.update(existing)
            self._unsure.update(unsure)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for result in getattr(report, "llmperf", ()):
            result["expected_to_fail"] = hasattr(report, "wasxfail")
            self._results[result["key"]] = result  # a rerun takes the place of what it repeats

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(self._config, "workerinput"):
            output: dict[str, Any] = self._config.workeroutput  # type: ignore[attr-defined]  # xdist's
            output[SEEN] = (sorted(self._existing), sorted(self._unsure), self._complete)
        elif not self._config.getoption("collectonly"):
            self._finish(session)

    def _finish(self, session: pytest.Session) -> None:
        recording = is_recording(self._config)
        if self._results:
            try:
                self._settle(recording=recording)
            except BaselineError as error:
                self._fault = str(error)
                session.exitstatus = max(session.exitstatus, pytest.ExitCode.TESTS_FAILED)
        elif session.exitstatus == pytest.ExitCode.OK and (asked := self._asked(recording=recording)):
            self._fault = f"nothing was measured, where something was to be {asked}"
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED

    def _asked(self, *, recording: bool) -> str:
        """What cannot have been done in a run that measured nothing."""
        if recording:
            return "recorded"
        if option(self._config, "prune"):
            return "kept, and the rest dropped"
        if option(self._config, "against") is not None:
            return "compared with a base"
        return "judged strictly" if option(self._config, "strict") and option(self._config, "mode") == "on" else ""

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        reporter, config = terminalreporter, self._config
        if self._results:
            from pytest_llmperf.reports.terminal import summary

            verbosity = config.get_verbosity()
            if verbosity >= 0:
                reporter.write_sep("=", "llmperf")
            writer = reporter._tw
            text = summary(self._all(), writer.fullwidth, writer.hasmarkup, verbosity, self._recorded)
            reporter.write_line(text if verbosity >= 0 else f"llmperf: {text}")
        if self._fault:
            reporter.write_line(f"llmperf: {self._fault}", red=True)

    def _all(self) -> list[Result]:
        from pytest_llmperf.model import Result

        return [Result.from_plain(record) for record in self._results.values()]

    def _settle(self, *, recording: bool) -> None:
        """Record what was measured, if that was asked for, and find what is stored in vain."""
        from pytest_llmperf.baselines.store import Store
        from pytest_llmperf.reports.recorded import Recorded

        store = Store(baselines_folder(self._config))
        results = [result for result in self._all() if result.recording]
        changes = []
        if recording:
            from pytest_llmperf.baselines.schema import Recording

            fit = [Recording(**result.recording) for result in results if result.recording and not result.unfit]
            changes = store.record(fit, append=option(self._config, "append"))
        prune = option(self._config, "prune")
        stale = self._stale(store, results, prune=prune)
        if prune:
            for hardware, modules in stale.items():
                store.prune(hardware, modules)
        told = results if recording else []
        unfit = {result.key: result.unfit for result in told if result.unfit}
        kept = [] if option(self._config, "force") else [result for result in told if not result.unfit]
        untimed = {result.key: result.disturbed for result in kept if result.disturbed}
        names = [
            f"{module}::{name}" for modules in stale.values() for module, tests in modules.items() for name in tests
        ]
        self._recorded = Recorded(
            tuple(changes), unfit, untimed, tuple(dict.fromkeys(names)), pruned=prune, done=recording
        )

    def _stale(self, store: Store, results: Sequence[Result], *, prune: bool) -> dict[str, dict[str, list[str]]]:
        """By hardware and module, the stored tests that are surely no more.

        Either their whole module was collected without them, or it was to be and there is no such file.
        """
        exists = _Existing(self._existing, results)
        chosen = [_module(argument) for argument in self._config.args if "::" in argument]
        partly = {module for module in exists.modules if any(argument.endswith(module) for argument in chosen)}
        whole = exists.modules - self._unsure - partly if self._complete else set()
        full = self._config.args_source is not pytest.Config.ArgsSource.ARGS
        found: dict[str, dict[str, list[str]]] = {}
        for folder in _folders(results):
            for module, names in store.names(folder, all_readable=prune).items():
                gone = full and not (self._config.rootpath / module).exists()
                stale = [name for name in names if gone or (module in whole and f"{module}::{name}" not in exists)]
                if stale:
                    found.setdefault(folder, {})[module] = stale
        return found


_NO_PARAMETERS = "[NOTSET]"
"""pytest's id of a test whose list of parameters is empty today."""


class _Existing:
    """Which keys belong to tests that were collected, or to labels that such a test may still measure."""

    def __init__(self, collected: Collection[str], results: Sequence[Result]) -> None:
        self._collected = set(collected)
        self._measured = {result.key for result in results}
        sure = {self._test(result.key) for result in results}
        self._complete = sure - {self._test(result.key) for result in results if result.unfit}
        self.modules = {_module(nodeid) for nodeid in collected}

    def __contains__(self, key: str) -> bool:
        test = self._test(key)
        if test is None:
            return f"{key.partition('[')[0]}{_NO_PARAMETERS}" in self._collected
        return key in self._measured or test not in self._complete

    def _test(self, key: str) -> str | None:
        """The node id in a key, which may end in a label."""
        return next((nodeid for nodeid in (key, key.rpartition("::")[0]) if nodeid in self._collected), None)


def _folders(results: Sequence[Result]) -> list[str]:
    """Where baselines of these results lie."""
    from pytest_llmperf.baselines.exact import exact_folder

    recordings = [result.recording for result in results if result.recording]
    named = [name for each in recordings for name in (each["hardware"], exact_folder(each["device_type"]))]
    return list(dict.fromkeys(named))


def _module(nodeid: str) -> str:
    return nodeid.partition("::")[0]
