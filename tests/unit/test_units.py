"""Conversions at the edge, and numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.units import (
    decimals,
    fraction,
    how_ended,
    mebibytes,
    milliseconds,
    percent,
    plus_minus,
    short_bytes,
    short_duration,
    short_number,
)


def test_milliseconds_are_thousandths_of_a_second() -> None:
    assert milliseconds(0.25) == 250.0


def test_a_mebibyte_is_two_to_the_twenty_bytes() -> None:
    assert mebibytes(3 * 1_048_576) == 3.0
    assert mebibytes(524_288) == 0.5


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("5%", 0.05),
        (" 5 % ", 0.05),
        ("2.5%", 0.025),
        (".5%", 0.005),
        ("5.%", 0.05),
        ("99%", 0.99),
        (0.05, 0.05),
        (0.999, 0.999),
    ],
)
def test_a_tolerance_is_read_as_a_fraction(given: object, expected: float) -> None:
    assert fraction(given) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("3", r"'3' is not a percentage: write '5%', or 0.05"),
        ("0.05", r"'0.05' is not a percentage"),
        ("five%", r"'five%' is not a percentage"),
        ("-5%", r"'-5%' is not a percentage"),
        ("", r"'' is not a percentage"),
        (5, r"5 is not between 0 and 1: write '5%' or 0.05"),
        (1, r"1 is not between 0 and 1"),
        (0, r"0 is not between 0 and 1"),
        (-0.1, r"-0.1 is not between 0 and 1"),
        ("0%", r"'0%' is not between 0 and 1"),
        ("100%", r"'100%' is not between 0 and 1"),
        ("150%", r"'150%' is not between 0 and 1"),
        (float("nan"), r"nan is not between 0 and 1"),
        (True, r"True is not a tolerance"),
        (None, r"None is not a tolerance"),
        ([0.05], r"\[0.05\] is not a tolerance"),
    ],
)
def test_what_is_no_tolerance_is_refused_by_value(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fraction(given)


@pytest.mark.parametrize(
    ("share", "shown"),
    [(1e-6, "+0.0001 %"), (-1e-6, "−0.0001 %"), (0.0004, "+0.04 %"), (0.05, "+5.0 %"), (0.0, "+0.0 %")],
)
def test_an_exact_change_is_never_shown_as_none(share: float, shown: str) -> None:
    assert percent(share, signed=True, exact=True) == shown


@given(st.floats(min_value=0.0002, max_value=0.9998))
def test_a_fraction_and_its_percentage_are_the_same_tolerance(value: float) -> None:
    assert fraction(f"{value * 100:.10f}%") == pytest.approx(value, abs=1e-11)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (50.0, "50"),
        (-3, "-3"),
        (4000, "4,000"),
        (999_999, "999,999"),
        (8.931, "8.93"),
        (12.14, "12.1"),
        (123.46, "123.5"),
        (999.96, "1,000.0"),
        (1234.6, "1,235"),
        (0.05, "0.0500"),
        (0.0012345, "0.00123"),
        (0.00012345, "0.000123"),
        (1_234_567, "1,234,567"),
        (1_234_567.8, "1,234,568"),
        (1_000_000_000, "1 G"),
        (1_234_567_890, "1.23 G"),
        (-12_345_678_900, "-12.3 G"),
        (248_000_000_000, "248.0 G"),
        (7_215_545_057_280, "7.22 T"),
        (3.2e15, "3.20 P"),
        (-8.931, "-8.93"),
    ],
)
def test_numbers_are_short(value: float, shown: str) -> None:
    assert short_number(value) == shown


@given(st.floats(min_value=1e-9, max_value=1e12) | st.floats(min_value=-1e12, max_value=-1e-9))
def test_a_short_number_keeps_three_significant_digits(value: float) -> None:
    shown, _, prefix = short_number(value).replace(",", "").partition(" ")
    assert float(shown) * {"": 1, "G": 1e9, "T": 1e12}[prefix] == pytest.approx(value, rel=0.005)


@given(st.floats(min_value=1e-3, max_value=1e17))
def test_a_short_number_has_no_exponent_from_a_thousandth_on(value: float) -> None:
    assert "e" not in short_number(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, 0), (0.01, 4), (0.5, 3), (1, 2), (9.99, 2), (10, 1), (100, 1), (999, 1), (1000, 0), (1e9, 0), (-5, 2)],
)
def test_decimals_leave_three_significant_digits(value: float, expected: int) -> None:
    assert decimals(value) == expected


@pytest.mark.parametrize(
    ("value", "spread", "shown"),
    [
        (8.12, 0.05, "8.12 ± 0.05"),
        (12.1, 0.34, "12.1 ± 0.3"),
        (2345.6, 12.3, "2,346 ± 12"),
        (2345.6, 1234.5, "2,346 ± 1,234"),
        (8.12, 0.004, "8.12"),
        (12.1, 0.0, "12.1"),
        (2345.6, 0.4, "2,346"),
    ],
)
def test_a_spread_has_the_decimals_of_its_value_and_goes_where_it_rounds_to_nothing(
    value: float, spread: float, shown: str
) -> None:
    assert plus_minus(value, spread) == shown


def test_a_whole_value_with_a_spread_has_the_decimals_of_its_spread() -> None:
    assert plus_minus(8.0, 0.05) == "8.00 ± 0.05"


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 bytes"),
        (512, "512 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (512 * 1024, "512.0 KiB"),
        (2**20, "1.0 MiB"),
        (1.9 * 2**30, "1.9 GiB"),
        (5 * 2**40, "5120.0 GiB"),
        (-2048, "-2.0 KiB"),
    ],
)
def test_bytes_are_told_in_the_largest_unit_that_leaves_a_whole(count: float, shown: str) -> None:
    assert short_bytes(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0, "1 s"), (20.4, "20 s"), (89.4, "89 s"), (90.0, "2 min"), (5400.0, "90 min")]
)
def test_durations_are_told_in_seconds_or_minutes(seconds: float, shown: str) -> None:
    assert short_duration(seconds) == shown


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (0, "with status 0"),
        (3, "with status 3"),
        (-15, "by SIGTERM"),
        (-9, "by SIGKILL (memory may have run out)"),
    ],
)
def test_the_end_of_a_process_is_told_by_its_status_or_signal(status: int, told: str) -> None:
    assert how_ended(status) == told
