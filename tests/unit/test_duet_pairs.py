"""When the rounds of a pair are enough."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from pytest_llmperf.duet.pairs import MOST_ROUNDS, PairedRound, differences, metrics_of, take
from pytest_llmperf.duet.script import Pace, Script, scripts
from pytest_llmperf.duet.sides import pairs_of
from pytest_llmperf.verdict.comparison import Noise, precise
from tests.fakes import FakeClock

WHOLE = PairedRound({"ttft_ms": 8.0, "tpot_ms": 2.0}, {"ttft_ms": 8.0, "tpot_ms": 2.0})
ALONE = PairedRound({"ttft_ms": 8.0}, {"ttft_ms": 8.0})
DECODE, PREFILL = "tpot_ms", "ttft_ms"
LOOKS = [8, 12, 18, 27, 41, 62, 93, 140]


def drawn() -> tuple[Iterator[Script], Iterator[Script]]:
    pace = Pace(0.002, 0.02, rests=True)
    return scripts((pace, pace), 32, seed=1)


@dataclass
class Course:
    """Rounds of `seconds` each, precise from so many on; notes what is served and looked at."""

    decode: float = 0
    prefill: float = 0
    seconds: float = 1.0
    clock: FakeClock = field(default_factory=FakeClock)
    kinds: list[str] = field(default_factory=list)
    looks: list[tuple[int, list[str]]] = field(default_factory=list)

    def serve(self, script: Script) -> PairedRound:
        self.clock.advance(self.seconds)
        self.kinds.append("whole" if script.decodes else "alone")
        return WHOLE if script.decodes else ALONE

    def enough(self, rounds: Sequence[PairedRound], metrics: Sequence[str]) -> bool:
        assert [*self.kinds].count("alone") == sum(each is ALONE for each in rounds)
        self.looks.append((len(rounds), list(metrics)))
        needed = {DECODE: self.decode, PREFILL: self.prefill}
        return all(len(rounds) >= needed[name] for name in metrics)

    def take(self, **how: Any) -> tuple[int, int]:
        taken = take(self.serve, drawn(), self.enough, clock=self.clock, **how)
        assert len(taken) == len(self.kinds)
        assert self.kinds == sorted(self.kinds, reverse=True), "prefills alone come last"
        return self.kinds.count("whole"), self.kinds.count("alone")


@pytest.mark.parametrize(("needed", "rounds"), [(1, 8), (8, 8), (9, 12), (18, 18), (28, 41), (141, 200), (9999, 200)])
def test_whole_rounds_end_at_the_look_that_finds_them_precise(needed: int, rounds: int) -> None:
    course = Course(decode=needed)
    assert course.take() == (rounds, 0)
    assert MOST_ROUNDS == 200
    looked = [count for count, metrics in course.looks if metrics == [DECODE]]
    assert looked == [look for look in LOOKS if look <= rounds]


@pytest.mark.parametrize(("needed", "rounds"), [(12, (8, 4)), (20, (8, 19)), (9999, (8, 192))])
def test_prefills_alone_go_on_until_they_are_precise_too(needed: int, rounds: tuple[int, int]) -> None:
    course = Course(prefill=needed)
    assert course.take() == rounds
    assert {tuple(metrics) for _, metrics in course.looks} == {(DECODE,), (PREFILL,)}


def test_prefills_are_looked_at_as_rarely_as_whole_rounds_are() -> None:
    course = Course(decode=20, prefill=9999)
    assert course.take() == (27, 173)
    assert [count for count, metrics in course.looks if metrics == [PREFILL]] == [27, 41, 62, 93, 140]


def test_prefills_that_are_precise_by_then_take_no_rounds_of_their_own() -> None:
    assert Course(decode=12, prefill=10).take() == (12, 0)


@pytest.mark.parametrize(("seconds", "rounds"), [(8.0, 8), (1.0, 8), (8.5, 12), (30.0, 41)])
def test_time_ends_whole_rounds_at_the_next_look_but_never_before_the_first(seconds: float, rounds: int) -> None:
    assert Course(decode=9999, prefill=9999).take(seconds=seconds) == (rounds, 0)


def test_time_ends_prefills_alone_at_once() -> None:
    assert Course(prefill=9999).take(seconds=30.0) == (8, 22)


@pytest.mark.parametrize("count", [1, 9, 300])
def test_rounds_that_are_fixed_are_neither_looked_at_nor_timed(count: int) -> None:
    course = Course(decode=9999, prefill=9999)
    assert course.take(rounds=count, seconds=3.0) == (count, 0)
    assert not course.looks


@pytest.mark.parametrize(("most", "rounds"), [(40, (40, 0)), (5, (5, 0))])
def test_there_may_be_fewer_at_most(most: int, rounds: tuple[int, int]) -> None:
    assert Course(decode=9999, prefill=9999).take(most=most) == rounds
    assert sum(Course(prefill=9999).take(most=most)) == most


def test_whole_rounds_go_on_while_they_are_wanted_for_something_else() -> None:
    course = Course()
    assert course.take(settled=lambda: len(course.kinds) >= 20) == (27, 0)


@pytest.mark.parametrize("factor", [0.5, 1.04, 1.05, 3.0])
def test_when_rounds_end_does_not_depend_on_the_difference_that_they_show(factor: float) -> None:
    def taken(factor: float) -> list[PairedRound]:
        steps = itertools.count()

        def serve(script: Script) -> PairedRound:
            value = factor * math.exp(0.03 * math.sin(next(steps)))
            return PairedRound({DECODE: 1.0, PREFILL: 1.0}, {DECODE: value, PREFILL: value})

        def enough(rounds: Sequence[PairedRound], metrics: Sequence[str]) -> bool:
            return all(precise(pair, Noise(0.0, 0.0)) for pair in pairs_of(rounds, metrics).values())

        return take(serve, drawn(), enough)

    assert 8 < len(taken(factor)) == len(taken(1.0)) < MOST_ROUNDS


def test_differences_are_positive_where_head_is_slower_and_only_of_rounds_that_have_the_metric() -> None:
    slower = PairedRound({PREFILL: 8.0, DECODE: 1.0}, {PREFILL: 10.0})
    assert differences([slower, WHOLE], PREFILL) == pytest.approx([math.log(1.25), 0.0])
    assert differences([slower, WHOLE, ALONE], DECODE) == [0.0]


def test_a_metric_counts_as_soon_as_both_sides_have_it_in_any_round() -> None:
    one_sided = PairedRound({"prefill_ms": 1.0}, {})
    assert metrics_of([one_sided, ALONE, WHOLE]) == [PREFILL, DECODE]
    assert metrics_of([]) == []
    assert set(pairs_of([one_sided, ALONE, WHOLE], ["prefill_ms", DECODE])) == {DECODE}
