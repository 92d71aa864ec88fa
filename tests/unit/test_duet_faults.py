"""What becomes of the conversation with base when base fails, ends, or would run other code."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_llmperf.duet.channel import FaultError
from pytest_llmperf.duet.partner import MOST_STARTS, Absent, BaseError, Partner, Reached
from pytest_llmperf.errors import MeasurementError
from tests.fakes import ScriptedProcess

TEST = "tests/test_chat.py::test_turn"
NEXT = "tests/test_chat.py::test_next"


def ready(key: str = TEST) -> dict[str, Any]:
    return {"say": "ready", "key": key, "pace": {"gap": 0.01, "ttft": 0.1, "rests": True}, "workload": {}}


def done(outcome: str = "passed", **said: Any) -> dict[str, Any]:
    return {"say": "done", "outcome": outcome, **said}


class Course:
    """A partner whose processes are these, one after the other."""

    def __init__(self, *processes: ScriptedProcess) -> None:
        left = iter(processes)
        launch: Any = lambda: next(left)  # noqa: E731  # the least that starts one
        self.partner = Partner(launch, lambda process: process, lambda test: [])


def test_base_stands_where_head_measures_and_passes_by_what_head_does_not() -> None:
    process = ScriptedProcess(ready(f"{TEST}::a"), {"say": "measured"}, ready(f"{TEST}::b"))
    assert isinstance(Course(process).partner.reach(TEST, f"{TEST}::b"), Reached)
    assert process.said == ["test", "alone"]


def test_a_base_that_fails_within_a_round_says_why_and_runs_the_next_test() -> None:
    process = ScriptedProcess(ready(), done("failed", why="IndexError: 7", no_room=True), ready(NEXT))
    partner = Course(process).partner
    partner.reach(TEST, TEST)
    with pytest.raises(BaseError, match=r"^its test fails: IndexError: 7$") as raised:
        partner.hear("go", patience=1)
    assert raised.value.no_room
    partner.leave()
    assert isinstance(partner.reach(NEXT, NEXT), Reached)
    assert not process.closed
    assert process.said == ["test", "test"]


def test_a_base_that_fails_after_its_rounds_says_why() -> None:
    partner = Course(ScriptedProcess(ready(), done("failed", why="out of memory", no_room=True))).partner
    partner.reach(TEST, TEST)
    with pytest.raises(BaseError, match=r"^its test fails: out of memory$") as raised:
        partner.measured()
    assert raised.value.no_room


def test_code_that_is_not_bases_fails_its_test_and_the_next_has_another_process() -> None:
    process, again = (
        ScriptedProcess(FaultError("base would not run base's code: chat"), done("failed")),
        ScriptedProcess(ready(NEXT)),
    )
    partner = Course(process, again).partner
    with pytest.raises(FaultError, match="chat"):
        partner.reach(TEST, TEST)
    assert process.closed
    assert isinstance(partner.reach(NEXT, NEXT), Reached)


def test_a_base_that_ends_is_started_again_but_not_for_ever() -> None:
    processes = [ScriptedProcess(MeasurementError("it ended by SIGKILL")) for _ in range(MOST_STARTS)]
    partner = Course(*processes).partner
    for _ in processes:
        with pytest.raises(BaseError, match="SIGKILL"):
            partner.reach(TEST, TEST)
    with pytest.raises(BaseError, match=f"^it has ended {MOST_STARTS} times"):
        partner.reach(TEST, TEST)


def test_a_test_that_ends_without_the_measurement_says_how() -> None:
    said = [done(), done("skipped", why="no GPU"), done("missing"), done("missing", why="ImportError: x")]
    reasons = []
    for each in said:
        found = Course(ScriptedProcess(each)).partner.reach(TEST, f"{TEST}::a")
        assert isinstance(found, Absent)
        reasons.append((found.reason, found.missing))
    assert reasons == [
        ("its test does not measure a", False),
        ("its test is skipped: no GPU", False),
        ("it has no such test", True),
        ("it cannot collect the test: ImportError: x", True),
    ]
