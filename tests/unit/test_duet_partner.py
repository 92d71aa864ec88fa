"""Which test base runs and where in it it stands, whatever becomes of its process."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_llmperf.duet.channel import FaultError
from pytest_llmperf.duet.partner import MOST_STARTS, Absent, BaseError, Partner, Reached
from pytest_llmperf.duet.script import Pace
from pytest_llmperf.errors import MeasurementError
from tests.fakes import ScriptedProcess

PACE = {"gap": 0.001, "ttft": 0.01, "rests": True}
TESTS = ["test_a", "test_b", "test_c"]


def ready(key: str) -> dict[str, Any]:
    return {"say": "ready", "key": key, "pace": PACE, "workload": {"prompt_tokens": 8}}


def done(outcome: str = "passed", **more: Any) -> dict[str, Any]:
    return {"say": "done", "outcome": outcome, **more}


MEASURED = {"say": "measured", "session": {"n": 1}}


def partner(*processes: ScriptedProcess) -> Partner:
    starting = iter(processes)
    return Partner(lambda: next(starting), lambda started: started, lambda test: TESTS[TESTS.index(test) + 1 :])  # type: ignore[arg-type, return-value]


def test_a_test_is_run_up_to_the_measurement_that_is_asked_for() -> None:
    process = ScriptedProcess(ready("test_a::one"), MEASURED, ready("test_a::two"))
    assert partner(process).reach("test_a", "test_a::two") == Reached(Pace(**PACE), {"prompt_tokens": 8})
    assert process.told == [("test", "test_a", ["test_b", "test_c"]), ("alone",)]


def test_the_next_test_begins_when_the_last_has_come_to_its_end() -> None:
    process = ScriptedProcess(ready("test_a"), MEASURED, ready("test_a::more"), MEASURED, done(), ready("test_b"))
    base = partner(process)
    base.reach("test_a", "test_a")
    assert base.measured() == MEASURED
    assert isinstance(base.reach("test_b", "test_b"), Reached)
    assert [say for say, *_ in process.told] == ["test", "end", "alone", "test"]


@pytest.mark.parametrize(
    ("end", "absent"),
    [
        (done("missing"), Absent("it has no such test", missing=True)),
        (done("passed"), Absent("its test does not measure two")),
        (done("failed", why="no room", no_room=True), Absent("its test fails: no room", no_room=True)),
        (done("skipped", why=""), Absent("its test is skipped")),
    ],
)
def test_why_base_does_not_measure_something_is_told(end: dict[str, Any], absent: Absent) -> None:
    assert partner(ScriptedProcess(end)).reach("test_a", "test_a::two") == absent


def test_a_test_that_ends_in_the_middle_of_a_round_is_told_with_its_reason_and_the_process_goes_on() -> None:
    process = ScriptedProcess(ready("test_a"), done("failed", why="no tokens left"), ready("test_b"))
    base = partner(process)
    base.reach("test_a", "test_a")
    with pytest.raises(BaseError, match=r"^its test fails: no tokens left$"):
        base.hear("go", patience=1.0)
    assert base.reach("test_a", "test_a::more") == Absent("its test fails: no tokens left")
    assert isinstance(base.reach("test_b", "test_b"), Reached)
    assert [say for say, *_ in process.told] == ["test", "test"]
    assert not process.closed


def test_a_test_that_fails_while_it_is_measured_has_measured_nothing() -> None:
    base = partner(ScriptedProcess(ready("test_a"), done("failed", why="boom")))
    base.reach("test_a", "test_a")
    with pytest.raises(BaseError, match=r"^its test fails: boom$"):
        base.measured()


def test_a_process_that_ends_is_started_again_for_the_next_test_but_not_for_ever() -> None:
    processes = [ScriptedProcess(MeasurementError("the base process ended")) for _ in range(MOST_STARTS)]
    base = partner(*processes)
    for _ in processes:
        with pytest.raises(BaseError, match=r"^the base process ended$"):
            base.reach("test_a", "test_a")
    assert all(process.closed for process in processes)
    with pytest.raises(BaseError, match="has ended 3 times, and is not started again"):
        base.reach("test_a", "test_a")


def test_a_fault_that_no_other_attempt_would_mend_is_no_error_of_one_test() -> None:
    process, again = (
        ScriptedProcess(FaultError("base would not run base's code"), done()),
        ScriptedProcess(ready("test_b")),
    )
    base = partner(process, again)
    with pytest.raises(FaultError):
        base.reach("test_a", "test_a")
    assert process.closed, "what it says next would be taken for an answer about the next test"
    assert isinstance(base.reach("test_b", "test_b"), Reached)


def test_targets_are_let_go_of_at_the_end_of_a_test_and_by_a_process_that_runs() -> None:
    partner().release()
    process = ScriptedProcess(ready("test_a"), MEASURED, done(), {"say": "released"})
    base = partner(process)
    base.reach("test_a", "test_a")
    base.release()
    assert [say for say, *_ in process.told] == ["test", "alone", "release"]
    base.close()
    assert process.closed
