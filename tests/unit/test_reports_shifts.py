"""A step in the course of a metric is found where it is, and noise is none."""

from __future__ import annotations

import random

import pytest

from pytest_llmperf.reports.history import Entry, History, Point
from pytest_llmperf.reports.shifts import series_of, shifts

KEY = "test_chat.py::test_turn"


def course(*values: float, metric: str = "tpot_ms") -> History:
    entries = [
        Entry(f"2026-{place:03}", "cpu-here", {KEY: Point({metric: value})}, commit=f"{place:040x}")
        for place, value in enumerate(values)
    ]
    return History(tuple(entries))


def found(*values: float, metric: str = "tpot_ms") -> list[tuple[int, float, float]]:
    (series,) = series_of(course(*values, metric=metric), KEY, "cpu-here")
    return [(shift.index, shift.before, shift.after) for shift in shifts(series)]


def test_a_step_is_found_where_it_is() -> None:
    chance = random.Random(0)
    values = [chance.gauss(8, 0.05) for _ in range(12)] + [chance.gauss(9, 0.05) for _ in range(10)]
    ((index, before, after),) = found(*values)
    assert index == 12
    assert (before, after) == (pytest.approx(8, abs=0.05), pytest.approx(9, abs=0.05))


def test_exact_metrics_step_without_noise() -> None:
    assert found(*[217] * 5, *[387] * 4, *[217] * 6, metric="ops_per_token") == [(5, 217, 387), (9, 387, 217)]


def test_noise_is_no_step() -> None:
    chance = random.Random(1)
    assert sum(bool(found(*(chance.gauss(8, 0.3) for _ in range(40)))) for _ in range(50)) <= 2


def test_one_bad_run_is_no_step() -> None:
    assert found(*[8.0, 8.1, 7.9, 8.05] * 3, 30.0, *[8.0, 8.1, 7.9, 8.05] * 3) == []


@pytest.mark.parametrize("place", [0, 1, -2, -1])
def test_one_bad_run_at_either_end_is_no_step(place: int) -> None:
    values = [8.0, 8.1, 7.9, 8.05] * 3
    values[place] = 12.0
    assert found(*values) == []


def test_few_runs_have_no_steps() -> None:
    assert found(8.0, 8.0, 16.0, 16.0, 16.0) == []
    assert found(8.0, 8.0, 8.0, 16.0, 16.0, 16.0) == [(3, 8.0, 16.0)]
    assert series_of(course(8.0), KEY, "cpu-here") == []


def test_what_is_worse_depends_on_the_metric() -> None:
    for metric, worse in (("tpot_ms", True), ("output_tokens_per_s", False)):
        (series,) = series_of(course(*[8.0] * 5, *[9.0] * 5, metric=metric), KEY, "cpu-here")
        (shift,) = shifts(series)
        assert shift.is_worse is worse
        assert shift.change == pytest.approx(0.125)
        (series,) = series_of(course(*[9.0] * 5, *[8.0] * 5, metric=metric), KEY, "cpu-here")
        assert [shift.is_worse for shift in shifts(series)] == [not worse]


def test_other_hardware_is_another_course() -> None:
    entries = [Entry(f"{n}", "cpu-here" if n % 2 else "cuda", {KEY: Point({"tpot_ms": float(n)})}) for n in range(6)]
    (series,) = series_of(History(tuple(entries)), KEY, "cuda")
    assert series.values == [0, 2, 4]


def test_metrics_that_are_no_more_are_left_out() -> None:
    assert series_of(course(1.0, 2.0, metric="words_per_minute"), KEY, "cpu-here") == []
