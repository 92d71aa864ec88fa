"""What a sweep comes to."""

from __future__ import annotations

from pytest_llmperf.metrics import CATALOGUE
from pytest_llmperf.model import Measurement, Round, Trace, Unknown, Workload
from pytest_llmperf.reports.sweep import Step, finding, sweep_tables
from pytest_llmperf.results import Result, Row, Verdict


def _step(
    rate: float, answered: float, *notes: str, lasts: tuple[float, ...] = (0.2,), value: float | None = 5.0
) -> Step:
    """At a rate of which only so many requests are answered."""
    dues = [number / rate for number in range(40)]
    ends = [number / answered + lasts[number % len(lasts)] for number in range(40)]
    traces = tuple(Trace(due, (end,), 8) for due, end in zip(dues, ends, strict=True))
    workload = Workload(request_rate=rate)
    verdict = Verdict.OK if value is not None else Verdict.BROKEN
    note = "" if value is not None else "not measured: nobody knows"
    samples = dict.fromkeys(CATALOGUE, Unknown("not looked at"))
    row = Row("ttft_ms", "median", "ms", value, limit="< 50", verdict=verdict, note=note)
    result = Result("served", "served", workload, "cpu", 1, (row,), notes=notes)
    return Step(rate, Measurement("served", workload, (Round(traces),), samples=samples), result)


def test_a_rate_is_borne_only_if_as_many_requests_are_answered() -> None:
    steps = [_step(100, 95), _step(1000, 500)]
    assert [step.borne for step in steps] == [True, False]
    said = finding(steps, "request_rate")
    assert said.startswith("the most that keeps the limits: request_rate 100")
    assert said.endswith("; at 1,000: only 500/s were answered")


def test_answers_that_take_long_or_differ_do_not_fall_behind() -> None:
    assert _step(10, 10, lasts=(30.0,)).borne
    assert _step(10, 10, lasts=(0.1, 2.0, 0.5)).borne


def test_what_is_noted_at_one_load_is_said_of_it() -> None:
    steps = [_step(10, 10, "the server refuses x"), _step(20, 20, "the server refuses x", "3 requests late")]
    (table,) = sweep_tables(steps, "request_rate", "served")
    assert table.notes[:2] == ["the server refuses x", "request_rate 20: 3 requests late"]


def test_a_limit_that_could_not_be_held_says_why() -> None:
    assert "; not measured: nobody knows" in finding([_step(10, 10, value=None)], "request_rate")
