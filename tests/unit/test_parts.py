"""What ranks saw is put together: times by the slowest, amounts added up."""

from __future__ import annotations

import dataclasses

import pytest

from pytest_llmperf.errors import MeasurementError
from pytest_llmperf.model import Conditions, Gpu, Memory, Trace, Unknown, Work
from pytest_llmperf.parts import conditions_of, latest, least, summed

WHY = Unknown("nobody knows")
ONE = Trace(100.0, (101.0, 101.5, 103.0), 8, prefill=0.5, tokenize=0.2, device_arrivals=(0.6, 0.8, 0.9))
OTHER = Trace(7.0, (7.5, 9.0, 9.5), 8, prefill=0.7, tokenize=0.1, device_arrivals=(0.5, 0.9, 1.0))
"""By the clock of another machine."""


def test_a_token_has_arrived_when_the_slowest_rank_has_it() -> None:
    for traces in ([ONE, OTHER], [ONE, OTHER, ONE]):
        seen = latest(traces)
        assert (seen.sent, seen.arrivals) == (100.0, (101.0, 102.0, 103.0))
        assert (seen.prefill, seen.tokenize, seen.device_arrivals) == (0.7, 0.2, (0.6, 0.9, 1.0))
    assert latest([OTHER, ONE]).arrivals == (8.0, 9.0, 10.0)


def test_what_one_rank_does_not_know_is_unknown() -> None:
    seen = latest([dataclasses.replace(ONE, detokenize=0.1), dataclasses.replace(OTHER, prefill=WHY, detokenize=WHY)])
    assert seen.prefill == seen.detokenize == WHY


@pytest.mark.parametrize("other", [{"arrivals": (8.0, 9.0)}, {"counts": (1, 2, 1)}])
def test_ranks_in_lockstep_see_the_same_arrivals(other: dict[str, object]) -> None:
    with pytest.raises(MeasurementError, match=r"rank 0.*rank 1"):
        latest([ONE, dataclasses.replace(OTHER, **other)])


def test_amounts_are_added_up() -> None:
    one = Memory(weights=5, kv_cache=1, peak_growth=3, process_gpu=WHY)
    other = dataclasses.replace(one, weights=6, kv_cache=0, process_gpu=7)
    assert summed([one, other]) == dataclasses.replace(one, weights=11, kv_cache=1, peak_growth=6)
    assert summed([one]) == one
    assert summed([Work(2.5, 4), Work(1, WHY)]) == Work(3.5, WHY)


def test_the_least_is_what_all_have() -> None:
    assert least([5, 3, 4]) == 3
    assert least([5, WHY]) == WHY


def test_conditions_are_those_of_all_ranks() -> None:
    one = Conditions(0.1, 0.0, 4, withheld=0.3, gpus=(Gpu("cuda:0"),), again=2)
    other = Conditions(0.1, 0.5, 4, withheld=0.0, gpus=(Gpu("cuda:1"),), again=2)
    assert conditions_of([one, other]) == Conditions(
        0.1, 0.5, 4, withheld=0.3, gpus=(Gpu("cuda:0"), Gpu("cuda:1")), again=2
    )
    assert conditions_of([one]) == one
