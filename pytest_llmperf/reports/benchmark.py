"""Timed metrics in the terms of pytest-benchmark, which knows durations in seconds and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_llmperf.metrics import CATALOGUE, Kind, Metric
from pytest_llmperf.model import plain
from pytest_llmperf.results import Result, Row


@dataclass(frozen=True)
class Entry:
    """One timed metric of one measurement; has what pytest-benchmark asks its own fixture for.

    Args:
        name: `test_turn.ttft_ms[8-4]`: what comes before the bracket groups a test's parameters.
        group: the metric, so that only like is compared with like.
        param: the id of the test's parameters.
    """

    name: str
    fullname: str
    group: str
    param: str | None
    params: Mapping[str, Any]
    extra_info: Mapping[str, Any]
    seconds: tuple[float, ...]
    cprofile_stats: None = None
    has_error: bool = False


class _Parameters(dict[str, Any]):
    """Grouping by a parameter that only other tests have must not end the run."""

    def __missing__(self, name: str) -> None:
        return None


def entries(results: Sequence[Result]) -> list[Entry]:
    """One for each timed metric that is a duration, with all its samples."""
    return [
        _entry(result, row)
        for result in results
        for row in result.medians.values()
        if is_duration(CATALOGUE[row.metric]) and row.values and all(map(math.isfinite, row.values))
    ]


def is_duration(metric: Metric) -> bool:
    """Whether pytest-benchmark has it: rates are no durations, and say no more than the times they come from."""
    return metric.kind is Kind.TIMED and metric.unit == "ms"


def full_name(result: Result, metric: str) -> str:
    """`tests/test_chat.py::test_turn.ttft_ms[8-4]`, with a label `…::test_turn::long.ttft_ms[8-4]`."""
    function, parameters = _parts(result)
    label = f"::{result.label}" if result.label else ""
    return f"{function}{label}.{metric}{parameters}"


def _parts(result: Result) -> tuple[str, str]:
    """The test's function and its parameters, `[8-4]`."""
    module, separator, name = result.test.partition("::")
    function, bracket, parameters = name.partition("[")
    return f"{module}{separator}{function}", f"{bracket}{parameters}"


def _entry(result: Result, row: Row) -> Entry:
    function, parameters = _parts(result)
    workload = {name: value for name, value in plain(result.workload).items() if value is not None}
    fullname = full_name(result, row.metric)
    return Entry(
        name=fullname.removeprefix(function.rpartition("::")[0]).removeprefix("::"),
        fullname=fullname,
        group=row.metric,
        param=parameters[1:-1] or None,
        params=_Parameters(result.parameters),
        extra_info={
            "metric": row.metric,
            "unit": "s",
            "target": result.target,
            "device": result.device,
            "workload": workload,
            "verdict": row.verdict.value if row.verdict else None,
        },
        seconds=tuple(value / 1000 for value in row.values),
    )
