"""When the rounds of a pair are enough."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from pytest_llmperf.duet.pairs import MOST_ROUNDS, PairedRound, differences, metrics_of, take
from pytest_llmperf.duet.script import Pace, Script, Scripts, scripts
from pytest_llmperf.duet.sides import pairs_of
from pytest_llmperf.verdict.comparison import Noise, precise
from tests.fakes import FakeClock

WHOLE = PairedRound({"ttft_ms": 8.0, "tpot_ms": 2.0}, {"ttft_ms": 8.0, "tpot_ms": 2.0})
ALONE = PairedRound({"ttft_ms": 8.0}, {"ttft_ms": 8.0})
AFTER = PairedRound({"tpot_ms": 2.0}, {"tpot_ms": 2.0})
KINDS = {"whole": WHOLE, "prefills": ALONE, "decoding": AFTER}
DECODE, PREFILL = "tpot_ms", "ttft_ms"
LOOKS = [8, 12, 18, 27, 41, 62, 93, 140]


def drawn() -> Scripts:
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
        self.kinds.append("prefills" if not script.decodes else "whole" if script.prefills else "decoding")
        return KINDS[self.kinds[-1]]

    def enough(self, rounds: Sequence[PairedRound], metrics: Sequence[str]) -> bool:
        assert rounds == [KINDS[kind] for kind in self.kinds]
        self.looks.append((len(rounds), list(metrics)))
        needed = {DECODE: self.decode, PREFILL: self.prefill}
        return all(len(rounds) >= needed[name] for name in metrics)

    def take(self, **how: Any) -> list[tuple[str, int]]:
        """Runs of one kind of round, and how many rounds each has."""
        taken = take(self.serve, drawn(), self.enough, clock=self.clock, **how)
        assert len(taken) == len(self.kinds)
        return [(kind, len(list(run))) for kind, run in itertools.groupby(self.kinds)]


@pytest.mark.parametrize(("needed", "rounds"), [(1, 8), (8, 8), (9, 12), (18, 18), (28, 41), (141, 200), (9999, 200)])
def test_rounds_end_at_the_look_that_finds_them_precise(needed: int, rounds: int) -> None:
    course = Course(decode=needed, prefill=needed)
    assert course.take() == [("whole", rounds)]
    assert MOST_ROUNDS == 200
    for metrics in ([DECODE], [PREFILL]):
        assert [count for count, seen in course.looks if seen == metrics] == [look for look in LOOKS if look <= rounds]


@pytest.mark.parametrize(("needed", "rounds"), [(12, (8, 4)), (20, (18, 9)), (9999, (18, 182))])
def test_what_is_not_precise_yet_goes_on_alone(needed: int, rounds: tuple[int, int]) -> None:
    first, then = rounds
    assert Course(prefill=needed, decode=min(first, needed)).take() == [("whole", first), ("prefills", then)]
    assert Course(decode=needed, prefill=min(first, needed)).take() == [("whole", first), ("decoding", then)]


def test_what_was_precise_and_is_not_any_more_goes_on_again() -> None:
    course = Course(decode=9999)
    course.enough = lambda rounds, metrics: metrics == [PREFILL] and len(rounds) != 12  # type: ignore[method-assign]
    assert course.take(most=20) == [("whole", 8), ("decoding", 4), ("whole", 6), ("decoding", 2)]


@pytest.mark.parametrize(("seconds", "rounds"), [(8.0, 8), (3.0, 8), (8.5, 12), (30.0, 41)])
def test_time_ends_rounds_at_the_next_look(seconds: float, rounds: int) -> None:
    assert Course(decode=9999, prefill=9999).take(seconds=seconds) == [("whole", rounds)]


@pytest.mark.parametrize(("seconds", "rounds"), [(5.0, 3), (20.0, 3), (40.0, 4), (60.0, 6), (79.0, 8), (90.0, 8)])
def test_rounds_so_long_that_no_look_comes_in_time_end_before_it_but_not_before_the_third(
    seconds: float, rounds: int
) -> None:
    assert Course(decode=9999, prefill=9999, seconds=30.0).take(seconds=seconds) == [("whole", rounds)]


@pytest.mark.parametrize("count", [1, 9, 300])
def test_rounds_that_are_fixed_are_neither_looked_at_nor_timed(count: int) -> None:
    course = Course(decode=9999, prefill=9999)
    assert course.take(rounds=count, seconds=0.1) == [("whole", count)]
    assert not course.looks


@pytest.mark.parametrize("most", [40, 5])
def test_there_may_be_fewer_at_most(most: int) -> None:
    assert Course(decode=9999, prefill=9999).take(most=most) == [("whole", most)]
    assert sum(count for _, count in Course(prefill=9999).take(most=most)) == most


def test_decoding_goes_on_while_it_is_wanted_for_something_else() -> None:
    course = Course()
    assert course.take(settled=lambda: len(course.kinds) >= 20) == [("whole", 8), ("decoding", 19)]


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
