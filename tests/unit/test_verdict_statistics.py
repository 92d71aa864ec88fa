"""Intervals that cover what they promise, from whole rounds; percentiles only where they exist."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llmperf.model import STATISTICS, Sample
from pytest_llmperf.verdict.statistics import interval, samples_needed, supported


@pytest.mark.parametrize(
    ("statistic", "needed"),
    [("median", 1), ("mean", 1), ("min", 1), ("max", 1), ("p50", 1), ("p90", 10), ("p95", 20), ("p99", 100)],
)
def test_a_statistic_needs_at_least_one_value_beyond_it(statistic: str, needed: int) -> None:
    assert samples_needed(statistic) == needed
    assert supported([1.0] * needed, statistic)
    assert not supported([1.0] * (needed - 1), statistic)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_one_round_has_no_interval(statistic: str) -> None:
    assert interval(Sample([[1.0, 2.0, 3.0]]), statistic) is None


@pytest.mark.parametrize("statistic", STATISTICS)
def test_rounds_that_do_not_differ_have_an_interval_of_no_width(statistic: str) -> None:
    assert interval(Sample([[4.0, 4.0]] * 5), statistic) == (4.0, 4.0)


def test_the_interval_resamples_whole_rounds() -> None:
    """Two rounds of zeros and two of ones: one in 16 draws of four rounds is all of one kind, so the 95 %
    percentile interval of the mean is 0.5 ± 0.5, stretched by √(4/3)·3.182/1.960 = 1.875. Drawn singly, 400
    values would have a mean within 0.5 ± 0.05.
    """
    sample = Sample([[0.0] * 100, [0.0] * 100, [1.0] * 100, [1.0] * 100])
    assert interval(sample, "mean") == pytest.approx((0.5 - 0.9374, 0.5 + 0.9374), abs=1e-4)


@pytest.mark.parametrize("count", [3, 5])
def test_few_rounds_do_not_make_an_interval_look_sure(count: int) -> None:
    """The bare percentile interval of three rounds covers the mean three times in four; this one keeps its word."""
    draw = np.random.default_rng(11)
    spreads = [interval(Sample(draw.normal(10, 1, size=(count, 1)).tolist()), "mean") for _ in range(300)]
    assert sum(low <= 10 <= high for low, high in spreads) / 300 >= 0.88


def test_more_values_per_round_do_not_narrow_an_interval_that_the_rounds_determine() -> None:
    few = interval(Sample([[float(k)] for k in range(12)]), "mean")
    many = interval(Sample([[float(k)] * 50 for k in range(12)]), "mean")
    assert many == pytest.approx(few)


@pytest.mark.parametrize("statistic", ["median", "p50", "mean"])
def test_the_interval_covers_the_true_value_about_as_often_as_it_says(statistic: str) -> None:
    """Rounds that differ by 1 (standard deviation) around 10, values within them by 0.5."""
    draw = np.random.default_rng(20_240_601)
    covered = 0
    for _ in range(300):
        rounds = 10 + draw.normal(0, 1, size=(30, 1)) + draw.normal(0, 0.5, size=(30, 4))
        low, high = interval(Sample(rounds.tolist()), statistic)
        covered += low <= 10 <= high
    assert 0.88 <= covered / 300 <= 0.99


def test_the_interval_narrows_with_the_square_root_of_the_rounds() -> None:
    draw = np.random.default_rng(7)

    def typical_width(count: int) -> float:
        spreads = [interval(Sample(draw.normal(10, 1, size=(count, 1)).tolist()), "mean") for _ in range(20)]
        return float(np.mean([high - low for low, high in spreads]))

    assert typical_width(25) / typical_width(100) == pytest.approx(2, rel=0.15)


def test_the_same_sample_always_has_the_same_interval() -> None:
    rounds = [[1.0, 5.0], [2.0, 4.0], [9.0, 3.0]]
    assert interval(Sample(rounds), "median") == interval(Sample(rounds), "median")


def test_rounds_of_different_lengths_still_have_an_interval() -> None:
    low, high = interval(Sample([[1.0, 1.0, 1.0], [3.0], [2.0, 2.0]]), "mean")
    assert low < 2.0 < high


_rounds = st.integers(1, 4).flatmap(
    lambda length: st.lists(st.lists(st.floats(-1e6, 1e6), min_size=length, max_size=length), min_size=2, max_size=12)
)


@settings(deadline=None, max_examples=50)
@given(_rounds, st.sampled_from(STATISTICS))
def test_an_interval_holds_the_estimate(rounds: list[list[float]], statistic: str) -> None:
    sample = Sample(rounds)
    low, high = interval(sample, statistic)
    assert low <= sample.statistic(statistic) <= high


@settings(deadline=None, max_examples=50)
@given(_rounds, st.sampled_from(["mean", "median", "p90"]))
def test_an_interval_moves_and_scales_with_its_sample(rounds: list[list[float]], statistic: str) -> None:
    low, high = interval(Sample(rounds), statistic)
    moved = interval(Sample([[2 * value + 10 for value in values] for values in rounds]), statistic)
    assert moved == pytest.approx((2 * low + 10, 2 * high + 10), rel=1e-9, abs=1e-6)
