"""What a calibration prints."""

from __future__ import annotations

import dataclasses

import pytest

from pytest_llmperf.reports.noise import Level, noise_text
from pytest_llmperf.verdict.comparison import Noise

NOISE = Noise(0.006, 0.05, df=10, calibrated=True)
ASSUMED = Level("tpot_ms", NOISE, rounds=0.09, error=0.008, pairs=10, sessions_measured=False)
MEASURED = dataclasses.replace(ASSUMED, noise=Noise(0.006, 0.012, df=10, session_df=9.0), sessions_measured=True)


def text(*levels: Level, width: int = 100) -> str:
    return noise_text(levels, 0.05, 8, width, False)


def test_the_levels_of_each_metric_stand_in_a_row() -> None:
    told = text(ASSUMED, dataclasses.replace(MEASURED, metric="ttft_ms"))
    assert "tpot_ms                9 %               0.6 %        5 % assumed" in told
    assert "ttft_ms                9 %               0.6 %              1.2 %" in told


def test_what_each_comparison_sees_stands_beside_it_and_more_sessions_see_more() -> None:
    [line] = [line for line in text(MEASURED).splitlines() if line.count("%") == 4]
    shown = [float(figure) for figure in line.replace("%", "").split()[1:]]
    assert shown == sorted(shown, reverse=True)
    assert 4 <= shown[-1] <= 6


def test_what_lies_between_sessions_is_called_assumed_until_it_is_known() -> None:
    assert "not known until the same is calibrated on three days" in text(ASSUMED)
    assert "three days" not in text(MEASURED)
    drifting = dataclasses.replace(ASSUMED, noise=dataclasses.replace(NOISE, session=0.4))
    assert "at least 40 %" in text(drifting)


def test_a_spread_of_processes_that_is_hidden_is_not_shown_as_known() -> None:
    hidden = dataclasses.replace(ASSUMED, noise=dataclasses.replace(NOISE, process=0.002, df=1.0), error=0.031)
    assert "below 3.1 %" in text(hidden)
    assert "hidden for tpot_ms by what lies within them; more pairs" in text(hidden)
    assert "below" not in text(ASSUMED)


def test_two_kinds_of_processes_are_named_with_what_follows() -> None:
    two = dataclasses.replace(ASSUMED, noise=dataclasses.replace(NOISE, bimodal=True))
    assert "two kinds, 0.6 %" in text(two)
    assert "nothing is REGRESSED before three of them agree" in text(two)
    assert "two kinds" not in text(ASSUMED)


def test_a_change_that_only_a_multiple_would_show_is_not_given_in_percent() -> None:
    wild = dataclasses.replace(ASSUMED, noise=dataclasses.replace(NOISE, session=1.0))
    assert text(wild).count("> 100 %") == 3


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    hidden = dataclasses.replace(ASSUMED, noise=Noise(0.002, 0.648, df=1.0, bimodal=True), error=0.031)
    assert max(map(len, text(hidden, MEASURED, width=width).splitlines())) <= width
