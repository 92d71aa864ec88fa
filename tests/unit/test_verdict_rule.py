"""What a limit comes to: the estimate decides, the interval says how surely."""

from __future__ import annotations

import pytest

from pytest_llmperf import itl_ms, load_s, output_tokens_per_s, tpot_ms, ttft_ms
from pytest_llmperf.model import Limit, Measurement, Row, Sample, Unknown, Verdict, Workload
from pytest_llmperf.verdict.rule import judge_limit, reading, straddles


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
