"""Results as tables of text, before any terminal knows of them."""

from __future__ import annotations

import dataclasses

import pytest

from pytest_llmperf.model import Workload
from pytest_llmperf.reports.table import (
    SMALLER,
    Cell,
    Table,
    counts,
    details,
    failure,
    hints,
    overview,
    row_name,
    shape,
    subtitle,
    verdict_cell,
)
from pytest_llmperf.results import Comparison, Result, Row, Verdict

OK = Row("ttft_ms", "median", "ms", 12.14, 12.0, 12.3, "< 50", Verdict.OK, "", (12.0, 12.14, 12.3))
BROKEN = Row(
    "tpot_ms", "median", "ms", 8.931, 8.9, 9.0, "< 8", Verdict.BROKEN, "close: within noise", (8.9, 8.931, 9.0)
)
DOUBTFUL = Row("itl_ms", "p99", "ms", 9.93, None, None, "< 20", Verdict.INCONCLUSIVE, "3 samples", (8.9, 8.93, 9.93))
RATE = Row("output_tokens_per_s", "median", "tokens/s", 1234.6, values=(1234.6,))
PEAK = Row("peak_memory_mib", "median", "MiB", 4000.0, values=(4000.0,))
UNSEEN = Row("load_s", "median", "s", None, limit="< 5", verdict=Verdict.BROKEN, note="not measured: from the cache")


def _result(
    *rows: Row, key: str = "tests/test_chat.py::test_turn", workload: Workload | None = None, **fields
) -> Result:
    given = {"target": "gpt2", "device": "cuda NVIDIA H200", "rounds": 12, **fields}
    return Result(key=key, workload=workload or Workload(512, 128), rows=rows, **given)


def _texts(table: Table) -> list[dict[str, str]]:
    names = [column.name for column in table.columns]
    return [dict(zip(names, (cell.text for cell in row), strict=True)) for row in table.rows]


# Overview


def test_an_overview_has_a_row_per_measurement_with_the_figures_people_ask_for() -> None:
    (table,) = overview([_result(OK, BROKEN, RATE, PEAK)])
    assert table.title == "tests/test_chat.py"
    (row,) = _texts(table)
    assert row["test"] == "test_turn"
    assert row["tokens"] == "512→128"
    assert row["ttft_ms"] == "12.1"
    assert row["tpot_ms"] == "8.93"
    assert row["tokens/s"] == "1,235"
    assert row["peak MiB"] == "4,000"
    assert row["verdict"] == "BROKEN"


def test_an_overview_has_a_table_per_module_in_the_order_of_the_run() -> None:
    keys = ["b.py::test_1", "a.py::test_2", "b.py::test_3[x]", "b.py::TestC::test_4::label"]
    tables = overview([_result(OK, key=key) for key in keys])
    assert [(table.title, [row["test"] for row in _texts(table)]) for table in tables] == [
        ("b.py", ["test_1", "test_3[x]", "TestC::test_4::label"]),
        ("a.py", ["test_2"]),
    ]


def test_a_key_without_a_module_is_its_own_name() -> None:
    (table,) = overview([_result(OK, key="gpt2")])
    assert _texts(table)[0]["test"] == "gpt2"


def test_a_figure_that_was_not_had_is_a_dim_dash() -> None:
    (table,) = overview([_result(UNSEEN)])
    names = [column.name for column in table.columns]
    assert table.rows[0][names.index("ttft_ms")] == Cell("–", dim=True)


def test_an_overview_shows_medians_also_where_only_a_percentile_is_limited() -> None:
    tail = Row("ttft_ms", "p95", "ms", 99.0, limit="< 200", verdict=Verdict.OK)
    reading = Row("ttft_ms", "median", "ms", 12.14)
    (table,) = overview([_result(tail, reading)])
    assert _texts(table)[0]["ttft_ms"] == "12.1"


def test_the_verdict_of_a_test_without_limits_is_a_dim_dash() -> None:
    (table,) = overview([_result(RATE)])
    assert table.rows[0][-1] == Cell("–", dim=True)


def test_a_failure_that_was_expected_is_shown_without_alarm() -> None:
    (table,) = overview([_result(BROKEN, expected_to_fail=True), _result(BROKEN)])
    expected, unexpected = (row[-1] for row in table.rows)
    assert expected == Cell("BROKEN", verdict=None, dim=True)
    assert unexpected == Cell("BROKEN", verdict=Verdict.BROKEN)


# Details


def test_details_have_a_row_per_metric_with_figure_limit_and_verdict() -> None:
    table = details(_result(OK, DOUBTFUL, PEAK))
    assert table.title == "tests/test_chat.py::test_turn"
    assert _texts(table) == [
        {"metric": "ttft_ms", "measured": "12.1 ± 0.2", "unit": "ms", "limit": "< 50", "verdict": "OK", "n": "3"},
        {
            "metric": "itl_ms.p99",
            "measured": "9.93",
            "unit": "ms",
            "limit": "< 20",
            "verdict": "INCONCLUSIVE",
            "n": "3",
        },
        {"metric": "peak_memory_mib", "measured": "4,000", "unit": "MiB", "limit": "", "verdict": "", "n": "1"},
    ]


def test_details_of_limits_leave_all_other_rows_out() -> None:
    assert [row["metric"] for row in _texts(details(_result(OK, RATE, PEAK, BROKEN), judged_only=True))] == [
        "ttft_ms",
        "tpot_ms",
    ]


def test_details_tell_each_note_with_its_row() -> None:
    assert details(_result(OK, BROKEN, DOUBTFUL)).notes == ["tpot_ms: close: within noise", "itl_ms.p99: 3 samples"]


def test_details_leave_notes_of_rows_out_that_they_do_not_show() -> None:
    noted = Row("peak_memory_mib", "median", "MiB", 4000.0, note="a note")
    assert details(_result(OK, noted), judged_only=True).notes == []


def test_details_of_a_metric_that_was_not_measured_have_a_dim_dash_and_its_reason() -> None:
    table = details(_result(UNSEEN))
    assert table.rows[0][1] == Cell("–", dim=True)
    assert _texts(table)[0]["n"] == ""
    assert table.notes == ["load_s: not measured: from the cache"]


def test_a_limit_that_was_not_judged_has_a_dash_for_its_verdict() -> None:
    smoke = Row("ttft_ms", "median", "ms", 12.0, limit="< 50")
    assert details(_result(smoke)).rows[0][4] == Cell("–", dim=True)


def test_samples_are_shown_only_where_asked_for_and_where_there_are_several() -> None:
    assert details(_result(OK, PEAK), samples=True).notes == ["ttft_ms samples: 12, 12.1, 12.3"]
    assert details(_result(OK, PEAK)).notes == []


def test_many_samples_are_cut_with_their_number() -> None:
    row = Row("ttft_ms", "median", "ms", 6.0, values=tuple(float(value) for value in range(1, 13)))
    assert details(_result(row), samples=True).notes == [
        "ttft_ms samples: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, … (12 in all)"
    ]


def test_ten_samples_are_not_cut() -> None:
    row = Row("ttft_ms", "median", "ms", 6.0, values=tuple(float(value) for value in range(1, 11)))
    assert details(_result(row), samples=True).notes == ["ttft_ms samples: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10"]


# Lines


@pytest.mark.parametrize(("rounds", "told"), [(1, "1 round"), (12, "12 rounds")])
def test_conditions_are_one_line(rounds: int, told: str) -> None:
    assert subtitle(_result(rounds=rounds, workload=Workload(512, 128, 4))) == (
        f"gpt2 · 512 → 128 tokens · batch 4 · cuda NVIDIA H200 · {told}"
    )


def test_a_failure_names_only_the_rows_that_fail() -> None:
    assert failure(_result(OK, BROKEN, DOUBTFUL)) == "BROKEN tpot_ms 8.93 ms (limit < 8)"


def test_a_failure_tells_all_of_them_and_what_was_not_measured() -> None:
    assert failure(_result(BROKEN, UNSEEN)) == (
        "BROKEN tpot_ms 8.93 ms (limit < 8), BROKEN load_s not measured (limit < 5)"
    )


@pytest.mark.parametrize(
    ("statistic", "name"), [("median", "itl_ms"), ("p99", "itl_ms.p99"), ("p50", "itl_ms.p50"), ("mean", "itl_ms.mean")]
)
def test_the_median_goes_without_saying(statistic: str, name: str) -> None:
    assert row_name(Row("itl_ms", statistic, "ms", 1.0)) == name


@pytest.mark.parametrize(("workload", "text"), [(Workload(512, 128), "512→128"), (Workload(512, 128, 8), "8×512→128")])
def test_a_shape_names_the_batch_only_where_there_is_one(workload: Workload, text: str) -> None:
    assert shape(workload) == text


@pytest.mark.parametrize("verdict", Verdict)
def test_a_verdict_colours_its_own_cell(verdict: Verdict) -> None:
    assert verdict_cell(verdict) == Cell(verdict.value, verdict)


def test_counts_tell_every_verdict_from_worst_to_best() -> None:
    results = [_result(OK), _result(OK), _result(BROKEN, OK), _result(DOUBTFUL), _result(PEAK)]
    assert counts(results) == "5 measured: 1 broken, 1 inconclusive, 2 ok, 1 without limits"


def test_counts_tell_smoke_runs_from_tests_without_limits() -> None:
    smoke = Row("ttft_ms", "median", "ms", 12.0, limit="< 50")
    assert counts([_result(smoke), _result(smoke), _result(PEAK)]) == "3 measured: 2 not judged, 1 without limits"


def test_counts_tell_how_many_failures_were_expected() -> None:
    results = [_result(BROKEN), _result(BROKEN, expected_to_fail=True), _result(OK, expected_to_fail=True)]
    assert counts(results) == "3 measured: 2 broken (1 expected), 1 ok"


def test_a_time_that_cannot_be_is_told_in_one_line() -> None:
    doubtful = _result(OK, impossible="tpot_ms 4 (floor 10.0)")
    assert hints([_result(OK), doubtful]) == [
        "tests/test_chat.py::test_turn: faster than this machine can be: tpot_ms 4 (floor 10.0)"
    ]


def _unsure(**compared) -> Row:
    comparison = Comparison(Verdict.INCONCLUSIVE, 8.0, **{"change": 0.02, "spread": 0.3, "quiet": True, **compared})
    return Row("tpot_ms", "median", "ms", 8.2, verdict=Verdict.INCONCLUSIVE, comparison=comparison)


def test_what_was_disturbed_is_not_put_down_to_noise() -> None:
    busy = "other processes kept 1.5 of 2 cores busy"
    told = (
        f"2 measured while disturbed ({busy}): times do not gate there; a quieter machine helps, or "
        f"--llmperf-against=REF, which measures base in the same minutes"
    )
    disturbed = [_result(_unsure(), disturbed=busy), _result(_unsure(), disturbed=busy)]
    assert hints(disturbed) == [told]
    assert hints([*disturbed, _result(_unsure())]) == [SMALLER, told]
    assert hints([_result(OK, disturbed=busy)]) == [], "nothing was undecided"


def test_what_is_no_longer_measured_is_said_once() -> None:
    gone = Comparison(Verdict.REGRESSED, 0.879, note="no longer measured: the model returns no cache")
    row = Row("kv_cache_mib", "median", "MiB", None, verdict=Verdict.REGRESSED, comparison=gone)
    assert failure(_result(row)) == (
        "REGRESSED kv_cache_mib 0.879 MiB in the baseline, no longer measured: the model returns no cache"
    )
    assert "0.879 MiB in base, no longer" in failure(_result(row, against="1234567 (main)"))


def test_what_is_new_in_a_test_that_has_a_baseline_is_named_and_that_the_rest_held() -> None:
    absent = Comparison(Verdict.NEW, note="not in the baseline")
    rows = [Row(name, "median", "ms", 2.0, verdict=Verdict.NEW, comparison=absent) for name in ("ttft_ms", "tpot_ms")]
    rows.append(Row("weights_mib", "median", "MiB", 7.0, verdict=Verdict.OK, comparison=Comparison(Verdict.OK, 7.0)))
    told = "no baseline of ttft_ms, tpot_ms; all else was compared and is no worse (pytest --llmperf-update records it)"
    some = _result(*rows)
    assert hints([some]) == [f"NEW: {some.key}: {told}"]
    assert hints([some, some]) == [f"NEW: 2 tests: {told}"]
    assert hints([dataclasses.replace(some, new="no baseline for cpu-x")]) == [
        "NEW: no baseline for cpu-x (pytest --llmperf-update records what is measured)"
    ]
    assert hints([dataclasses.replace(some, against="main")]) == []
