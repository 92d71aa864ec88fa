"""Variants of one test, side by side."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pytest_llmperf.model import Workload
from pytest_llmperf.reports.terminal import summary
from pytest_llmperf.reports.variants import side_by_side
from pytest_llmperf.results import Result, Row

FIGURES = {"ttft_ms": 20.0, "tpot_ms": 4.0, "tokens_per_step": 1.0}


def result(test: str, variant: str, label: str = "", number: int = 0, **figures: float | None) -> Result:
    rows = [Row(metric, "median", "", value) for metric, value in {**FIGURES, **figures}.items()]
    rows.append(Row("tpot_ms", "p90", "", 99.0))
    key = f"{test}::{label}" if label else test
    return Result(key, "gpt2", Workload(), "cpu", 3, tuple(rows), label, variant=variant, variant_number=number)


def shown(*results: Result) -> list[tuple[str, list[str], list[list[str]]]]:
    return [
        (table.title, [column.name for column in table.columns], [[cell.text for cell in row] for row in table.rows])
        for table in side_by_side(results)
    ]


def test_figures_stand_in_proportion_to_the_first_variants() -> None:
    found = shown(
        result("test_a.py::test_one[full]", "full"),
        result("test_a.py::test_one[half]", "half", ttft_ms=10.0, tpot_ms=6.0),
    )
    columns = ["variant", "ttft_ms", "tpot_ms"]
    assert found == [("test_a.py::test_one", columns, [["full", "20", "4"], ["half", "10 ×0.50", "6 ×1.50"]])]


def test_as_much_as_the_first_goes_without_saying_and_what_is_unknown_has_no_proportion() -> None:
    (_, _, rows) = shown(
        result("test_a.py::test_one[a]", "a", tpot_ms=None),
        result("test_a.py::test_one[b]", "b", ttft_ms=20.01),
        result("test_a.py::test_one[c]", "c", ttft_ms=None),
    )[0]
    assert rows == [["a", "20", "–"], ["b", "20.0", "4"], ["c", "–", "4"]]


def test_tokens_per_step_are_shown_where_several_come_at_once() -> None:
    (_, columns, rows) = shown(
        result("test_a.py::test_one[plain]", "plain"),
        result("test_a.py::test_one[lookup]", "lookup", tokens_per_step=2.5),
    )[0]
    assert columns == ["variant", "tokens/step", "ttft_ms", "tpot_ms"], "what tells them apart comes first"
    assert [row[1] for row in rows] == ["1", "2.50 ×2.50"]


def test_where_intervals_overlap_there_is_no_proportion() -> None:
    def measured(variant: str, low: float, value: float, high: float) -> Result:
        row = Row("ttft_ms", "median", "ms", value, low, high)
        return Result(f"test_a.py::test_one[{variant}]", "gpt2", Workload(), "cpu", 3, (row,), variant=variant)

    (_, _, rows) = shown(measured("a", 9, 10, 12), measured("b", 11, 13, 14), measured("c", 12.1, 13, 14))[0]
    assert [row[1] for row in rows] == ["10", "13", "13 ×1.30"]


def test_what_a_narrow_terminal_has_no_room_for_is_named() -> None:
    others = dict.fromkeys(("output_tokens_per_s", "peak_memory_mib", "flops_per_token", "ops_per_token"), 12345.0)
    changed = {"flops_per_token": 23_456.0, "ops_per_token": 23_456.0}
    key = "test_a.py::test_one"
    results = [
        result(f"{key}[full]", "full", **others),
        result(f"{key}[half]", "half", number=1, **{**others, **changed}),
    ]
    text = summary(results, 60, False, 0)
    table = text[text.index("variants, in proportion to full") :]
    assert re.search(r"^  variant +FLOP/token +ops/token +ttft_ms +tpot_ms$", table, re.M), table
    assert re.search(r"^  -v or a wider terminal shows tokens/s, peak MiB$", table, re.M), table


@pytest.mark.parametrize(
    ("ids", "titles"),
    [
        (["half-128", "full-128", "half-512", "full-512"], ["test_one[128]", "test_one[512]"]),
        (["128-half", "128-full"], ["test_one[128]"]),
        (["half--1", "full--1"], ["test_one[-1]"]),
        (["half-half", "half-full"], ["test_one[half]"]),
    ],
)
def test_tests_of_other_parameters_have_tables_of_their_own(ids: list[str], titles: list[str]) -> None:
    results = [result(f"test_a.py::test_one[{each}]", "full" if "full" in each else "half") for each in ids]
    assert [title for title, _, _ in shown(*results)] == [f"test_a.py::{title}" for title in titles]


def test_measurements_with_a_label_are_compared_with_those_of_the_same_label() -> None:
    tests: list[Any] = [("full", "b1"), ("full", "b8"), ("half", "b1"), ("half", "b8")]
    found = shown(*(result(f"test_a.py::test_one[{variant}]", variant, label) for variant, label in tests))
    assert [(title, len(rows)) for title, _, rows in found] == [
        ("test_a.py::test_one::b1", 2),
        ("test_a.py::test_one::b8", 2),
    ]


def test_variants_stand_as_they_were_given_whoever_came_first() -> None:
    given = [("full", 0), ("half", 1), ("quarter", 2)]
    arrived = [result(f"test_a.py::test_one[{name}]", name, number=number) for name, number in (*given[1:], given[0])]
    assert [row[0] for row in shown(*arrived)[0][2]] == ["full", "half", "quarter"]


def test_a_single_variant_and_tests_without_any_have_no_table() -> None:
    assert shown(result("test_a.py::test_one[full]", "full"), result("test_a.py::test_two[half]", "half")) == []
    assert shown(result("test_a.py::test_one[full]", ""), result("test_a.py::test_one[half]", "")) == []
