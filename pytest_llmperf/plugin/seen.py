"""What a run has measured, as its test reports told it (they also come from xdist's workers), and what is stored of it.

Only the process that has the terminal writes; workers send plain data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llmperf.errors import BaselineError
from pytest_llmperf.plugin.collected import Collected, module_of
from pytest_llmperf.plugin.config import baselines_folder, is_recording, option
from pytest_llmperf.plugin.reports import asked_for, write
from pytest_llmperf.units import now

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_llmperf.reports.recorded import Recorded
    from pytest_llmperf.reports.run import Run
    from pytest_llmperf.results import Result


class Seen:
    """Collects results; at the end records them, leaves reports behind, and prints the summary."""

    def __init__(self, config: pytest.Config, collected: Collected) -> None:
        self._config = config
        self._collected = collected
        self._grouped = config.getoption("dist", "no") == "loadgroup"
        self._began = now()
        self._results: dict[str, dict[str, Any]] = {}
        self._bases: dict[str, dict[str, Any]] = {}
        """By key, what verdicts rest on; where a report is to have it."""
        self._places: dict[str, str] = {}
        """Test → its file and line."""
        self._failures: dict[str, str] = {}
        """Test → why it failed."""
        self._recorded: Recorded | None = None
        self._fault = ""
        self._written: list[Path] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._failures[report.nodeid] = _why(report)
            self._places[report.nodeid] = f"{module_of(report.nodeid)}:1"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for result in getattr(report, "llmperf", ()):
            result["expected_to_fail"] = hasattr(report, "wasxfail")
            self._results[result["key"]] = result  # a rerun takes the place of what it repeats
        self._bases.update(getattr(report, "llmperf_bases", {}))
        file, line, _ = report.location
        test = _without_group(report.nodeid) if self._grouped else report.nodeid
        self._places[test] = f"{file}:{(line or 0) + 1}"
        if report.failed:
            self._failures[test] = _why(report)
        elif report.when == "call":  # a rerun
            self._failures.pop(test, None)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not hasattr(self._config, "workerinput") and not self._config.getoption("collectonly"):
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
        if files := asked_for(self._config):
            self._report(session, files)

    def _report(self, session: pytest.Session, files: Mapping[str, Path]) -> None:
        self._written, fault = write(files, self._run(session))
        if fault:
            self._fault = "; ".join(filter(None, [self._fault, fault]))
            session.exitstatus = max(session.exitstatus, pytest.ExitCode.TESTS_FAILED)

    def _run(self, session: pytest.Session) -> Run:
        """All of it, for those who were not there."""
        from pytest_llmperf import __version__
        from pytest_llmperf.baselines.basis import Basis
        from pytest_llmperf.baselines.environment import commit
        from pytest_llmperf.git import ask
        from pytest_llmperf.reports.run import Run

        config, results = self._config, self.results()
        below = ask(config.rootpath, "rev-parse", "--show-prefix")
        judged = {result.test for result in results if result.is_red}
        interrupted = "interrupted" if session.exitstatus == pytest.ExitCode.INTERRUPTED else ""
        code, dirty = commit(config.rootpath, baselines_folder(config))
        return Run(
            began=self._began,
            tool=__version__,
            commit=code,
            dirty=dirty,
            results=tuple(results),
            bases={key: Basis.from_plain(basis) for key, basis in self._bases.items()},
            places={test: f"{below}{place}" for test, place in self._places.items()},
            failures={test: why for test, why in self._failures.items() if test not in judged},
            recorded=self._recorded,
            fault="; ".join(filter(None, [self._fault, interrupted])),
        )

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
            text = summary(self.results(), writer.fullwidth, writer.hasmarkup, verbosity, self._recorded)
            reporter.write_line(text if verbosity >= 0 else f"llmperf: {text}")
        if self._written and config.get_verbosity() >= 0:
            reporter.write_line(f"llmperf: wrote {', '.join(map(str, self._written))}")
        if self._fault:
            reporter.write_line(f"llmperf: {self._fault}", red=True)

    def results(self) -> list[Result]:
        """All that was measured so far; of a test that ran again, the last."""
        from pytest_llmperf.results import Result

        return [Result.from_plain(record) for record in self._results.values()]

    def _settle(self, *, recording: bool) -> None:
        """Record what was measured, if that was asked for, and find what is stored in vain."""
        from pytest_llmperf.baselines.store import Store
        from pytest_llmperf.reports.recorded import Recorded

        store = Store(baselines_folder(self._config))
        results = [result for result in self.results() if result.recording]
        changes = []
        if recording:
            from pytest_llmperf.baselines.schema import Recording

            fit = [Recording(**result.recording) for result in results if result.recording and not result.unfit]
            changes = store.record(fit, append=option(self._config, "append"))
        prune = option(self._config, "prune")
        stale = self._collected.stale(store, results, prune=prune)
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


def _why(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The first line of what a failed test or module says, of a traceback that of its error."""
    crash = getattr(getattr(report.longrepr, "reprcrash", None), "message", "")
    lines = (crash or report.longreprtext).strip().splitlines()
    errors = [line[1:].strip() for line in lines if line.startswith("E   ")]
    return next(iter(errors or lines), "it failed and does not say why")


def _without_group(nodeid: str) -> str:
    """A node id without the `@group` that xdist appends to it: no end of a path and none of parameters."""
    test, _, group = nodeid.rpartition("@")
    return nodeid if not test or "::" in group or group.endswith("]") else test
