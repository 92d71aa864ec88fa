"""What a baseline keeps of a profile."""

from __future__ import annotations

import pytest

from pytest_llmperf.model import Counts, Operator, Phase, Unknown
from pytest_llmperf.profiling.kept import ALLOCATIONS, OTHERS, OUTSIDE, VIEWS, Kept, kept

MS = 1e-3


def of(*operators: Operator, seconds: float = 10 * MS, **counts: object) -> Kept:
    return kept(Counts(decode=Phase(1, 1, 1, seconds, operators), **counts))


def test_calls_and_times_are_kept_by_operator_and_phase() -> None:
    addmm = Operator("aten::addmm", 8, 2 * MS)
    seen = kept(Counts(Phase(seconds=4 * MS, operators=(addmm,)), Phase(seconds=2 * MS, operators=(addmm,))))
    assert seen.calls == {"aten::addmm": {"prefill": 8, "decode": 8}}
    assert seen.times["aten::addmm"] == {"prefill": [2.0], "decode": [2.0]}
    assert seen.times[OUTSIDE] == {"prefill": [2.0], "decode": [0.0]}


def test_what_was_not_seen_is_not_kept() -> None:
    assert kept(Counts()) == Kept()
    assert of(seconds=Unknown("no step was seen")).times == {}


def test_views_and_allocations_are_put_together() -> None:
    seen = of(Operator("aten::view", 3, MS), Operator("aten::t", 2, MS), Operator("aten::empty_like", 4, MS))
    assert seen.calls == {VIEWS: {"decode": 5}, ALLOCATIONS: {"decode": 4}}
    assert seen.times[VIEWS] == {"decode": [2.0]}


@pytest.mark.parametrize("name", ["aten::linear", "aten::to", "cudaLaunchKernel", "some range of a user"])
def test_what_only_calls_others_or_is_no_operator_has_no_calls(name: str) -> None:
    assert of(Operator(name, 3, MS)).calls == {}


def test_waits_for_the_device_have_calls() -> None:
    assert of(Operator("cudaStreamSynchronize", 1, MS)).calls == {"cudaStreamSynchronize": {"decode": 1}}


def test_an_operator_below_half_a_percent_of_its_phase_keeps_its_calls_alone() -> None:
    seen = of(Operator("aten::bmm", 1, 9.9 * MS), Operator("aten::mm", 1, 51e-6), Operator("aten::sub", 1, 49e-6))
    assert set(seen.calls) == {"aten::bmm", "aten::mm", "aten::sub"}
    assert set(seen.times) == {"aten::bmm", "aten::mm", OTHERS, OUTSIDE}
    assert seen.times[OTHERS] == {"decode": [0.049]}


def test_device_time_stands_beside_that_of_the_host() -> None:
    assert of(Operator("aten::mm", 1, 1 * MS, 3 * MS)).times["aten::mm"] == {"decode": [1.0, 3.0]}


def test_times_have_three_digits_and_calls_of_a_mean_step_three_decimals() -> None:
    seen = of(Operator("aten::mm", 10 / 3, 1.23456 * MS))
    assert seen.times["aten::mm"] == {"decode": [1.23]}
    assert seen.calls == {"aten::mm": {"decode": 3.333}}


def test_a_time_that_rounding_made_less_than_nothing_is_none() -> None:
    """A baseline with such a time could not be read."""
    assert of(Operator("aten::mm", 1, 1 * MS), Operator("aten::add", 1, 1 * MS, -1e-9)).times["aten::add"] == {
        "decode": [1.0, 0.0]
    }


def test_of_flops_the_first_step_and_the_last_are_kept() -> None:
    assert of(flops_by_step=(5, 6, 7)).decode_flops == (5, 7)
    assert of(flops_by_step=(5,)).decode_flops == (5, 5)
