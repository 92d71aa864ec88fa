"""Pairs of processes: who starts, who has the turn, and when the rounds are enough."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from pytest_llmperf.duet import alternation
from pytest_llmperf.duet.alternation import PairedRound, Side, differences, pair, take, values
from pytest_llmperf.duet.worker import Job, Ready
from pytest_llmperf.errors import TargetError
from pytest_llmperf.measure import Effort
from pytest_llmperf.model import Environment, Round, Trace, Workload
from pytest_llmperf.targets import LoadOptions, resolve
from tests.fakes import TINY

DONE = PairedRound("base", {"ttft_ms": 8.0}, {"ttft_ms": 8.0})


class FakeWorker:
    """Notes what it is told, in the order in which all are told."""

    told: list[str]
    failing: str | None = None

    def __init__(self, job: object, name: str) -> None:
        self.name = name
        self.ready = Ready(name, Workload(), Environment())
        self.note("made")

    def note(self, what: str) -> None:
        self.told.append(f"{self.name} {what}")

    def start(self) -> None:
        self.note("started")
        if self.failing == self.name:
            raise TargetError("none to be had")

    def round(self) -> Round:
        self.note("round")
        ttft = {"base": 1.0, "head": 1.5}[self.name]
        return Round((Trace(0.0, (ttft, ttft + 0.1), 8),))

    def close(self) -> None:
        self.note("closed")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(FakeWorker, "told", [], raising=False)
    monkeypatch.setattr(alternation, "Worker", FakeWorker)
    return FakeWorker.told


JOB = Job(resolve(TINY), LoadOptions("cpu"), Workload(8, 3), Effort(max_time=0.01))


def rounds(count: int, seed: int) -> list[PairedRound]:
    with pair(JOB, JOB, seed=seed) as running:
        return [running.round() for _ in range(count)]


@pytest.mark.parametrize(("first", "second"), [("base", "head"), ("head", "base")])
def test_the_second_process_is_started_when_the_first_is_warm(told: list[str], first: Side, second: Side) -> None:
    with pair(JOB, JOB, first=first):
        assert told == [f"{first} made", f"{first} started", f"{second} made", f"{second} started"]
    assert sorted(told[4:]) == ["base closed", "head closed"]


def test_both_sides_serve_each_round_and_what_they_served_is_told_apart(told: list[str]) -> None:
    taken = rounds(20, seed=3)
    turns_taken = [line for line in told if line.endswith("round")]
    for index, each in enumerate(taken):
        second = "head" if each.first == "base" else "base"
        assert turns_taken[2 * index : 2 * index + 2] == [f"{each.first} round", f"{second} round"]
        assert each.base == pytest.approx({"ttft_ms": 1000.0, "tpot_ms": 100.0})
        assert each.head == pytest.approx({"ttft_ms": 1500.0, "tpot_ms": 100.0})
    assert 4 <= sum(each.first == "base" for each in taken) <= 16


def test_the_order_of_turns_follows_from_the_seed(told: list[str]) -> None:
    orders = [[each.first for each in rounds(20, seed)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("failing", ["base", "head"])
def test_a_pair_of_which_one_cannot_start_leaves_no_process(
    told: list[str], monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    monkeypatch.setattr(FakeWorker, "failing", failing)
    with pytest.raises(TargetError, match="none to be had"), pair(JOB, JOB):
        pass
    assert {line.split()[0] for line in told if line.endswith("made")} == {
        line.split()[0] for line in told if line.endswith("closed")
    }


def test_an_interrupt_within_a_pair_leaves_no_process(told: list[str]) -> None:
    with pytest.raises(KeyboardInterrupt), pair(JOB, JOB):
        raise KeyboardInterrupt
    assert sorted(told[-2:]) == ["base closed", "head closed"]


def test_two_real_processes_of_one_model_serve_in_turns() -> None:
    with pair(JOB, JOB) as running:
        assert running.ready("base").target == running.ready("head").target == resolve(TINY).id
        taken = [running.round() for _ in range(2)]
    for each in taken:
        assert set(each.base) == set(each.head) == {"ttft_ms", "tpot_ms"}
        assert min(*each.base.values(), *each.head.values()) > 0


@pytest.mark.parametrize("enough_at", [8, 12, 18, 27, 40, 1000])
def test_rounds_end_at_the_look_that_finds_them_enough(enough_at: int) -> None:
    looks: list[int] = []

    def enough(rounds: Sequence[PairedRound]) -> bool:
        looks.append(len(rounds))
        return len(rounds) >= enough_at

    assert len(take(lambda: DONE, enough)) == min(enough_at, 40)
    assert looks == [look for look in (8, 12, 18, 27, 40) if look <= enough_at]


@pytest.mark.parametrize("count", [1, 9, 50])
def test_rounds_may_be_fixed(count: int) -> None:
    assert take(lambda: DONE, lambda rounds: True, count) == [DONE] * count
    assert len(take(lambda: DONE, lambda rounds: True, count, [DONE])) == count


def test_a_round_of_one_token_has_no_time_per_token() -> None:
    assert values(Round((Trace(0.0, (0.25,), 8),))) == {"ttft_ms": 250.0}


def test_differences_are_positive_where_head_is_slower() -> None:
    slower = PairedRound("head", {"ttft_ms": 8.0}, {"ttft_ms": 10.0})
    assert differences([slower, DONE], "ttft_ms") == pytest.approx([math.log(1.25), 0.0])
