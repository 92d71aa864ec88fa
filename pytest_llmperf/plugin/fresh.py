"""The same test once more, in a process of its own: a tight interval within one process is no proof.

The fresh process is pytest, called as this one was, and then told to run the one test and to leave no other trace.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.baselines.schema import Recording, Session
from pytest_llmperf.errors import MeasurementError
from pytest_llmperf.plugin.xdist import call_of

FRESH = pytest.StashKey[bool]()
"""Set in a fresh process."""

_SILENT: dict[str, Any] = {
    "keyword": "",
    "markexpr": "",
    "deselect": None,
    "lf": False,
    "failedfirst": False,
    "newfirst": False,
    "stepwise": False,
    "stepwise_skip": False,
    "stepwise_reset": False,
    "maxfail": 0,
    "usepdb": False,
    "trace": False,
    "numprocesses": None,
    "dist": "no",
    "tx": [],
    "looponfail": False,
    "cacheclear": False,
    "log_file": os.devnull,
    "reportchars": "fEs",
    "no_summary": False,
    "xmlpath": None,
    "htmlpath": None,
    "report_log": None,
    "pastebin": None,
    "json_report": False,
    "benchmark_json": None,
    "benchmark_save": None,
    "benchmark_autosave": None,
    "benchmark_compare": None,
    "benchmark_histogram": None,
    "llmperf_update": None,
    "llmperf_append": None,
    "llmperf_prune": None,
    "llmperf_sessions": None,
    "llmperf_force": None,
}
"""Options that choose among tests, spread them, write files, or hide why a test failed, so that they do not."""
_PATIENCE_S = 600.0
"""A fresh process may take this long beside twice the time that this one has taken to load and measure."""
_START = "import sys; sys.path[:] = {path!r}; from {module} import main; raise SystemExit(main())"
"""The path is set before anything is looked up: in the folder of a call may lie a user's own `queue.py`."""


def measured_again(config: pytest.Config, nodeid: str, taken: float) -> dict[str, Session]:
    """What a fresh process measures in that test, by key.

    Args:
        taken: seconds that this process has needed so far.

    Raises:
        MeasurementError: it ended without a measurement, or does not end; the last it said is why.
    """
    arguments, called_in = call_of(config)
    with tempfile.TemporaryDirectory(prefix="llmperf-", ignore_cleanup_errors=True) as folder:
        request = Path(folder, "request.json")
        answer = Path(folder, "answer.json")
        if config.pluginmanager.hasplugin("cacheprovider"):
            arguments = ["-o", f"cache_dir={Path(folder, 'cache')}", *arguments]
        request.write_text(
            json.dumps(
                {
                    "arguments": arguments,
                    "test": str(config.rootpath / nodeid),
                    "answer": str(answer),
                    "basetemp": str(Path(folder, "basetemp")),
                }
            ),
            encoding="utf-8",
        )
        command = [sys.executable, "-c", _START.format(path=sys.path, module=__name__), str(request)]
        output = _run(command, called_in, Path(folder, "output"), _PATIENCE_S + 2 * taken)
        recordings = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else []
    if not recordings:
        raise MeasurementError(f"the fresh process measured nothing: {_reason(output)}")
    return {each.key: each.sessions[0] for each in (Recording(**recording) for recording in recordings)}


def _run(command: list[str], folder: str, told: Path, patience: float) -> str:
    """The output of a command, which does not outlive this process's interest in it.

    A file, and no pipe: whatever the command leaves running would hold a pipe open.
    """
    with told.open("wb") as output:
        try:
            status = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, timeout=patience
            ).returncode
        except subprocess.TimeoutExpired:
            raise MeasurementError(f"the fresh process did not end within {patience:.0f} s") from None
    said = told.read_text(encoding="utf-8", errors="replace")
    return said if status in tuple(pytest.ExitCode) else f"{said}\nit ended with status {status}"


def _reason(output: str) -> str:
    """The line of pytest's output that says most: of its short summary, else an error of its own, else the last."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for begins in (("FAILED ", "ERROR ", "SKIPPED "), ("ERROR: ",)):
        if telling := [line for line in lines if line.startswith(begins)]:
            return telling[-1]
    return lines[-1] if lines else "it said nothing"


class Fresh:
    """The plugin that makes a pytest run a fresh process's."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request
        self._recordings: dict[str, dict[str, Any]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> None:
        config.stash[FRESH] = True
        config.args[:] = [self._request["test"]]
        for name, value in {**_SILENT, "basetemp": self._request["basetemp"]}.items():
            if hasattr(config.option, name):
                setattr(config.option, name, value)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for result in getattr(report, "llmperf", ()):
            self._recordings[result["key"]] = result["recording"]

    def pytest_sessionfinish(self) -> None:
        if self._recordings:
            Path(self._request["answer"]).write_text(json.dumps(list(self._recordings.values())), encoding="utf-8")


def main() -> int:
    """Run as a fresh process; the command line names the request."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return int(pytest.main(request["arguments"], plugins=[Fresh(request)]))
