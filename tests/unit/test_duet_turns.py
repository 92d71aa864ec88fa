"""One side at its turns: never at work together with the other, and its times are those of its own work."""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
import threading
from dataclasses import dataclass, field
from queue import SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.duet.script import SIDES, Pace, Script, Side, other, scripts
from pytest_llmperf.duet.turns import Played, Player, TurnClock, Turns, pace_of
from pytest_llmperf.measure import server
from pytest_llmperf.model import Trace, Workload
from pytest_llmperf.targets import Clock, Request
from pytest_llmperf.targets.protocol import Rest, no_rest
from tests.fakes import FakeClock, FakeServer, FakeTarget, serving

WORKLOAD = Workload(prompt_tokens=8, output_tokens=101)
PACE = Pace(gap=0.001, ttft=0.01, rests=True)


def no_sleep(seconds: float) -> None:
    """A pause that takes no time at all, so that a clock of fakes stands still."""


class Stage:
    """Where two sides share a clock, and pass the turn on to each other from two threads."""

    def __init__(self, script: Script) -> None:
        self.clock = FakeClock()
        self.script = script
        self.has_turn = script.order[0]
        self.passed_on: dict[Side, SimpleQueue[None]] = {"base": SimpleQueue(), "head": SimpleQueue()}
        self.intervals: list[tuple[Side, float, float]] = []
        self.out_of_turn: list[Side] = []
        self.switches = 0

    def give(self, side: Side) -> None:
        self.switches += 1
        if self.has_turn != side:
            self.out_of_turn.append(side)
        self.has_turn = other(side)
        self.passed_on[other(side)].put(None)

    def wait(self, side: Side) -> None:
        self.passed_on[side].get(timeout=20)

    def work(self, side: Side, seconds: float) -> None:
        began = self.clock()
        if self.has_turn != side:
            self.out_of_turn.append(side)
        self.clock.advance(seconds)
        self.intervals.append((side, began, self.clock()))

    def play(self, players: dict[Side, Player]) -> dict[Side, Played]:
        served: dict[Side, Played] = {}

        def play(side: Side) -> None:
            served[side] = players[side].play(lambda: self.give(side), lambda: self.wait(side))

        for player in players.values():
            player.prepare(self.script)
        threads = [threading.Thread(target=play, args=(side,)) for side in SIDES]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return served


@dataclass
class OnStage(FakeTarget):
    """Works on a stage; slower by `cold` in its first request and its first gaps after another's turn."""

    stage: Stage | None = None
    side: Side = "base"
    cold: float = 1.0
    cold_gaps: int = 4
    seen: float = field(default=-1.0)
    """When it last worked."""

    def run(self, request: Request, clock: Clock, rest: Rest = no_rest) -> Trace:
        sent = clock()
        arrivals = []
        left = 0
        for k in range(request.workload.output_tokens):
            if self.clock() != self.seen:
                left = self.cold_gaps if k else 1
            usual = self.gap if k else self.ttft
            self._work(usual * self.cold if left > 0 else usual)
            left -= 1
            arrivals.append(clock())
            rest()
        return Trace(sent, tuple(arrivals), request.workload.prompt_tokens)

    def _work(self, seconds: float) -> None:
        if self.stage:
            self.stage.work(self.side, seconds)
        else:
            self.clock.advance(seconds)
        self.seen = self.clock()


def on_stage(
    script: Script, *, workload: Workload = WORKLOAD, slower: float = 1.2, cold: float = 1.6
) -> tuple[Stage, dict[Side, Played]]:
    stage = Stage(script)
    players: dict[Side, Player] = {}
    for side, factor in (("base", 1.0), ("head", slower)):
        target = OnStage(stage.clock, ttft=0.01 * factor, gap=0.001 * factor, side=side, cold=cold)
        players[side] = Player(serving(target, workload), side, no_sleep)
        target.stage = stage
    return stage, stage.play(players)


def script_of(seed: int, kind: str = "whole") -> Script:
    return next(getattr(scripts((PACE, PACE), 101, seed), kind))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["whole", "prefills", "decoding"])
def test_two_sides_never_work_at_the_same_time(seed: int, kind: str) -> None:
    script = script_of(seed, kind)
    stage, served = on_stage(script)
    assert set(served) == {"base", "head"}
    assert not stage.out_of_turn
    for (_, _, ended), (_, began, _) in itertools.pairwise(stage.intervals):
        assert began >= ended
    order = [side for side, _ in itertools.groupby(stage.intervals, key=lambda each: each[0])]
    assert order == [side for side, _ in itertools.groupby(script.order)]
    assert stage.switches == len(order) - 1


@pytest.mark.parametrize("seed", range(6))
def test_times_are_true_although_a_side_is_slower_after_each_wait(seed: int) -> None:
    _, served = on_stage(script_of(seed))
    assert served["base"].values["tpot_ms"] == pytest.approx(1.0)
    assert served["head"].values["tpot_ms"] == pytest.approx(1.2)
    assert served["base"].values["ttft_ms"] == pytest.approx(10.0)
    assert served["head"].values["ttft_ms"] == pytest.approx(12.0)
    assert served["head"].values["latency_ms"] == pytest.approx(12.0 + 100 * 1.2)


def test_what_is_slow_after_a_wait_would_show_if_it_counted() -> None:
    script = script_of(1)
    _, served = on_stage(dataclasses.replace(script, cold=0))
    assert 1.04 < served["base"].values["tpot_ms"] < 1.2, "but the waiting itself would not"
    _, served = on_stage(dataclasses.replace(script, warm=False))
    assert max(trace.arrivals[0] - trace.sent for trace in served["base"].prefills) == pytest.approx(0.016)


def test_prefills_alone_have_no_time_per_token_and_the_first_of_them_does_not_count() -> None:
    script = script_of(1, "prefills")
    _, served = on_stage(script)
    for side, ttft in (("base", 10.0), ("head", 12.0)):
        assert served[side].whole is None
        assert len(served[side].prefills) == script.prefills
        assert served[side].values == {"ttft_ms": pytest.approx(ttft)}


def test_decoding_alone_has_two_prefills_of_which_neither_counts() -> None:
    _, served = on_stage(script_of(1, "decoding"))
    for side, factor in (("base", 1.0), ("head", 1.2)):
        assert len(served[side].prefills) == 0
        values = served[side].values
        assert values["tpot_ms"] == pytest.approx(factor)
        assert values["latency_ms"] == pytest.approx(110.0 * factor)
        assert "ttft_ms" not in values


def test_the_time_to_the_first_token_is_the_median_of_all_prefills_of_a_round() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, scales=[1.0, 1.0, 9.0, 1.1, 1.2, 1.3, 1.0])  # warm-up, pace, then what is played
    player = Player(serving(target, Workload(8, 5)), "base", no_sleep)
    player.prepare(Script(("base", "head"), prefills=4, warm=True))
    served = player.play(lambda: None, lambda: None)
    assert len(served.prefills) == 3
    assert served.values["ttft_ms"] == pytest.approx(115.0)  # of 110, 120, 130 and 100
    assert served.values["tpot_ms"] == pytest.approx(10.0)


def test_requests_are_made_before_the_turns_and_no_prompt_comes_twice() -> None:
    target = FakeTarget(FakeClock())
    player = Player(serving(target, Workload(8, 5)), "base", no_sleep)
    for _ in range(3):
        player.prepare(Script(("base", "head"), prefills=3, warm=True))
        made = len(target.seeds)
        player.play(lambda: None, lambda: None)
        assert len(target.seeds) == made
    assert len(set(target.seeds)) == len(target.seeds)


def test_the_collector_rests_for_the_whole_round_and_the_device_has_nothing_left_to_do() -> None:
    seen: list[bool] = []
    target = FakeTarget(FakeClock())
    player = Player(serving(target, Workload(8, 5)), "head", no_sleep)
    player.prepare(Script(("base", "head")))
    target.device.calls.clear()
    player.play(lambda: None, lambda: seen.append(gc.isenabled()))
    assert seen == [False]
    assert gc.isenabled()
    assert target.device.calls[0] == "synchronize"


def test_memory_is_looked_at_after_the_turns_of_a_round() -> None:
    target = FakeTarget(FakeClock())
    player = Player(serving(target, Workload(8, 5)), "head", no_sleep)
    player.prepare(Script(("base", "head")))
    target.device.calls.clear()
    target.device.held = iter([7])
    played = player.play(lambda: None, lambda: target.device.calls.append("turn"))
    assert played.whole.held == 7
    assert target.device.calls == ["synchronize", "turn", "held"]


def test_a_clock_stands_still_while_its_side_waits() -> None:
    under = FakeClock(100.0)
    clock = TurnClock(under)
    under.advance(1.0)
    clock.still(lambda: under.advance(7.0))
    under.advance(0.5)
    clock.still(lambda: under.advance(3.0))
    assert clock() == 101.5


ORDERS = st.lists(st.sampled_from(SIDES), min_size=1, max_size=8).map(
    lambda firsts: tuple(side for first in firsts for side in (first, other(first)))
)


@given(ORDERS)
def test_the_turn_is_passed_on_at_each_switch_and_never_between_turns_of_one_side(order: tuple[Side, ...]) -> None:
    groups = [(whose, len(list(turns))) for whose, turns in itertools.groupby(order)]
    for side in SIDES:
        expected: list[str] = []
        for index, (whose, count) in enumerate(groups):
            if whose == side:
                expected += ["wait"] * (index > 0) + ["turn"] * count + ["give"] * (index + 1 < len(groups))
        happened: list[str] = []
        note = happened.append
        turns = Turns(Script(order), side, functools.partial(note, "give"), functools.partial(note, "wait"))
        turns.begin()
        for _ in range(order.count(side)):
            happened.append("turn")
            turns.pass_on()
        assert happened == expected


@given(ORDERS, st.integers(0, 8))
def test_turns_that_a_side_had_no_tokens_for_are_passed_on_at_its_end(order: tuple[Side, ...], had: int) -> None:
    switches = []
    for had_tokens_for in (order.count("base"), min(had, order.count("base"))):
        happened: list[str] = []
        note = happened.append
        turns = Turns(Script(order), "base", functools.partial(note, "give"), functools.partial(note, "wait"))
        turns.begin()
        for _ in range(had_tokens_for - 1):
            turns.pass_on()
        turns.end()
        switches.append(happened)
    assert switches[0] == switches[1], "the other side waits for each of them"


class Accelerated(FakeTarget):
    """Says when its device had chosen each token, by the device's own clock."""

    def run(self, request: Request, clock: Clock, rest: Rest = no_rest) -> Trace:
        trace = super().run(request, clock, rest)
        return dataclasses.replace(trace, device_arrivals=trace.arrivals)


@pytest.mark.parametrize(("blocks", "kept"), [((2, 2), 0), ((), 5)])
def test_the_times_of_a_clock_that_went_on_meanwhile_are_left_out(blocks: tuple[int, ...], kept: int) -> None:
    player = Player(serving(Accelerated(FakeClock()), Workload(8, 5)), "base", no_sleep)
    player.prepare(Script(("base", "head") * (1 + len(blocks)), blocks=blocks))
    (whole,) = player.play(lambda: None, lambda: None).whole.traces
    assert len(whole.device_arrivals) == kept


# Pace


def test_the_pace_is_that_of_the_fastest_request_that_warmed_up() -> None:
    target = FakeTarget(FakeClock(), ttft=0.2, gap=0.02, scales=[3.0, 1.0, 2.0, 1.0])
    warmed = serving(target, Workload(8, 5))
    warmed = dataclasses.replace(warmed, warm=[*warmed.warm, warmed.serve(), warmed.serve()])
    pace = pace_of(warmed, no_sleep)
    assert (pace.gap, pace.ttft, pace.rests) == (pytest.approx(0.02), pytest.approx(0.2), True)


def test_a_request_for_one_token_has_a_pace_without_gaps_and_is_not_made_again() -> None:
    target = FakeTarget(FakeClock())
    pace = pace_of(serving(target, Workload(8, 1)), no_sleep)
    assert (pace, target.runs) == (Pace(0.0, pytest.approx(0.1), rests=False), 1)


@dataclass
class Background(FakeTarget):
    """Has its tokens made by an engine that goes on while nobody takes them."""

    def run(self, request: Request, clock: Clock, rest: Rest = no_rest) -> Trace:
        sent, began = clock(), self.clock()
        arrivals = []
        for k in range(request.workload.output_tokens):
            self.clock.now = max(self.clock.now, began + self.ttft + k * self.gap)
            arrivals.append(clock())
            rest()
        return Trace(sent, tuple(arrivals), request.workload.prompt_tokens)


class Restless(FakeTarget):
    """Does not let anybody make it wait."""

    def run(self, request: Request, clock: Clock, rest: Rest = no_rest) -> Trace:
        return super().run(request, clock)


class Chunks(FakeTarget):
    """Has two tokens at a time, and then takes its time."""

    def run(self, request: Request, clock: Clock, rest: Rest = no_rest) -> Trace:
        trace = super().run(dataclasses.replace(request, workload=Workload(8, 4)), clock, rest)
        return dataclasses.replace(trace, counts=(2,) * 4)


@pytest.mark.parametrize(
    ("kind", "rests"), [(FakeTarget, True), (OnStage, True), (Background, False), (Restless, False), (Chunks, False)]
)
@pytest.mark.parametrize("tokens", [2, 3, 8])
def test_only_who_can_be_made_to_wait_between_single_tokens_rests(
    kind: type[FakeTarget], rests: bool, tokens: int
) -> None:
    target = kind(FakeClock())
    pace = pace_of(serving(target, Workload(8, tokens)), target.clock.advance)
    assert pace == Pace(pytest.approx(0.01), pytest.approx(0.1), rests)


def test_a_pause_is_long_enough_for_the_next_token_to_be_made() -> None:
    pauses: list[float] = []
    pace_of(serving(FakeTarget(FakeClock(), gap=0.02), Workload(8, 9)), pauses.append)
    assert pauses == [pytest.approx(0.06)]


# What is asked over a network


@dataclass
class LoadedOnStage(FakeServer):
    stage: Stage | None = None
    side: Side = "base"

    def run(self, request: Request, clock: Clock, rest: Rest = no_rest) -> Trace:
        sent = clock()
        for seconds in (self.ttft, *(self.gap,) * 3):
            self.stage.work(self.side, seconds) if self.stage else self.clock.advance(seconds)
        return Trace(sent, (sent + self.ttft, clock()), 8, tokens=4)


@pytest.mark.parametrize("kind", ["whole", "prefills", "decoding"])
def test_servers_take_turns_by_whole_rounds_of_their_load(kind: str) -> None:
    load = Workload(8, 4, concurrency=3)
    targets = {side: LoadedOnStage(FakeClock(), ttft=0.2 if side == "head" else 0.1, side=side) for side in SIDES}
    waiting = {side: serving(target, load) for side, target in targets.items()}
    paces = [pace_of(each, no_sleep) for each in waiting.values()]
    assert [pace.rests for pace in paces] == [False, False]
    script = next(getattr(scripts(paces, load.output_tokens, seed=1), kind))
    stage = Stage(script)
    players = {side: Player(each, side, no_sleep) for side, each in waiting.items()}
    for target in targets.values():
        target.stage, target.clock = stage, stage.clock
    for side, each in waiting.items():
        rounds = server(targets[side], load, each.upcoming, stage.clock)
        players[side] = Player(dataclasses.replace(each, serve=rounds, clock=stage.clock), side, no_sleep)
    played = stage.play(players)
    assert not stage.out_of_turn
    assert [side for side, _ in itertools.groupby(stage.intervals, key=lambda each: each[0])] == list(script.order)
    assert {side: len(each.whole.traces) for side, each in played.items()} == {"base": 3, "head": 3}
    assert played["head"].values["ttft_ms"] == pytest.approx(2 * played["base"].values["ttft_ms"])
    assert {"tpot_ms", "output_tokens_per_s", "requests_per_s"} <= set(played["head"].values)
