"""The same test once more, in a process of its own: a tight interval within one process is no proof.

The fresh process is pytest, called as this one was, and then told to run the one test and to leave no other trace.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.duet.channel import python
from pytest_llmperf.errors import MeasurementError
from pytest_llmperf.plugin.child import Child, as_argument, own_cache, run_as
from pytest_llmperf.plugin.xdist import call_of

PATIENCE_S = 600.0
"""A fresh process may take this long beside twice the time that this one has taken to load and measure."""
Results = list[dict[str, Any]]
"""What reports told of each measurement, in plain data."""


def measured_again(
    config: pytest.Config, nodeid: str, patience: float, main_of: str = __name__, **more: Any
) -> Results:
    """What a fresh process measures in that test.

    Args:
        main_of: the module whose `main()` it runs.
        more: what that one wants to know.

    Raises:
        MeasurementError: it ended without a measurement, or does not end; the last it said is why.
    """
    arguments, called_in = call_of(config)
    with tempfile.TemporaryDirectory(prefix="llmperf-", ignore_cleanup_errors=True) as folder:
        arguments = [*own_cache(config, Path(folder)), *arguments]
        request = {"arguments": arguments, "tests": [as_argument(config.rootpath, nodeid)], **more}
        return results_of(request, called_in, Path(folder), python(main_of), patience)


def results_of(
    request: Mapping[str, Any],
    called_in: str | Path,
    folder: Path,
    command: Sequence[str],
    patience: float,
    environ: Mapping[str, str] | None = None,
) -> Results:
    """What a process finds that runs `main()` of this module with a request, its files in a folder of its own.

    Raises:
        MeasurementError: it ended without a measurement, or does not end; the last it said is why.
    """
    answer = folder / "answer.json"
    file = folder / "request.json"
    content = {**request, "answer": str(answer), "basetemp": str(folder / "basetemp")}
    file.write_text(json.dumps(content), encoding="utf-8")
    output = _run([*command, str(file)], called_in, folder / "output", patience, environ)
    results: Results = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else []
    if not results:
        raise MeasurementError(f"the fresh process measured nothing: {reason(output)}")
    return results


def _run(
    command: list[str], folder: str | Path, told: Path, patience: float, environ: Mapping[str, str] | None = None
) -> str:
    """The output of a command, which does not outlive this process's interest in it.

    A file, and no pipe: whatever the command leaves running would hold a pipe open.
    """
    with told.open("wb") as output:
        try:
            status = subprocess.run(
                command,
                cwd=folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=patience,
            ).returncode
        except subprocess.TimeoutExpired:
            raise MeasurementError(f"the fresh process did not end within {patience:.0f} s") from None
    said = told.read_text(encoding="utf-8", errors="replace")
    return said if status in tuple(pytest.ExitCode) else f"{said}\nit ended with status {status}"


def reason(output: str) -> str:
    """The line of pytest's output that says most: of its short summary, else an error of its own, else the last."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for begins in (("FAILED ", "ERROR ", "SKIPPED "), ("ERROR: ", "E   ")):
        if telling := [line for line in lines if line.startswith(begins) and not line.startswith("ERROR: usage: ")]:
            return telling[-1]
    if misuse := [line for line in lines if ": error: " in line]:  # argparse's, after the usage
        return misuse[-1]
    return lines[-1] if lines else "it said nothing"


class Fresh(Child):
    """The plugin that makes a pytest run a fresh process's."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        super().__init__(request)
        self._results: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for result in getattr(report, "llmperf", ()):
            self._results[result["key"]] = result

    def pytest_sessionfinish(self) -> None:
        if self._results:
            Path(self.request["answer"]).write_text(json.dumps(list(self._results.values())), encoding="utf-8")


def main() -> int:
    """Run as a fresh process."""
    return run_as(Fresh)
