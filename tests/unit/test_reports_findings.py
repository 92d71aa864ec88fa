"""What is worth a sentence, on both sides of each threshold."""

from __future__ import annotations

import dataclasses

import pytest

from pytest_llmperf.model import Operator, Phase, Unknown
from pytest_llmperf.profiling import roofline, room
from pytest_llmperf.reports.findings import (
    cold_start,
    compiled_anew,
    decode_overhead,
    findings,
    no_cache,
    outside_of_operators,
    prefill_overhead,
    slower_with_the_prompt,
    waits,
)
from tests.profiles import UNSEEN, mission, phase, work

AT = "with a prompt of 32 tokens, "


def test_what_fits_is_told_of_the_longest_prompt_and_how_fast_it_could_be_of_the_middle_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missions = [mission(32), mission(128), mission(512)]
    monkeypatch.setattr(room, "sentences", lambda picture: [f"fits beside {picture.workload.prompt_tokens}"])
    monkeypatch.setattr(roofline, "findings", lambda measured: [f"reads after {measured.workload.prompt_tokens}"])
    assert findings(missions) == ["with a prompt of 128 tokens, reads after 128", "fits beside 512"]


def test_an_uneventful_mission_has_no_findings() -> None:
    assert findings([mission()]) == []


def test_a_cold_start_is_told_by_the_worst_of_all_lengths() -> None:
    missions = [mission(32, cold=0.8, warm=0.02), mission(128, cold=0.1, warm=0.02)]
    assert cold_start(missions) == f"{AT}a cold start costs 40 times a warm first token (800 → 20 ms)"
    assert cold_start(missions[::-1]) == cold_start(missions)


@pytest.mark.parametrize(("cold", "told"), [(0.0399, False), (0.0401, True)])
def test_a_cold_start_is_told_from_twice_on(cold: float, told: bool) -> None:
    assert bool(cold_start([mission(cold=cold, warm=0.02)])) is told


def test_a_first_request_faster_than_the_clock_is_no_division_by_zero() -> None:
    assert cold_start([mission(cold=0.1, warm=0.0)]) is None


@pytest.mark.parametrize(("long", "told"), [(0.00624, False), (0.00626, True)])
def test_tokens_that_take_longer_after_a_longer_prompt_are_told(long: float, told: bool) -> None:
    found = slower_with_the_prompt([mission(32, per_token=0.005), mission(512, per_token=long)])
    assert (found == "a token after 512 takes 1.3 times as long as one after 32") is told
    assert (found is None) is not told


def test_one_length_or_one_token_tells_nothing_of_longer_prompts() -> None:
    assert slower_with_the_prompt([mission()]) is None
    assert slower_with_the_prompt([mission(32, per_token=None), mission(512, per_token=0.1)]) is None


@pytest.mark.parametrize(("ms", "told"), [(1.98, False), (2.02, True)])
def test_overhead_is_told_from_a_fifth_of_a_phase_on(ms: float, told: bool) -> None:
    seen = phase(addmm=5, copy_=ms)
    assert bool(decode_overhead([mission(decode=seen)])) is told
    assert bool(prefill_overhead([mission(prefill=seen)])) is told


def test_overhead_names_the_operator_with_most_of_it() -> None:
    seen = phase(addmm=5, cat=1, copy_=2.8)
    assert decode_overhead([mission(decode=seen)]) == (
        f"{AT}38 % of decode is overhead, most of it aten::copy_ (2 calls per token)"
    )
    assert prefill_overhead([mission(prefill=seen)]) == (
        f"{AT}38 % of prefill is overhead, most of it aten::copy_ (2 calls)"
    )


@pytest.mark.parametrize(("ms", "told"), [(6.02, False), (5.98, True)])
def test_time_outside_of_operators_is_told_from_two_fifths_on(ms: float, told: bool) -> None:
    found = outside_of_operators([mission(decode=phase(addmm=ms))])
    assert (found is not None) is told
    if found:
        assert found == f"{AT}40 % of decode is in no operator, but in Python between them (and in the profiler)"


def test_an_idle_device_is_told_as_one() -> None:
    row = Operator("aten::mm", 1.0, host=0.009, device=0.004)
    busy = Phase(1.0, 1.0, 1.0, 0.010, (row,))
    assert outside_of_operators([mission(decode=busy)]) == (
        f"{AT}the device has nothing to do for 60 % of decode: the host does not keep up with it"
    )


@pytest.mark.parametrize(
    ("syncs", "told"),
    [
        (0.0, None),
        (1.0, f"{AT}one scalar is read per token, by which generate() learns whether to stop"),
        (5.0, f"{AT}the host waits 5 times per token, where generate() itself needs one wait"),
        (Unknown("not seen"), None),
    ],
)
def test_waits_are_told_and_whose_they_are(syncs: float | Unknown, told: str | None) -> None:
    seen = dataclasses.replace(phase(addmm=10), syncs=syncs)
    assert waits([mission(decode=seen)]) == told


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ((100, 101, 102), False),  # a token's work, and attention over one more
        ((999, 1010, 1020), False),
        ((1000, 1010, 1020), True),
        ((1000, 1000, 1000), False),
        ((), False),
    ],
)
def test_a_cache_that_is_not_used_is_told_by_work_that_grows_from_prefill_on(
    steps: tuple[int, ...], told: bool
) -> None:
    found = no_cache([mission(flops_by_step=steps, prefill_work=work(1000))])
    assert (found is not None) is told
    if found:
        assert "(1e+03 → 1.02e+03 over 3 tokens)" in found
        assert found.endswith("is the cache used?")


def test_a_single_token_of_prompt_tells_nothing_of_the_cache() -> None:
    assert no_cache([mission(1, flops_by_step=(1000, 1010), prefill_work=work(1000))]) is None
    assert no_cache([mission(flops_by_step=(1000, 1010))]) is None, "prefill was not counted"


@pytest.mark.parametrize(("compiles", "told"), [(0, False), (1, True), (Unknown("not seen"), False)])
def test_graphs_compiled_while_warm_are_told(compiles: int | Unknown, told: bool) -> None:
    found = compiled_anew([mission(compiles=compiles)])
    assert found == (f"{AT}1 graph was compiled anew, or broken, in 0 warm rounds" if told else None)


def test_findings_on_operators_are_those_of_the_middle_length() -> None:
    heavy = phase(addmm=2, copy_=8)
    missions = [mission(32), mission(128, decode=heavy), mission(512)]
    assert findings(missions)[0].startswith("with a prompt of 128 tokens, 80 % of decode is overhead")
    assert findings([mission(32, decode=heavy), mission(128), mission(512)]) == []


def test_what_was_not_profiled_is_no_finding() -> None:
    assert findings([mission(prefill=UNSEEN, decode=UNSEEN)]) == []
