"""Both ends of a measurement in turns: who says what, and what comes of it."""

from __future__ import annotations

import dataclasses
import gc
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from pytest_llmperf.duet.channel import Channel, ClosedError
from pytest_llmperf.duet.pairs import PairedRound
from pytest_llmperf.duet.script import Pace, Script, Side
from pytest_llmperf.duet.sides import PATIENCE_S, Conductor, Lead, follow, pairs_of
from pytest_llmperf.measure import Serving
from pytest_llmperf.measure.rounds import Need
from pytest_llmperf.model import Round, Workload, plain
from pytest_llmperf.verdict.comparison import Noise, Pair, precise
from tests.fakes import FakeClock, FakeTarget, serving

WORKLOAD = Workload(prompt_tokens=8, output_tokens=101)
GAP, TTFT = 0.001, 0.01
PACE = Pace(GAP, TTFT, rests=True)
WHOLE = Script(("base", "head", "head", "base"), blocks=(100,), cold=4)


@contextmanager
def line() -> Iterator[tuple[Channel, Channel]]:
    """Both ends of one, within this process."""
    ours, theirs = os.pipe(), os.pipe()
    over = [threading.Event(), threading.Event()]
    ends = [
        Channel(os.fdopen(incoming, "rb"), os.fdopen(outgoing, "wb"), event.set)
        for incoming, outgoing, event in ((ours[0], theirs[1], over[0]), (theirs[0], ours[1], over[1]))
    ]
    try:
        yield ends[0], ends[1]
    finally:
        for end in ends:
            end._outgoing.close()
        assert all(event.wait(20) for event in over)  # so that no thread is left with a descriptor of another test
        for end in ends:
            end.close()


class Follower:
    """A side that follows, in a thread of its own."""

    def __init__(self, channel: Channel, serving: Serving, side: Side = "base") -> None:
        self.taken: list[Round] = []
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._follow, args=(channel, serving, side))
        self._thread.start()

    def _follow(self, channel: Channel, serving: Serving, side: Side) -> None:
        try:
            self.taken = follow(channel, side, key="test_a")(serving)
        except Exception as error:
            self.error = error

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()


def on(clock: FakeClock, factor: float = 1.0, **effort: Any) -> Serving:
    target = FakeTarget(clock, ttft=TTFT * factor, gap=GAP * factor)
    return serving(target, WORKLOAD, **effort)


def always(name: str, pair: Pair) -> bool:
    return True


def test_head_leads_and_base_follows_and_both_find_their_own_times() -> None:
    clock = FakeClock()
    head = on(clock, 1.2)
    with line() as (near, far):
        base = Follower(far, on(clock))
        ready = near.hear("ready", patience=30)
        assert ready["key"] == "test_a"
        pace = Pace(**ready["pace"])
        assert pace == Pace(pytest.approx(GAP), pytest.approx(TTFT), rests=True)
        lead = Lead(near, pace, always, seed=1)
        own = lead(head)
        near.tell("end")
        base.join()
    assert len(lead.rounds) == 8
    for each in lead.rounds:
        assert (each.base["tpot_ms"], each.head["tpot_ms"]) == (pytest.approx(1.0), pytest.approx(1.2))
        assert (each.base["ttft_ms"], each.head["ttft_ms"]) == (pytest.approx(10.0), pytest.approx(12.0))
    assert len(own) == len(base.taken) == 8
    assert {len(round_.traces[0].arrivals) for round_ in (*own, *base.taken)} == {101}
    assert own[0].traces[0].decode == pytest.approx(0.12)
    assert base.taken[0].traces[0].decode == pytest.approx(0.10)


def test_two_that_follow_take_turns_as_a_third_passes_them_on() -> None:
    clock = FakeClock()
    with ExitStack() as both:
        lines: dict[Side, Channel] = {}
        followers = []
        for side, factor in (("base", 1.0), ("head", 1.2)):
            near, far = both.enter_context(line())
            lines[side] = near
            followers.append(Follower(far, on(clock, factor), side))
            assert near.hear("ready", patience=30)
        conductor = Conductor(lines, {"base": PACE, "head": PACE}, WORKLOAD)
        drawn = conductor.scripts(seed=1)
        taken = [conductor.round(next(drawn.whole)) for _ in range(5)] + [conductor.round(next(drawn.prefills))]
        for end in lines.values():
            end.tell("end")
        for follower in followers:
            follower.join()
    for each in taken[:5]:
        assert (each.base["tpot_ms"], each.head["tpot_ms"]) == (pytest.approx(1.0), pytest.approx(1.2))
    for each in taken:
        assert (each.base["ttft_ms"], each.head["ttft_ms"]) == (pytest.approx(10.0), pytest.approx(12.0))
    assert set(taken[5].metrics) == {"ttft_ms"}


def test_an_end_that_goes_away_within_a_round_is_told_and_leaves_nothing_switched_off() -> None:
    with line() as (near, far):
        gone = threading.Thread(target=lambda: (far.hear("round", patience=30), far.tell("set"), far._outgoing.close()))
        gone.start()
        with pytest.raises(ClosedError, match="has closed"):
            Lead(near, PACE, always)(on(FakeClock()))
        gone.join(30)
    assert gc.isenabled()


class Scripted:
    """A line whose other end answers as it is told; notes all that is said and how long is waited."""

    def __init__(self, *says: dict[str, Any], name: str = "", notes: list[str] | None = None) -> None:
        self.says = list(says)
        self.told: list[dict[str, Any]] = []
        self.patience: set[float | None] = set()
        self._name = name
        self._notes = [] if notes is None else notes

    def tell(self, say: str, **content: Any) -> None:
        self.told.append({"say": say, **content})
        self._notes.append(f"{self._name} < {say}")

    def hear(self, *expected: str, patience: float | None = None) -> dict[str, Any]:
        self.patience.add(patience)
        said = self.says.pop(0)
        assert said["say"] in expected
        self._notes.append(f"{self._name} > {said['say']}")
        return said

    @property
    def said(self) -> list[str]:
        return [message["say"] for message in self.told]


class Base(Scripted):
    """Follows in no time: its turns are over as soon as it has them."""

    def __init__(self, values: Mapping[str, float]) -> None:
        super().__init__()
        self.values = dict(values)
        self.scripts: list[Script] = []

    def hear(self, *expected: str, patience: float | None = None) -> dict[str, Any]:
        self.patience.add(patience)
        [say] = expected
        return {"say": say, "values": self.values}

    def tell(self, say: str, **content: Any) -> None:
        super().tell(say, **content)
        if say == "round":
            self.scripts.append(Script.from_plain(content["script"]))


def round_(script: Script) -> dict[str, Any]:
    return {"say": "round", "script": plain(script)}


GO, REPORT, END = {"say": "go"}, {"say": "report"}, {"say": "end"}


def test_who_follows_says_what_it_found_only_when_it_is_asked_and_keeps_its_whole_rounds() -> None:
    alone = Script(("base", "head"), decodes=False)
    told = Scripted(round_(WHOLE), GO, REPORT, round_(alone), REPORT, END)
    taken = follow(told)(on(FakeClock()))
    assert told.said == ["ready", "set", "go", "values", "set", "go", "values"]
    assert [len(each.traces[0].arrivals) for each in taken] == [101]
    assert set(told.told[3]["values"]) > {"ttft_ms", "tpot_ms"}
    assert told.told[6]["values"] == {"ttft_ms": pytest.approx(10.0)}
    assert not told.says


@pytest.mark.parametrize("how", ["alone", "end"])
def test_who_is_not_led_takes_one_round_by_itself(how: str) -> None:
    told = Scripted({"say": how})
    assert len(follow(told)(on(FakeClock()))) == 1
    assert told.said == ["ready"]


def test_each_side_plays_its_own_part() -> None:
    first = Scripted(round_(Script(("head", "base"))), REPORT, END)
    follow(first, "head")(on(FakeClock()))
    second = Scripted(round_(Script(("head", "base"))), GO, REPORT, END)
    follow(second, "base")(on(FakeClock()))
    assert (first.said, second.said) == (["ready", "set", "go", "values"], ["ready", "set", "values"])


def test_a_side_is_prepared_before_the_other_whose_turn_is_first_may_begin() -> None:
    notes: list[str] = []
    answers = {"base": ["set", "go", "go", "values"], "head": ["set", "go", "values"]}
    lines = {
        side: Scripted(*({"say": say, "values": {"tpot_ms": 2.0}} for say in says), name=side, notes=notes)
        for side, says in answers.items()
    }
    conductor = Conductor(lines, {"base": PACE, "head": PACE}, WORKLOAD)  # type: ignore[arg-type]
    script = Script(("base", "head", "head", "base", "base", "head"), blocks=(50, 50))
    assert conductor.round(script) == PairedRound({"tpot_ms": 2.0}, {"tpot_ms": 2.0})
    assert notes == [
        *("head < round", "head > set", "base < round", "base > set"),
        *("base > go", "head < go", "head > go", "base < go", "base > go", "head < go"),
        *("head < report", "head > values", "base < report", "base > values"),
    ]
    assert {Script.from_plain(each.told[0]["script"]) for each in lines.values()} == {script}


def test_an_answer_is_waited_for_longer_where_a_round_takes_longer() -> None:
    slow = Base({"tpot_ms": 1.0, "ttft_ms": 10.0})
    Lead(slow, dataclasses.replace(PACE, gap=3.0), always)(on(FakeClock(), rounds=1))
    quick = Base({"tpot_ms": 1.0, "ttft_ms": 10.0})
    Lead(quick, PACE, always)(on(FakeClock(), rounds=1))
    assert [min(each.patience) > PATIENCE_S + 20 * 300 for each in (slow, quick)] == [True, False]  # type: ignore[type-var]
    assert min(quick.patience) > PATIENCE_S  # type: ignore[type-var]


def lead(base: Base, how: Mapping[str, Any], **effort: Any) -> Lead:
    leading = Lead(base, PACE, **{"precise": always, **how})
    leading(on(FakeClock(), **effort))
    return leading


def test_rounds_may_be_fixed_and_are_then_all_whole() -> None:
    base = Base({"tpot_ms": 1.0, "ttft_ms": 10.0})
    taken = lead(base, {"precise": lambda name, pair: False}, rounds=11)
    assert [script.decodes for script in base.scripts] == [True] * 11
    assert len(taken.rounds) == len(taken.own) == 11


def test_rounds_end_with_twice_the_time_of_a_measurement_by_itself() -> None:
    base = Base({"tpot_ms": 1.0, "ttft_ms": 10.0})
    round_s = 6 * TTFT + 100 * GAP  # of head's own part; base takes no time here
    taken = lead(base, {"precise": lambda name, pair: False}, max_time=15 * round_s / 2)
    assert len(taken.rounds) == 18, "the first look after the time of 15"
    assert all(script.decodes for script in base.scripts)


@pytest.mark.parametrize("need", [Need.PRECISION, Need.SAMPLES])
def test_whole_rounds_go_on_while_heads_limits_need_more(need: Need) -> None:
    seen: list[int] = []

    def look(rounds: Any) -> Need:
        seen.append(len(rounds))
        return need if len(rounds) < 15 else Need.NOTHING

    taken = lead(Base({"tpot_ms": 1.0, "ttft_ms": 10.0}), {"look": look})
    assert len(taken.own) == 18
    assert seen == [8, 12, 18]


def test_prefills_alone_are_no_rounds_of_heads_own() -> None:
    base = Base({"tpot_ms": 1.0, "ttft_ms": 10.0})
    taken = lead(base, {"precise": lambda name, pair: name != "ttft_ms" or len(base.scripts) >= 12})
    assert [script.decodes for script in base.scripts] == [True] * 8 + [False] * 4
    assert (len(taken.own), len(taken.rounds)) == (8, 12)


def test_a_metric_that_only_one_side_has_is_not_waited_for() -> None:
    asked: set[str] = set()

    def never(name: str, pair: Pair) -> bool:
        asked.add(name)
        return True

    lead(Base({"ttft_ms": 10.0, "goodput_per_s": 3.0}), {"precise": never})
    assert asked == {"ttft_ms"}


def test_when_rounds_end_does_not_depend_on_how_much_slower_head_is() -> None:
    def count(base_tpot: float) -> int:
        class Noisy(Base):
            def hear(self, *expected: str, patience: float | None = None) -> dict[str, Any]:
                scale = 1.0 + 0.02 * (len(self.scripts) * 7 % 5)
                return {"say": expected[0], "values": {"tpot_ms": base_tpot * scale, "ttft_ms": 10.0}}

        return len(lead(Noisy({}), {"precise": lambda name, pair: precise(pair, Noise(0.0, 0.0))}).own)

    assert 8 < count(1.0) == count(0.95) == count(0.5)


def test_every_round_is_told() -> None:
    told: list[str] = []
    warm = dataclasses.replace(on(FakeClock(), rounds=2), progress=told.append)
    Lead(Base({"tpot_ms": 1.0}), PACE, always)(warm)
    assert told == ["round 1, base and head in turns", "round 2, base and head in turns"]


def test_a_pair_is_estimated_of_every_metric_that_any_round_has_on_both_sides() -> None:
    rounds = [PairedRound({"tpot_ms": 1.0, "ttft_ms": 2.0}, {"tpot_ms": 1.1})] * 8
    found = pairs_of(rounds, ["tpot_ms", "ttft_ms"])
    assert {name: round(pair.difference, 4) for name, pair in found.items()} == {"tpot_ms": 0.0953}
