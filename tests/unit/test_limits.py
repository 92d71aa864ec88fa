"""Limits as expressions and as text: the same limit, and the same refusals."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pytest_llmperf
from pytest_llmperf import (
    itl_ms,
    load_s,
    mbu,
    output_tokens_per_s,
    peak_memory_mib,
    tpot_ms,
    ttft_ms,
    weights_mib,
)
from pytest_llmperf.errors import UsageError
from pytest_llmperf.limits import EXPRESSIONS, expression, parse
from pytest_llmperf.metrics import CATALOGUE, Kind, Per
from pytest_llmperf.model import STATISTICS, Limit, Tolerance

# Expressions


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (lambda: ttft_ms < 50, Limit("ttft_ms", "median", "<", 50.0)),
        (lambda: ttft_ms <= 50, Limit("ttft_ms", "median", "<=", 50.0)),
        (lambda: output_tokens_per_s > 900, Limit("output_tokens_per_s", "median", ">", 900.0)),
        (lambda: output_tokens_per_s >= 900, Limit("output_tokens_per_s", "median", ">=", 900.0)),
        (lambda: itl_ms.p99 < 20.5, Limit("itl_ms", "p99", "<", 20.5)),
        (lambda: ttft_ms.median < 50, Limit("ttft_ms", "median", "<", 50.0)),
        (lambda: 50 > ttft_ms, Limit("ttft_ms", "median", "<", 50.0)),  # noqa: SIM300  # the other way round
        (lambda: 900 <= output_tokens_per_s, Limit("output_tokens_per_s", "median", ">=", 900.0)),  # noqa: SIM300
        (lambda: ttft_ms > 50, Limit("ttft_ms", "median", ">", 50.0)),
        (lambda: ttft_ms < np.float64(50), Limit("ttft_ms", "median", "<", 50.0)),
        (lambda: ttft_ms < np.int64(50), Limit("ttft_ms", "median", "<", 50.0)),
    ],
)
def test_a_comparison_is_a_limit(limit, expected: Limit) -> None:
    made = limit()
    assert made == expected
    assert type(made.bound) is float


@pytest.mark.parametrize("statistic", STATISTICS)
def test_every_statistic_can_be_limited(statistic: str) -> None:
    assert (getattr(tpot_ms, statistic) < 12) == Limit("tpot_ms", statistic, "<", 12.0)


def test_a_chained_comparison_is_refused() -> None:
    with pytest.raises(TypeError, match=r"chained comparison such as 10 < ttft_ms < 50 .* write two limits"):
        10 < ttft_ms < 50  # noqa: B015  # the point of the test


@pytest.mark.parametrize("joined", [lambda: (ttft_ms < 50) and (tpot_ms < 8), lambda: not (ttft_ms < 50)])
def test_logic_on_limits_is_refused(joined) -> None:
    with pytest.raises(TypeError, match=r"the limit 'ttft_ms < 50' has no truth value"):
        joined()


@pytest.mark.parametrize(
    ("bound", "named"),
    [([50], "list"), (None, "NoneType"), ("50", "str"), (True, "bool"), ((1, 2), "tuple"), (5j, "complex")],
)
def test_a_bound_that_is_no_number_is_refused(bound: object, named: str) -> None:
    with pytest.raises(TypeError) as error:
        ttft_ms < bound  # noqa: B015  # the point of the test
    assert str(error.value) == f"ttft_ms < {bound!r}: expected a plain number of ms, not {named}"


def test_the_unit_expected_is_that_of_the_metric() -> None:
    with pytest.raises(TypeError, match="expected a plain number of MiB, not str"):
        peak_memory_mib <= "4 GiB"  # noqa: B015  # the point of the test


@pytest.mark.parametrize("other", [tpot_ms, tpot_ms.p95])
def test_a_limit_against_another_metric_is_refused(other: object) -> None:
    with pytest.raises(TypeError, match=r"ttft_ms < tpot_ms.*: a limit compares a metric with a number"):
        ttft_ms < other  # noqa: B015  # the point of the test


def test_a_limit_against_a_limit_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a plain number of ms, not Limit"):
        ttft_ms < (tpot_ms < 8)  # noqa: B015  # the point of the test


@pytest.mark.parametrize("bound", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_a_bound_that_is_not_finite_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match=r"ttft_ms >= .*: a limit must be a finite number of ms"):
        ttft_ms >= bound  # noqa: B015  # the point of the test


@pytest.mark.parametrize("bound", [5, 1.5, 1.0001, -0.1])
def test_a_bound_that_no_share_can_have_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match=rf"^mbu > {bound}: mbu is a share, and its limit lies between 0 and 1$"):
        mbu > bound  # noqa: B015  # the point of the test
    with pytest.raises(UsageError, match=rf"^'mfu.min > {bound}': .*mfu is a share"):
        parse(f"mfu.min > {bound}")
    assert ((mbu > 1).bound, (mbu <= 0).bound, parse("mbu > 0.5 share").bound) == (1.0, 0.0, 0.5)


@pytest.mark.parametrize(
    "compared",
    [
        lambda: ttft_ms == 50,
        lambda: ttft_ms != 50,
        lambda: 50 == ttft_ms,  # noqa: SIM300  # the other way round
        lambda: ttft_ms == "ttft_ms",
        lambda: ttft_ms == None,  # noqa: E711  # the point of the test
    ],
)
def test_equality_with_a_bound_is_refused(compared) -> None:
    with pytest.raises(TypeError, match=r"a measured value is never equal to a bound; use <= or >="):
        compared()


def test_expressions_are_equal_to_what_names_the_same_statistic() -> None:
    assert ttft_ms == EXPRESSIONS["ttft_ms"]
    assert ttft_ms == ttft_ms.median
    assert ttft_ms != tpot_ms
    assert ttft_ms.p95 == ttft_ms.p95
    assert ttft_ms.p95 != ttft_ms.p99


def test_an_expression_is_no_key() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(ttft_ms)


def test_a_metric_alone_has_no_truth_value() -> None:
    with pytest.raises(
        TypeError, match=r"^itl_ms\.p95 alone is no limit; compare it with a number, like itl_ms\.p95 < 50$"
    ):
        bool(itl_ms.p95)


def test_an_unknown_statistic_is_refused_with_the_nearest() -> None:
    with pytest.raises(AttributeError, match=r"ttft_ms has no statistic 'medain'; did you mean 'median'\? \(known: me"):
        _ = ttft_ms.medain


def test_a_statistic_of_a_statistic_is_refused_without_a_senseless_hint() -> None:
    with pytest.raises(AttributeError, match=r"^tpot_ms\.p95 is a statistic already; it has no 'p99'") as error:
        _ = tpot_ms.p95.p99
    assert "did you mean 'p99'" not in str(error.value)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_an_expression_can_be_copied(copied) -> None:
    assert copied(itl_ms.p99) == itl_ms.p99


def test_every_metric_has_an_expression_of_its_name() -> None:
    assert {name: repr(found) for name, found in EXPRESSIONS.items()} == {name: name for name in CATALOGUE}


# Names


def test_a_misspelt_metric_is_named_with_the_nearest_in_text() -> None:
    with pytest.raises(UsageError, match=r"^'ttf_ms < 50': no metric 'ttf_ms'; did you mean 'ttft_ms'\?"):
        parse("ttf_ms < 50")


def test_a_misspelt_metric_is_named_with_the_nearest_on_import() -> None:
    with pytest.raises(ImportError, match=r"cannot import name 'ttf_ms' .*; did you mean 'ttft_ms'\?"):
        from pytest_llmperf import ttf_ms  # noqa: F401  # the point of the test


def test_a_misspelt_metric_is_named_with_the_nearest_as_an_attribute() -> None:
    with pytest.raises((AttributeError, ImportError), match=r"'ttf_ms'.*; did you mean 'ttft_ms'\?"):
        _ = pytest_llmperf.ttf_ms


def test_a_metric_far_from_all_others_gets_no_hint_but_where_to_look() -> None:
    with pytest.raises(UsageError) as error:
        expression("zebra")
    assert str(error.value) == "no metric 'zebra' (`llmperf metrics` lists them)"


# Tolerances


@pytest.mark.parametrize(("given", "expected"), [("3%", 0.03), (0.03, 0.03), ("2.5 %", 0.025)])
def test_a_tolerance_belongs_to_its_metric(given: object, expected: float) -> None:
    tolerance = tpot_ms.within(given)
    assert tolerance.metric == "tpot_ms"
    assert tolerance.fraction == pytest.approx(expected)


def test_memory_may_have_a_tolerance() -> None:
    assert peak_memory_mib.within("2%") == Tolerance("peak_memory_mib", 0.02)


@pytest.mark.parametrize("statistic", [name for name in STATISTICS if name != "median"])
def test_a_tolerance_on_anything_but_the_median_is_refused(statistic: str) -> None:
    with pytest.raises(UsageError) as error:
        getattr(tpot_ms, statistic).within("3%")
    assert str(error.value) == (f"tpot_ms.{statistic}.within(): baselines compare medians only; write tpot_ms.within()")


def test_a_tolerance_on_the_median_said_aloud_is_the_same() -> None:
    assert tpot_ms.median.within("3%") == tpot_ms.within("3%")


def test_a_tolerance_on_a_counted_metric_is_refused() -> None:
    with pytest.raises(UsageError, match=r"weights_mib\.within\(\): weights_mib is counted, and compared exactly"):
        weights_mib.within("3%")


def test_a_tolerance_on_a_reported_metric_is_refused() -> None:
    with pytest.raises(UsageError, match=r"load_s\.within\(\): load_s is reported, never compared; set a limit"):
        load_s.within("3%")


@pytest.mark.parametrize("name", CATALOGUE)
def test_only_metrics_that_are_compared_by_size_take_a_tolerance(name: str) -> None:
    if CATALOGUE[name].kind in (Kind.TIMED, Kind.MEMORY):
        assert EXPRESSIONS[name].within("3%") == Tolerance(name, 0.03)
    else:
        with pytest.raises(UsageError):
            EXPRESSIONS[name].within("3%")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("3", "'3' is not a percentage: write '5%', or 0.05 as a number"),
        (5, "5 is not between 0 and 1"),
        ("0%", "'0%' is not between 0 and 1"),
        ("150%", "'150%' is not between 0 and 1"),
        (True, "True is not a tolerance"),
        (None, "None is not a tolerance"),
    ],
)
def test_what_is_no_tolerance_is_refused_with_the_metric_and_the_value(given: object, message: str) -> None:
    with pytest.raises(UsageError) as error:
        tpot_ms.within(given)
    assert str(error.value).startswith(f"tpot_ms.within(): {message}")


# Text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ttft_ms < 50", ttft_ms < 50),
        ("  ttft_ms<50  ", ttft_ms < 50),
        ("ttft_ms<=50.5", ttft_ms <= 50.5),
        ("ttft_ms < 50 ms", ttft_ms < 50),
        ("ttft_ms < 50ms", ttft_ms < 50),
        ("ttft_ms <50ms", ttft_ms < 50),
        ("ttft_ms < 1e3ms", ttft_ms < 1000),
        ("ttft_ms < 1e3", ttft_ms < 1000),
        ("ttft_ms < .5", ttft_ms < 0.5),
        ("ttft_ms < +5", ttft_ms < 5),
        ("ttft_ms > -5", ttft_ms > -5),
        ("peak_memory_mib < 4_000", peak_memory_mib < 4000),
        ("peak_memory_mib < 4_000 MiB", peak_memory_mib < 4000),
        ("load_s < 30s", load_s < 30),
        ("output_tokens_per_s >= 900 tokens/s", output_tokens_per_s >= 900),
        ("output_tokens_per_s > 900tokens/s", output_tokens_per_s > 900),
        ("itl_ms.p99 <= 12", itl_ms.p99 <= 12),
        ("itl_ms . p99 <= 12", itl_ms.p99 <= 12),
        ("itl_ms.median < 12", itl_ms < 12),
    ],
)
def test_text_is_the_same_limit_as_the_expression(text: str, expected: Limit) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "fraction"),
    [
        ("tpot_ms.within(3%)", 0.03),
        ("tpot_ms.within('3%')", 0.03),
        ('tpot_ms.within("3%")', 0.03),
        (" tpot_ms . within( 2.5 % ) ", 0.025),
    ],
)
def test_a_tolerance_can_be_text(text: str, fraction: float) -> None:
    tolerance = parse(text)
    assert isinstance(tolerance, Tolerance)
    assert tolerance.metric == "tpot_ms"
    assert tolerance.fraction == pytest.approx(fraction)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ttft_ms < 50 s", "ttft_ms is in ms, not 's'; write the number in ms"),
        ("ttft_ms < 50s", "ttft_ms is in ms, not 's'; write the number in ms"),
        ("ttft_ms < 4 GiB", "ttft_ms is in ms, not 'GiB'; write the number in ms"),
        ("peak_memory_mib < 4GiB", "peak_memory_mib is in MiB, not 'GiB'; write the number in MiB"),
        ("ttft_ms < 50 MS", "ttft_ms is in ms, not 'MS'"),
        ("ttft_ms < 50%", "ttft_ms is in ms, not '%'"),
        ("load_s < 300 ms", "load_s is in s, not 'ms'; write the number in s"),
        ("ttft_ms.p96 < 5", "ttft_ms has no statistic 'p96'; did you mean 'p9"),
        ("ttft_ms.p95() < 5", "p95 is not called; a limit is"),
        ("ttft_ms < tpot_ms", "'tpot_ms' is not a number; a limit is"),
        ("ttft_ms < True", "'True' is not a number"),
        ("ttft_ms < 1,000", "'1,000' is not a number"),
        ("ttft_ms < nan", "a limit must be a finite number of ms"),
        ("ttft_ms < inf", "a limit must be a finite number of ms"),
        ("ttft_ms < 1e400", "a limit must be a finite number of ms"),
        ("ttft_ms < 50 < 60", "a chained comparison; write two limits"),
        ("ttft_ms < 50 ms < 60", "a chained comparison; write two limits"),
        ("ttft_ms == 50", "a limit is METRIC[.STATISTIC] < NUMBER, like 'ttft_ms < 50'"),
        ("ttft_ms => 50", "a limit is METRIC"),
        ("ttft_ms < 50 60", "a limit is METRIC"),
        ("ttft_ms <", "a limit is METRIC"),
        ("ttft_ms", "a limit is METRIC"),
        ("< 50", "a limit is METRIC"),
        ("50 > ttft_ms", "a limit is METRIC"),
        ("", "a limit is METRIC"),
        ("tpot_ms.within", "write the tolerance as tpot_ms.within(3%)"),
        ("tpot_ms.within(3%) < 5", "write the tolerance as tpot_ms.within(3%)"),
        ("tpot_ms.within(3)", "tpot_ms.within(): '3' is not a percentage"),
        ("tpot_ms.within(0%)", "tpot_ms.within(): '0%' is not between 0 and 1"),
        ("tpot_ms.within(150%)", "tpot_ms.within(): '150%' is not between 0 and 1"),
        ("tpot_ms.within()", "tpot_ms.within(): '' is not a percentage"),
        ("weights_mib.within(3%)", "weights_mib is counted"),
        ("load_s.within(3%)", "load_s is reported, never compared"),
    ],
)
def test_text_that_is_no_limit_is_refused_with_itself_and_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(text)
    assert str(error.value).startswith(f"{text!r}: ")
    assert message in str(error.value)


def test_a_chained_comparison_in_text_is_told_to_be_one() -> None:
    with pytest.raises(UsageError, match=r"^'10 < ttft_ms < 50': .*two limits"):
        parse("10 < ttft_ms < 50")


def test_an_infinite_bound_in_text_is_told_to_be_one_whatever_its_sign() -> None:
    with pytest.raises(UsageError, match="a limit must be a finite number of ms"):
        parse("ttft_ms > -inf")


def test_a_tolerance_on_a_percentile_in_text_is_refused_for_what_it_is() -> None:
    with pytest.raises(UsageError, match="baselines compare medians only"):
        parse("tpot_ms.p95.within(3%)")


def test_a_metric_with_one_value_per_measurement_has_no_percentiles() -> None:
    with pytest.raises(UsageError, match="weights_mib has one value per measurement, and so no p99"):
        parse("weights_mib.p99 < 500")


_limits = st.builds(
    Limit,
    st.sampled_from(sorted(m.name for m in CATALOGUE.values() if m.per is not Per.MEASUREMENT and m.unit != "share")),
    st.sampled_from(STATISTICS),
    st.sampled_from(["<", "<=", ">", ">="]),
    st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 10**9).map(float),
)


@settings(deadline=None)
@given(_limits)
def test_the_text_of_a_limit_is_parsed_back_to_it(limit: Limit) -> None:
    assert parse(str(limit)) == limit


@settings(deadline=None)
@given(_limits, st.sampled_from(["", " ", "  "]))
def test_the_right_unit_changes_nothing(limit: Limit, space: str) -> None:
    text = f"{limit.subject} {limit.operator} {limit.bound!r}{space}{CATALOGUE[limit.metric].unit}"
    assert parse(text) == limit


@settings(deadline=None)
@given(st.text(alphabet="ttpo_ms.<>=() 0159%pwihna-+e", max_size=30))
def test_any_text_is_a_limit_or_a_usage_error(text: str) -> None:
    try:
        came_to = parse(text)
    except UsageError as error:
        came_to = error
    assert isinstance(came_to, (Limit, Tolerance)) or repr(text) in str(came_to)
