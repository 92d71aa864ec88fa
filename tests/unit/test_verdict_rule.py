"""What a limit and a comparison come to: the estimate decides, the interval says how surely."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf import itl_ms, load_s, output_tokens_per_s, tpot_ms, ttft_ms
from pytest_llmperf.metrics import CATALOGUE, Better, Metric, summarize
from pytest_llmperf.model import Limit, Measurement, Round, Sample, Trace, Unknown, Workload
from pytest_llmperf.results import Comparison, Row, Verdict
from pytest_llmperf.verdict.comparison import Estimate
from pytest_llmperf.verdict.rule import (
    judge_counted,
    judge_limit,
    judge_memory,
    judge_timed,
    no_longer_measured,
    reading,
    straddles,
)


def _measured(**samples: Sample | Unknown) -> Measurement:
    return Measurement("fake", Workload(), (), samples=samples)


def _steady(value: float, rounds: int = 5) -> Sample:
    return Sample([[value]] * rounds)


SPREAD = Sample([[48.0], [49.0], [50.0], [51.0], [52.0]])
"""Median 50, and every interval of it reaches from below 49.5 to above 50.5."""


def test_a_limit_that_holds_is_ok_with_its_figures() -> None:
    row = judge_limit(ttft_ms < 50, _measured(ttft_ms=_steady(40.0)))
    assert row == Row(
        metric="ttft_ms",
        statistic="median",
        unit="ms",
        value=40.0,
        low=40.0,
        high=40.0,
        limit="< 50",
        verdict=Verdict.OK,
        note="",
        values=(40.0,) * 5,
    )


@pytest.mark.parametrize(
    ("trace", "note"),
    [
        (Trace(0.0, (1.0, 2.0), 8), ""),
        (Trace(0.0, (1.0, 2.0), 8, counts=(1, 4)), "gaps between chunks of 2.50 tokens"),
        (Trace(0.0, (1.0, 2.0), 8, tokens=6), "gaps between chunks of 3 tokens"),
    ],
)
def test_gaps_between_chunks_are_named_so_with_a_limit_and_without(trace: Trace, note: str) -> None:
    seen = summarize(Measurement("fake", Workload(), (Round((trace,)),) * 3))
    assert reading("itl_ms", seen).note == judge_limit(itl_ms < 9999, seen).note == note
    assert reading("ttft_ms", seen).note == ""


def test_a_limit_that_does_not_hold_is_broken() -> None:
    row = judge_limit(ttft_ms < 50, _measured(ttft_ms=_steady(60.0)))
    assert (row.verdict, row.value, row.note) == (Verdict.BROKEN, 60.0, "")


@pytest.mark.parametrize(
    ("limit", "verdict"),
    [
        (ttft_ms < 50, Verdict.BROKEN),
        (ttft_ms <= 50, Verdict.OK),
        (ttft_ms > 50, Verdict.BROKEN),
        (ttft_ms >= 50, Verdict.OK),
    ],
    ids=str,
)
def test_a_value_on_the_bound_is_judged_by_the_operator(limit: Limit, verdict: Verdict) -> None:
    assert judge_limit(limit, _measured(ttft_ms=_steady(50.0))).verdict is verdict


def test_the_statistic_named_is_the_one_judged() -> None:
    sample = Sample([[float(value) for value in range(1, 102)]])
    m = _measured(itl_ms=sample)
    assert judge_limit(itl_ms < 60, m).verdict is Verdict.OK
    row = judge_limit(itl_ms.p99 < 60, m)
    assert (row.statistic, row.value, row.verdict) == ("p99", 100.0, Verdict.BROKEN)
    assert judge_limit(itl_ms.max <= 101, m).verdict is Verdict.OK
    assert judge_limit(itl_ms.min > 1, m).verdict is Verdict.BROKEN


def test_a_single_round_is_judged_without_an_interval() -> None:
    row = judge_limit(ttft_ms < 50, _measured(ttft_ms=Sample([[49.999]])))
    assert (row.low, row.high, row.verdict, row.note) == (None, None, Verdict.OK, "")


@pytest.mark.parametrize(("bound", "verdict"), [(50.5, Verdict.OK), (49.5, Verdict.BROKEN)])
def test_a_limit_met_or_missed_only_within_noise_says_so_and_the_estimate_decides(
    bound: float, verdict: Verdict
) -> None:
    row = judge_limit(ttft_ms < bound, _measured(ttft_ms=SPREAD))
    assert row.low < bound < row.high
    assert (row.verdict, row.note) == (verdict, "close: within noise")


@pytest.mark.parametrize(("bound", "verdict"), [(60.0, Verdict.OK), (40.0, Verdict.BROKEN)])
def test_a_limit_far_from_the_sample_is_not_close(bound: float, verdict: Verdict) -> None:
    row = judge_limit(ttft_ms < bound, _measured(ttft_ms=SPREAD))
    assert (row.verdict, row.note) == (verdict, "")


@pytest.mark.parametrize(
    ("limit", "spread", "expected"),
    [
        (ttft_ms < 50, (49.0, 51.0), True),
        (ttft_ms < 50, (51.0, 52.0), False),
        (ttft_ms < 50, (48.0, 49.0), False),
        (ttft_ms < 50, (49.0, 50.0), True),
        (ttft_ms <= 50, (49.0, 50.0), False),
        (ttft_ms > 50, (50.0, 51.0), True),
        (ttft_ms >= 50, (50.0, 51.0), False),
    ],
    ids=str,
)
def test_a_bound_straddles_where_one_end_holds_and_the_other_does_not(
    limit: Limit, spread: tuple[float, float], expected: bool
) -> None:
    assert straddles(limit, spread) is expected


@pytest.mark.parametrize(
    ("limit", "count", "note"),
    [
        (itl_ms.p90 < 50, 9, "9 samples, p90 needs 10"),
        (itl_ms.p95 < 50, 19, "19 samples, p95 needs 20"),
        (itl_ms.p99 < 50, 99, "99 samples, p99 needs 100"),
    ],
    ids=str,
)
def test_a_percentile_of_too_few_samples_is_inconclusive_and_says_what_it_needs(
    limit: Limit, count: int, note: str
) -> None:
    for value in (10.0, 90.0):  # neither a pass nor a failure
        row = judge_limit(limit, _measured(itl_ms=Sample([[value] * count])))
        assert row.verdict is Verdict.INCONCLUSIVE
        assert row.note == f"{note}; give it --llmperf-max-time"
    enough = judge_limit(limit, _measured(itl_ms=Sample([[90.0] * (count + 1)])))
    assert enough.verdict is Verdict.BROKEN


def test_a_metric_that_was_not_measured_has_not_held_its_limit() -> None:
    row = judge_limit(load_s < 5, _measured(load_s=Unknown("it came from the cache")))
    assert row == Row(
        "load_s", "median", "s", None, None, None, "< 5", Verdict.BROKEN, "not measured: it came from the cache"
    )


@pytest.mark.parametrize(
    ("limit", "note"),
    [
        (ttft_ms < 90, ""),
        (ttft_ms <= 90, ""),
        (ttft_ms > 10, "a limit in the unusual direction: lower is better"),
        (ttft_ms >= 10, "a limit in the unusual direction: lower is better"),
        (output_tokens_per_s > 10, ""),
        (output_tokens_per_s >= 10, ""),
        (output_tokens_per_s < 90, "a limit in the unusual direction: higher is better"),
        (output_tokens_per_s <= 90, "a limit in the unusual direction: higher is better"),
    ],
    ids=str,
)
def test_a_limit_in_the_unusual_direction_is_allowed_and_noted(limit: Limit, note: str) -> None:
    row = judge_limit(limit, _measured(ttft_ms=_steady(50.0), output_tokens_per_s=_steady(50.0)))
    assert (row.verdict, row.note) == (Verdict.OK, note)


def test_a_row_may_have_several_notes() -> None:
    row = judge_limit(ttft_ms > 49.5, _measured(ttft_ms=SPREAD))
    assert row.note == "close: within noise; a limit in the unusual direction: lower is better"


@pytest.mark.parametrize("value", [10.0, 90.0])
def test_a_smoke_run_has_figures_and_no_verdict(value: float) -> None:
    row = judge_limit(ttft_ms < 50, _measured(ttft_ms=Sample([[value]])), judged=False)
    assert (row.value, row.limit, row.verdict) == (value, "< 50", None)


@pytest.mark.parametrize("sample", [Unknown("out of sight"), Sample([[1.0]])])
def test_a_smoke_run_never_breaks_nor_doubts(sample: Sample | Unknown) -> None:
    assert judge_limit(tpot_ms.p99 < 50, _measured(tpot_ms=sample), judged=False).verdict is None


def test_a_reading_is_the_median_without_a_limit() -> None:
    row = reading("ttft_ms", _measured(ttft_ms=SPREAD))
    assert (row.metric, row.statistic, row.unit, row.value) == ("ttft_ms", "median", "ms", 50.0)
    assert (row.limit, row.verdict, row.note) == (None, None, "")
    assert row.low < 50.0 < row.high
    assert row.values == (48.0, 49.0, 50.0, 51.0, 52.0)


def test_what_was_not_measured_has_no_reading() -> None:
    assert reading("load_s", _measured(load_s=Unknown("it came from the cache"))) is None


# Comparisons


TTFT, RATE = CATALOGUE["ttft_ms"], CATALOGUE["output_tokens_per_s"]
OPERATORS = CATALOGUE["kv_cache_mib"]  # counted, lower is better
PEAK, LEAK = CATALOGUE["peak_memory_mib"], CATALOGUE["leak_mib"]
MORE_IS_BETTER = dataclasses.replace(OPERATORS, better=Better.HIGHER)


def timed(change: float, error: float, metric: Metric = TTFT) -> Comparison:
    return judge_timed(10.0, Estimate(change, error, 10), metric, 0.05, 0.002)


@pytest.mark.parametrize(
    ("change", "error", "verdict", "note", "quiet"),
    [
        (0.10, 0.005, Verdict.REGRESSED, "tolerance 5 %", False),
        (0.00, 0.005, Verdict.OK, "tolerance 5 %", False),
        (-0.10, 0.005, Verdict.IMPROVED, "tolerance 5 %", False),
        (0.04, 0.10, Verdict.INCONCLUSIVE, "no change seen (± 23 %)", True),
        (-0.04, 0.10, Verdict.INCONCLUSIVE, "no change seen (± 22 %)", True),
        (0.06, 0.10, Verdict.INCONCLUSIVE, "within this machine's noise", False),
        (-0.06, 0.10, Verdict.INCONCLUSIVE, "within this machine's noise", False),
        (0.06, 0.02, Verdict.INCONCLUSIVE, "not sure enough to be REGRESSED", False),
    ],
)
def test_a_timed_comparison_says_what_it_saw(
    change: float, error: float, verdict: Verdict, note: str, quiet: bool
) -> None:
    found = timed(change, error)
    assert (found.verdict, found.note, found.quiet, found.base) == (verdict, note, quiet, 10.0)
    assert found.change == pytest.approx(math.expm1(change))
    assert found.spread == pytest.approx(math.exp(change) * math.sinh(2.2281 * error), rel=1e-4)


def test_where_higher_is_better_a_worse_change_is_a_smaller_number() -> None:
    found = timed(0.10, 0.005, RATE)
    assert found.verdict is Verdict.REGRESSED
    assert found.change == pytest.approx(math.exp(-0.10) - 1)
    assert timed(-0.10, 0.005, RATE).change == pytest.approx(math.exp(0.10) - 1)


@given(st.floats(-1, 1), st.floats(0.001, 0.3))
def test_one_change_has_one_verdict_whichever_direction_is_better(change: float, error: float) -> None:
    lower, higher = timed(change, error), timed(change, error, RATE)
    assert (lower.verdict, lower.quiet) == (higher.verdict, higher.quiet)
    assert (1 + lower.change) * (1 + higher.change) == pytest.approx(1)


@pytest.mark.parametrize(
    ("base", "head", "verdict", "change"),
    [
        ([3.0], [3.0], Verdict.OK, 0.0),
        ([3.0, 3.0], [3.0, 3.0], Verdict.OK, 0.0),
        ([4.0], [5.0], Verdict.REGRESSED, 0.25),
        ([4.0], [3.0], Verdict.IMPROVED, -0.25),
        ([0.0], [0.0], Verdict.OK, 0.0),
        ([0.0], [1.0], Verdict.REGRESSED, None),
    ],
)
def test_a_count_is_equal_or_not(base: list[float], head: list[float], verdict: Verdict, change: float | None) -> None:
    assert judge_counted(base, head, OPERATORS) == Comparison(verdict, base[0], change, None, "exact")


def test_a_count_of_which_more_is_better_is_worse_when_smaller() -> None:
    assert judge_counted([4.0], [3.0], MORE_IS_BETTER).verdict is Verdict.REGRESSED
    assert judge_counted([4.0], [5.0], MORE_IS_BETTER).verdict is Verdict.IMPROVED


@given(st.floats(0, 1e12), st.floats(0, 1e12))
def test_counts_with_arms_swapped_are_mirrored(one: float, other: float) -> None:
    verdicts = {judge_counted([one], [other], OPERATORS).verdict, judge_counted([other], [one], OPERATORS).verdict}
    assert verdicts == ({Verdict.OK} if one == other else {Verdict.REGRESSED, Verdict.IMPROVED})


@pytest.mark.parametrize(
    ("base", "head", "note"),
    [
        ([3.0, 4.0], [4.0], "unstable: 3 and 4 in the baseline"),
        ([4.0, 3.0], [9.0], "unstable: 3 and 4 in the baseline"),
        ([3.0], [3.0, 4.0], "unstable: 3 and 4 now"),
        ([3.0], [5.0, 4.0], "unstable: 4 and 5 now"),
    ],
)
def test_a_count_that_differs_between_readings_of_one_code_proves_nothing(
    base: list[float], head: list[float], note: str
) -> None:
    found = judge_counted(base, head, OPERATORS)
    assert (found.verdict, found.note, found.cause) == (Verdict.INCONCLUSIVE, note, "")


@pytest.mark.parametrize("head", [3.0, 5.0])
def test_a_count_made_with_other_versions_is_shown_only(head: float) -> None:
    found = judge_counted([4.0], [head], OPERATORS, "torch 2.9.0")
    assert (found.verdict, found.cause) == (Verdict.INCONCLUSIVE, "versions")
    assert found.note == "counted with torch 2.9.0"
    assert found.change == head / 4 - 1
    assert judge_counted([4.0], [4.0], OPERATORS, "torch 2.9.0").verdict is Verdict.OK


def memory(base: list[float], head: list[float], metric: Metric = PEAK, tolerance: float = 0.01) -> Comparison:
    return judge_memory(base, head, metric, tolerance, metric.least.cpu)


@pytest.mark.parametrize(
    ("base", "head", "verdict", "note"),
    [
        (1000.0, 1010.0, Verdict.OK, "tolerance 1 %"),
        (1000.0, 1010.001, Verdict.REGRESSED, "tolerance 1 %"),
        (1000.0, 990.0, Verdict.OK, "tolerance 1 %"),
        (1000.0, 989.999, Verdict.IMPROVED, "tolerance 1 %"),
        (1.0, 1.0625, Verdict.OK, "tolerance 0.0625 MiB"),
        (1.0, 1.0626, Verdict.REGRESSED, "tolerance 0.0625 MiB"),
        (1.0, 0.9375, Verdict.OK, "tolerance 0.0625 MiB"),
        (1.0, 0.9374, Verdict.IMPROVED, "tolerance 0.0625 MiB"),
    ],
)
def test_memory_may_move_by_its_tolerance_and_no_further(base: float, head: float, verdict: Verdict, note: str) -> None:
    found = memory([base], [head])
    assert (found.verdict, found.note, found.base) == (verdict, note, base)
    assert found.change == pytest.approx(head / base - 1)


@pytest.mark.parametrize(
    ("head", "verdict"),
    [
        (0.0, Verdict.OK),
        (4 / 1024, Verdict.OK),
        (4.001 / 1024, Verdict.REGRESSED),
        (1.0, Verdict.REGRESSED),
        (-1.0, Verdict.IMPROVED),
    ],
)
def test_a_leak_where_there_was_none_is_told_from_a_kibibyte_on(head: float, verdict: Verdict) -> None:
    found = memory([0.0], [head], LEAK)
    assert (found.verdict, found.change) == (verdict, None)


def test_memory_is_compared_with_the_middle_of_what_was_stored() -> None:
    found = memory([100.0, 100.5, 100.2], [101.3, 101.3])
    assert (found.verdict, found.base) == (Verdict.REGRESSED, 100.2)


def test_stored_memory_that_spreads_beyond_its_tolerance_proves_nothing() -> None:
    found = memory([100.0, 102.0], [150.0])
    assert (found.verdict, found.note) == (Verdict.INCONCLUSIVE, "the baseline's readings differ, tolerance 1 %")


@pytest.mark.parametrize("head", [[100.0, 103.0], [103.0, 100.0]])
def test_two_readings_that_disagree_about_memory_are_inconclusive(head: list[float]) -> None:
    found = memory([100.0], head)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "two readings disagree" in found.note


def test_readings_that_agree_about_memory_are_judged() -> None:
    assert memory([100.0], [103.0, 105.0]).verdict is Verdict.REGRESSED
    assert memory([100.0], [97.0, 95.0]).verdict is Verdict.IMPROVED
    assert memory([100.0], [97.0, 100.0]).verdict is Verdict.OK


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_memory_is_never_regressed_both_ways(one: float, other: float) -> None:
    verdicts = [memory([one], [other]).verdict, memory([other], [one]).verdict]
    assert verdicts.count(Verdict.REGRESSED) <= 1
    assert memory([one], [one]).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("metric", "missing", "verdict"),
    [
        (TTFT, Unknown("no clock"), Verdict.INCONCLUSIVE),
        (OPERATORS, Unknown("no clock"), Verdict.REGRESSED),
        (PEAK, Unknown("no clock"), Verdict.REGRESSED),
        (LEAK, Unknown("no clock", by_chance=True), Verdict.INCONCLUSIVE),
    ],
)
def test_what_is_no_longer_measured_is_no_longer_gated_and_that_is_a_regression(
    metric: Metric, missing: Unknown, verdict: Verdict
) -> None:
    expected = Comparison(verdict, 7.0, None, None, "no longer measured: no clock")
    assert no_longer_measured(metric, 7.0, missing) == expected


def test_what_other_versions_no_longer_show_is_said_only() -> None:
    found = no_longer_measured(OPERATORS, 7.0, Unknown("no such event"), "torch 2.9.0")
    assert (found.verdict, found.cause) == (Verdict.INCONCLUSIVE, "versions")
    assert found.note == "no longer measured: no such event; counted with torch 2.9.0"


def test_below_the_fewest_processes_what_would_be_regressed_is_a_suspect() -> None:
    regressed = Comparison(Verdict.REGRESSED, 1.0, 0.5, 0.1, "tolerance 5 %")
    early = regressed.after(1, 2)
    assert (early.verdict, early.suspect, early.note) == (Verdict.INCONCLUSIVE, True, "tolerance 5 %")
    enough = regressed.after(2, 2)
    assert (enough.verdict, enough.suspect, enough.note) == (Verdict.REGRESSED, False, "tolerance 5 %; 2 processes")


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict is not Verdict.REGRESSED])
def test_nothing_else_waits_for_more_processes(verdict: Verdict) -> None:
    assert Comparison(verdict).after(1, 2) == Comparison(verdict)
