"""A mission on a clock that moves only when told: cold is the first request, warm the median of the rounds."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_llmperf.measure import Effort, measure
from pytest_llmperf.measure.mission import Mission, fly
from pytest_llmperf.model import Measurement, Workload
from pytest_llmperf.targets import Request
from tests.fakes import FakeClock, FakeTarget


def flown(target: FakeTarget, output_tokens: int = 4) -> Mission:
    workload = Workload(16, output_tokens)

    def measured() -> Measurement:
        return measure(target, workload, Effort(rounds=3, threads=None), clock=target.clock)

    return fly(target, workload, None, measured, target.clock)


def test_cold_is_the_first_request_and_warm_the_median_of_rounds() -> None:
    seen = flown(
        FakeTarget(FakeClock(), ttft=0.1, gap=0.01, scales=[8.0, 2.0, 2.0, 1.0, 3.0, 1.5])
    )  # two of them warm up
    assert seen.prompt_tokens == 16
    assert seen.cold.ttft == pytest.approx(0.8)
    assert seen.cold.steady == pytest.approx(0.24)
    assert seen.cold.per_token == pytest.approx(0.08)
    assert seen.cold.rate == pytest.approx(4 / 1.04)
    assert seen.warm.ttft == pytest.approx(0.15)
    assert seen.warm.steady == pytest.approx(0.045)
    assert seen.warm.per_token == pytest.approx(0.015)
    assert seen.warm.rate == pytest.approx(4 / 0.195)
    assert seen.cold.tokens == seen.warm.tokens == 4


def test_the_cold_first_token_of_the_measurement_is_that_of_the_mission() -> None:
    """Its own first round comes after a request, however freshly the target was loaded."""
    target = FakeTarget(FakeClock(), ttft=0.1, scales=[8.0, 2.0])
    workload = Workload(16, 4)

    def measured() -> Measurement:
        return measure(target, workload, Effort(rounds=3, threads=None), load=1.0, clock=target.clock)

    assert fly(target, workload, None, measured, target.clock).measurement.cold_ttft_ms == pytest.approx(800)


def test_memory_is_looked_at_when_warm_and_the_resident_set_both_times() -> None:
    target = FakeTarget(FakeClock())
    target.device.peak = 5 * 2**20
    seen = flown(target)
    assert seen.warm.peak_memory == 105 * 2**20
    assert seen.cold.peak_memory is None
    assert seen.cold.peak_rss is not None
    assert seen.warm.peak_rss is not None


def test_a_single_token_has_no_time_per_token() -> None:
    seen = flown(FakeTarget(FakeClock()), output_tokens=1)
    assert seen.cold.per_token is None
    assert seen.warm.per_token is None


def test_without_a_tokenizer_no_time_of_one_is_told() -> None:
    seen = flown(FakeTarget(FakeClock()))
    assert seen.cold.tokenize is None
    assert seen.warm.tokenize is None


class Tokenizer:
    """Takes a second the first time, then less each time."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.texts: list[str] = []

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))

    def __call__(self, text: str) -> None:
        self.texts.append(text)
        self.clock.advance(1 / len(self.texts))


class WithTokens(FakeTarget):
    def request(self, workload: Workload, seed: int) -> Request:
        return Request(workload, {"input_ids": [[seed, 7]]})


def test_the_tokenizer_is_timed_on_the_text_of_the_prompt_cold_once_and_warm_by_the_median() -> None:
    clock = FakeClock()
    tokenizer: Any = Tokenizer(clock)
    seen = flown(WithTokens(clock, tokenizer=tokenizer))
    assert seen.cold.tokenize == pytest.approx(1.0)
    assert seen.warm.tokenize == pytest.approx(1 / 4)  # of a half, a third, … a sixth
    assert len(set(tokenizer.texts)) == 1
    assert seen.cold.ttft == pytest.approx(0.1), "tokenizing is no part of it"
