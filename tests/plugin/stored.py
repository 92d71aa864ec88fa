"""A folder with a baseline whose figures the test chooses, and tests whose pace they know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import TINY

HEAD = f"""\
import os
import pytest
from conftest import clock
from pytest_llmperf import *

TINY = {TINY!r}
NEVER = ttft_ms < 1e-9


def paced(prompt_ids, output_tokens):
    for token in range(output_tokens):
        clock.now += 0.001 * float(os.environ.get("PACE", "1"))
        yield token


PACED = stream(paced)
SIZES = dict(prompt_tokens=8, output_tokens=4)

"""
TURN = """
@llm_perf(model=PACED, **SIZES)
def test_turn(llm):
    llm.measure()
"""
MODEL = """
@llm_perf(model=TINY, **SIZES)
def test_model(llm):
    llm.measure()
"""
CONFTEST = """
import functools
import os
import pytest
from pytest_llmperf import session

class Clock:
    now = 1000.0
    def __call__(self):
        self.now += 1e-6  # for targets that do not set it themselves
        return self.now

clock = Clock()

@pytest.fixture(autouse=True)
def conditions(monkeypatch):
    told = os.environ.get("DISTURBED", "")
    monkeypatch.setattr("pytest_llmperf.model.Conditions.disturbance", lambda self, threads: told)
    monkeypatch.setattr("pytest_llmperf.measure.under_ceilings", lambda seen, target, clock: seen)  # no probe by it
    if not isinstance(session.measure, functools.partial):
        monkeypatch.setattr(session, "measure", functools.partial(session.measure, clock=clock))
"""
"""Figures and conditions are what the environment says: PACE milliseconds per token, DISTURBED by what."""


class Stored:
    """A suite and its baselines."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.folder = pytester.path / "baselines"
        pytester.makeconftest(CONFTEST)

    def write(self, text: str, name: str = "test_chat") -> None:
        self.pytester.makepyfile(**{name: HEAD + text})

    def run(self, *arguments: str) -> pytest.RunResult:
        return self.pytester.runpytest(*arguments)

    def alone(self, *arguments: str) -> pytest.RunResult:
        """A run in a process of its own, without plugins that take as long to import as all else."""
        without = ("-p", "no:hypothesispytest", "-p", "no:benchmark")
        return self.pytester.runpytest_subprocess(*without, *arguments, timeout=120)

    def record(self, text: str, *arguments: str, name: str = "test_chat") -> pytest.RunResult:
        self.write(text, name)
        result = self.run("--llmperf-update", *arguments)
        assert result.ret == 0
        return result

    def files(self) -> dict[str, str]:
        found = sorted(self.folder.rglob("*.json"))
        return {path.relative_to(self.folder).as_posix(): path.read_text() for path in found}

    def names(self) -> set[str]:
        """The tests that have a baseline."""
        return {name for text in self.files().values() for name in json.loads(text)["tests"]}

    def sessions(self, test: str = "test_turn") -> list[dict[str, Any]]:
        [path] = list(self.folder.glob("cpu-*/test_chat.json"))
        sessions: list[dict[str, Any]] = json.loads(path.read_text())["tests"][test]["sessions"]
        return sessions

    def change(self, **factors: float | None) -> None:
        """Multiply a metric in all that is stored; None forgets it."""
        for path in self._paths():
            content = json.loads(path.read_text())
            for entry in content["tests"].values():
                for session in entry["sessions"]:
                    session["metrics"] = dict(_changed(session["metrics"], factors))
            path.write_text(json.dumps(content))

    def say(self, **values: Any) -> None:
        """Set a field in every stored session."""
        for path in self._paths():
            content = json.loads(path.read_text())
            for entry in content["tests"].values():
                for session in entry["sessions"]:
                    session.update(values)
            path.write_text(json.dumps(content))

    def _paths(self) -> list[Path]:
        return sorted(self.folder.rglob("*.json"))


def _changed(metrics: dict[str, Any], factors: dict[str, float | None]) -> Any:
    for name, reading in metrics.items():
        factor = factors.get(name, 1.0)
        if factor is not None:
            samples = [value * factor for value in reading.get("samples", [])]
            yield name, {"median": reading["median"] * factor, **({"samples": samples} if samples else {})}
