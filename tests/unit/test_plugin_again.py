"""How long fresh processes may take."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_llmperf.plugin import fresh
from pytest_llmperf.plugin.again import FreshProcesses
from tests.fakes import FakeClock


def test_a_fresh_process_has_the_time_of_the_longest_test_and_not_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr(fresh, "measured_again", lambda config, test, patience: given.append(patience) or [])
    clock = FakeClock()
    nobody: Any = None
    processes = FreshProcesses(nobody, None, lambda stage: None, clock)
    clock.advance(5.0)  # collecting
    for seconds in (100.0, 7.0, 7.0, 7.0):
        processes.begin()
        clock.advance(seconds)
    processes.again("test_chat.py::test_turn")
    clock.advance(300.0)
    processes.again("test_chat.py::test_turn")
    assert given == [fresh.PATIENCE_S + 2 * 100.0, fresh.PATIENCE_S + 2 * 307.0]
