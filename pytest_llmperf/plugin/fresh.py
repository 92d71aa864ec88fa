"""The same test once more, in a process of its own: a tight interval within one process is no proof.

The fresh process is pytest, called as this one was, and then told to run the one test and to leave no other trace.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.baselines.schema import Recording, Session
from pytest_llmperf.errors import MeasurementError

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
    "maxfail": 0,
    "usepdb": False,
    "trace": False,
    "numprocesses": None,
    "dist": "no",
    "tx": [],
    "looponfail": False,
    "cacheclear": False,
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
"""Options that choose among tests, spread them, or write files, as they are when nobody names them."""
_LINES_SHOWN = 5


def measured_again(config: pytest.Config, nodeid: str) -> dict[str, Session]:
    """What a fresh process measures in that test, by key.

    Raises:
        MeasurementError: it ended without a measurement; its last lines say why.
    """
    with tempfile.TemporaryDirectory(prefix="llmperf-") as folder:
        request = Path(folder, "request.json")
        answer = Path(folder, "answer.json")
        request.write_text(
            json.dumps(
                {
                    "arguments": [str(argument) for argument in config.invocation_params.args],
                    "test": str(config.rootpath / nodeid),
                    "path": sys.path,
                    "answer": str(answer),
                    "basetemp": str(Path(folder, "basetemp")),
                }
            )
        )
        command = [sys.executable, "-c", f"from {__name__} import main; raise SystemExit(main())", str(request)]
        output = _run(command, config.invocation_params.dir)
        recordings = json.loads(answer.read_text()) if answer.exists() else []
    if not recordings:
        told = " / ".join([line for line in output.splitlines() if line.strip()][-_LINES_SHOWN:])
        raise MeasurementError(f"a fresh process could not measure {nodeid}: {told or 'it said nothing'}")
    return {each.key: each.sessions[0] for each in (Recording(**recording) for recording in recordings)}


def _run(command: list[str], folder: Path) -> str:
    """The output of a command, which does not outlive this process's interest in it."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        return process.communicate()[0]
    except BaseException:
        process.kill()
        process.wait()
        raise


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
            Path(self._request["answer"]).write_text(json.dumps(list(self._recordings.values())))


def main() -> int:
    """Run as a fresh process; the command line names the request."""
    request = json.loads(Path(sys.argv[1]).read_text())
    sys.path[:] = request["path"]
    return int(pytest.main(request["arguments"], plugins=[Fresh(request)]))
