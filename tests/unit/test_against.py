"""One measurement in turns with base, or by itself with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.against import Against, as_base
from pytest_llmperf.baselines.entries import stored_workload
from pytest_llmperf.baselines.store import Store
from pytest_llmperf.duet.channel import FaultError
from pytest_llmperf.duet.partner import Absent, BaseError, Reached
from pytest_llmperf.duet.script import Pace
from pytest_llmperf.errors import OutOfMemoryTargetError
from pytest_llmperf.gate import Evidence, Gate
from pytest_llmperf.measure import Effort, measure
from pytest_llmperf.measure.rounds import Need
from pytest_llmperf.model import Environment, Measurement, Round, Workload
from pytest_llmperf.settings import Settings
from tests.fakes import FakeClock, FakeTarget
from tests.stored import KEY, session

WORKLOAD = Workload(8, 6)
PACE = Pace(0.01, 0.1, rests=True)
HERE = Environment(device="cpu", hardware="cpu-x", dtype="float32", threads=1)


class FakeBase:
    """Base with a target twice as fast as head's, which has its turns while head waits; both its ends in one.

    Args:
        fails: at what head tells it.
    """

    said = "abc (main)"

    ends: Exception = BaseError("it has ended")

    def __init__(
        self, clock: FakeClock, found: Any = None, fails: str = "", figures: Any = None, *, no_room: bool = False
    ) -> None:
        self.line = self
        self.told: list[str] = []
        self._clock = clock
        self._found = Reached(PACE, stored_workload(WORKLOAD)) if found is None else found
        self._fails = fails
        self._no_room = no_room
        self._figures = {"session": session().model_dump()} if figures is None else figures

    def reach(self, test: str, key: str) -> Any:
        self.told.append(f"reach {key}")
        return self._found

    def tell(self, say: str, **content: Any) -> None:
        self.told.append(say)
        if say == self._fails:
            raise BaseError("the base process ended by SIGKILL", no_room=self._no_room)
        if say == "go":
            self._clock.advance(1.0)

    def hear(self, *expected: str, patience: float | None = None) -> Any:
        return {"say": expected[0], "values": {"ttft_ms": 50.0, "tpot_ms": 5.0}}

    def measured(self) -> Any:
        self.told.append("end")
        return self._figures

    def pass_by(self) -> None:
        self.told.append("pass by")

    def leave(self) -> None:
        raise self.ends

    release = leave


class Course:
    """One measurement of a fake target against such a base."""

    def __init__(self, folder: Path, **base: Any) -> None:
        self.clock = FakeClock()
        self.target = FakeTarget(self.clock, ttft=0.1, gap=0.01)
        self.base = FakeBase(self.clock, **base)
        self.gate = Gate(Store(folder), recorded="2026-11-20T10:00:00+00:00")
        self.evidence = Evidence(KEY, Measurement("", WORKLOAD, ()), Settings(workload=WORKLOAD))

    def run(self, look: Callable[[Any], Need] = lambda rounds: Need.NOTHING) -> Measurement:
        rules = self.gate.rules(Settings(), HERE, "fake")
        return Against(self.base).measure(self.evidence, self.gate, rules, self.measured, look, self.by_itself)

    def measured(self, taken: Any) -> Measurement:
        effort = Effort(rounds=8, max_time=1.0)
        return measure(self.target, WORKLOAD, effort, taken=taken, environment=HERE, clock=self.clock)

    def by_itself(self, serving: Any) -> list[Round]:
        self.base.told.append("by itself")
        return [serving.serve()]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def test_a_pair_is_head_and_base_in_turns(tmp_path: Path) -> None:
    course = Course(tmp_path)
    measurement = course.run()
    (pair,) = course.evidence.pairs
    assert len(measurement.rounds) == pair.rounds == 8
    assert pair.head.metrics["tpot_ms"].median == pytest.approx(10.0)
    assert pair.differences["tpot_ms"].difference == pytest.approx(0.693, abs=1e-3)
    assert pair.differences["ttft_ms"].difference == pytest.approx(0.693, abs=1e-3)
    assert course.base.told.count("go") >= 8
    assert (course.evidence.against, course.evidence.absent) == ("abc (main)", "")


def test_what_base_lacks_is_measured_by_itself(tmp_path: Path) -> None:
    course = Course(tmp_path, found=Absent("it has no such test"))
    assert len(course.run().rounds) == 1
    assert course.base.told == [f"reach {KEY}", "by itself"]
    assert (course.evidence.absent, course.evidence.apart, course.evidence.pairs) == ("it has no such test", False, [])


def test_for_want_of_room_the_processes_are_to_run_apart(tmp_path: Path) -> None:
    course = Course(tmp_path, found=Absent("it needs 2 GiB", no_room=True))
    course.run()
    assert course.evidence.apart


def test_a_base_that_runs_out_of_memory_within_a_round_is_to_run_apart(tmp_path: Path) -> None:
    course = Course(tmp_path, fails="go", no_room=True)
    course.run()
    assert course.evidence.apart


def _failing_once(what: Callable[..., Any], error: Exception) -> Any:
    errors = [error]

    def failing(*arguments: Any) -> Any:
        if errors:
            raise errors.pop()
        return what(*arguments)

    return failing


def test_where_head_has_no_room_beside_base_it_is_measured_once_base_has_made_room(tmp_path: Path) -> None:
    course = Course(tmp_path)
    course.base.release = lambda: course.base.told.append("release")
    course.target.request = _failing_once(course.target.request, OutOfMemoryTargetError("gpt2 ran out of memory"))
    assert len(course.run().rounds) == 1
    assert course.base.told[-2:] == ["release", "by itself"]
    assert course.evidence.apart
    assert course.evidence.absent == "head has no room beside it: gpt2 ran out of memory"


def test_a_fault_of_base_is_not_raised_where_its_test_is_left(tmp_path: Path) -> None:
    course = Course(tmp_path)
    course.base.ends = FaultError("base would not run base's code")
    Against(course.base).leave()


def test_another_workload_is_passed_by(tmp_path: Path) -> None:
    course = Course(tmp_path, found=Reached(PACE, stored_workload(Workload(8, 7))))
    course.run()
    assert course.base.told == [f"reach {KEY}", "pass by", "by itself"]
    assert course.evidence.absent.startswith("it measures another workload (prompt_tokens=8, output_tokens=7")


@pytest.mark.parametrize("moment", ["round", "go", "report"])
def test_a_base_that_ends_in_between_leaves_head_by_itself(tmp_path: Path, moment: str) -> None:
    course = Course(tmp_path, fails=moment)
    assert len(course.run().rounds) == 1
    assert course.evidence.absent == "the base process ended by SIGKILL"
    assert course.evidence.pairs == []


@pytest.mark.parametrize("figures", [{}, {"session": {"recorded": 3}}])
def test_figures_that_make_no_sense_are_no_pair(tmp_path: Path, figures: Any) -> None:
    course = Course(tmp_path, figures=figures)
    course.run()
    assert course.evidence.absent.startswith("it says what nobody can read: ")


def test_a_base_that_has_ended_is_left_and_released_without_a_word(tmp_path: Path) -> None:
    against = Against(Course(tmp_path).base)
    against.leave()
    against.release()


def test_base_sends_the_figures_of_every_metric_that_could_gate(tmp_path: Path) -> None:
    course = Course(tmp_path)
    told: dict[str, Any] = {}

    class Line:
        def tell(self, say: str, **content: Any) -> None:
            told[say] = content

        def hear(self, *expected: str, patience: float | None = None) -> Any:
            return {"say": "end"}

    as_base(Line(), course.evidence, course.gate, course.measured)
    assert told["ready"]["key"] == KEY
    assert told["ready"]["workload"] == stored_workload(WORKLOAD)
    assert {"ttft_ms", "tpot_ms", "latency_ms", "weights_mib"} <= set(told["measured"]["session"]["metrics"])
    assert "load_s" not in told["measured"]["session"]["metrics"]
