"""Runs of pytest within this process share its imports: torch cannot be imported twice."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.against import compared
from pytest_llmperf.settle import Settling
from tests.fakes import TINY
from tests.plugin.stored import Stored


@pytest.fixture(scope="session", autouse=True)
def imported() -> None:
    """Import, before any inner run takes its snapshot of `sys.modules`, all that a measurement imports."""
    import hypothesis.internal.observability  # noqa: F401  # its plugin imports it at the end of every run
    import transformers.models.llama.modeling_llama  # noqa: F401  # older versions look their modules up again

    from pytest_llmperf.measure import Effort, measure
    from pytest_llmperf.model import Workload
    from pytest_llmperf.plugin import running  # noqa: F401
    from pytest_llmperf.reports import terminal  # noqa: F401  # and through it rich
    from pytest_llmperf.targets import LoadOptions, pretrained, resolve  # noqa: F401

    measure(resolve(TINY).load(LoadOptions(device="cpu")), Workload(8, 4), Effort(rounds=1, max_time=0.1))
    gc.collect()
    gc.freeze()  # or every memory pass collects all that torch brought along


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder for a test module that measures quickly."""
    # With the first two pytest's short summary has every failure in full; the last is where reports go, too.
    for name in ("CI", "BUILD_NUMBER", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    pytester.makeini("[pytest]\nllmperf_max_time = 0.05\nllmperf_rounds = 3\naddopts = -p no:cacheprovider\n")
    return pytester


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command of that name, which serves words."""
    command = tmp_path / "bin" / "vllm"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.serving_words "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])))


@pytest.fixture
def stored(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Stored:
    """The same with baselines, and a terminal on which no line is folded."""
    monkeypatch.setenv("COLUMNS", "250")
    return Stored(suite)


Again = Callable[..., list[str]]


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> Again:
    """Fresh processes without a process: `again(times=…)` has them measure as the first did, timed metrics so many
    times as much; `again(fails=…)` has none. The list is of the tests they were asked for.
    """

    def behave(times: float = 1.0, fails: str = "") -> list[str]:
        asked: list[str] = []

        def measure_again(settling: Settling) -> None:
            asked.append(settling._test)
            for evidence in settling._evidences.values():
                evidence.unconfirmed = fails
                if not fails:
                    session = settling._gate.session(evidence.measurement, evidence.settings, compared)
                    evidence.again.append(_slowed(session, times))

        monkeypatch.setattr(Settling, "_measure_again", measure_again)
        return asked

    return behave


def _slowed(session: Any, times: float) -> Any:
    metrics = {
        name: reading.model_copy(update={"median": reading.median * (times if name.endswith("_ms") else 1)})
        for name, reading in session.metrics.items()
    }
    return session.model_copy(update={"metrics": metrics})
