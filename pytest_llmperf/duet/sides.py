"""The ends of a duet: a side that is told what to do, and who tells it, a side itself or a third that looks on."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pytest_llmperf.duet.channel import Message
from pytest_llmperf.duet.pairs import PairedRound, differences, take
from pytest_llmperf.duet.script import Pace, Script, Scripts, Side, other, scripts
from pytest_llmperf.duet.turns import Player, Values
from pytest_llmperf.measure import Serving
from pytest_llmperf.measure.rounds import Need
from pytest_llmperf.model import Round, Workload
from pytest_llmperf.verdict.comparison import Pair, pair_of

PATIENCE_S = 60.0
"""For any answer within a round, beside twenty times what the round should take."""


TOLD = ("round", "go", "report", "alone", "end")
"""What a side that follows may be told while it measures."""


class Line(Protocol):
    """Either end of a channel."""

    def tell(self, say: str, **content: Any) -> None: ...

    def hear(self, *expected: str, patience: float | None = None) -> Message: ...


def follow(line: Line, side: Side = "base", **said: Any) -> Callable[[Serving], list[Round]]:
    """How the timed rounds are taken by the side that is told what to do.

    Args:
        said: told together with its pace when it is ready.
    """

    def taken(serving: Serving) -> list[Round]:
        player = Player(serving, side)
        line.tell("ready", pace=dataclasses.asdict(player.pace), **said)
        rounds: list[Round] = []
        while True:
            message = line.hear("round", "alone", "end")
            if message["say"] != "round":
                return rounds or [serving.serve()]
            player.prepare(Script.from_plain(message["script"]))
            line.tell("set")
            played = player.play(lambda: line.tell("go"), lambda: line.hear("go"))
            if played.whole:
                rounds.append(played.whole)
            line.hear("report")
            line.tell("values", values=played.values)

    return taken


@dataclass
class Lead:
    """How the timed rounds are taken by the side that says what is done.

    Args:
        base: the other side's end, which is ready.
        pace: the other side's.
        precise: whether a pair's difference in a metric is known well enough.
        look: what the head's own rounds still lack for its limits.
        rounds: what was taken.
    """

    base: Line
    pace: Pace
    precise: Callable[[str, Pair], bool]
    look: Callable[[Sequence[Round]], Need] = lambda rounds: Need.NOTHING
    seed: int = 0
    rounds: list[PairedRound] = field(default_factory=list)
    own: list[Round] = field(default_factory=list)

    def __call__(self, serving: Serving) -> list[Round]:
        player = Player(serving, "head")
        effort = serving.effort
        self.own.clear()
        self.rounds[:] = take(
            lambda script: self._round(player, script, serving),
            scripts((self.pace, player.pace), serving.workload.output_tokens, self.seed),
            self._enough,
            settled=lambda: self.look(self.own) is Need.NOTHING,
            rounds=effort.rounds,
            seconds=math.inf if effort.rounds else 2 * effort.max_time,
            clock=serving.clock,
        )
        return list(self.own)

    def _round(self, player: Player, script: Script, serving: Serving) -> PairedRound:
        serving.progress(f"round {len(self.own) + 1}, base and head in turns")
        patience = _patience(_seconds(script, self.pace, serving.workload))
        if script.order[0] == "base":  # who begins has prepared last, whichever that is
            player.prepare(script)
        _prepare(self.base, script, patience)
        if script.order[0] == "head":
            player.prepare(script)
        played = player.play(lambda: self.base.tell("go"), lambda: self.base.hear("go", patience=patience))
        if played.whole:
            self.own.append(played.whole)
        return PairedRound(_values(self.base, patience), played.values)

    def _enough(self, rounds: Sequence[PairedRound], metrics: Sequence[str]) -> bool:
        found = pairs_of(rounds, metrics)
        return all(self.precise(name, found[name]) for name in found)


@dataclass(frozen=True)
class Conductor:
    """Lets two sides take turns that both only follow.

    Args:
        lines: to each, which is ready.
    """

    lines: Mapping[Side, Line]
    paces: Mapping[Side, Pace]
    workload: Workload

    def scripts(self, seed: int) -> Scripts:
        return scripts(list(self.paces.values()), self.workload.output_tokens, seed)

    def seconds(self, script: Script) -> float:
        """About what a round takes."""
        return sum(_seconds(script, pace, self.workload) for pace in self.paces.values())

    def round(self, script: Script) -> PairedRound:
        patience = _patience(self.seconds(script))
        first, last = script.order[0], script.order[-1]
        for side in (other(first), first):  # the latter begins as soon as it is set
            _prepare(self.lines[side], script, patience)
        for before, after in itertools.pairwise(script.order):
            if before != after:
                self.lines[before].hear("go", patience=patience)
                self.lines[after].tell("go")
        values = {side: _values(self.lines[side], patience) for side in (last, other(last))}
        return PairedRound(**values)


def _prepare(line: Line, script: Script, patience: float) -> None:
    line.tell("round", script=dataclasses.asdict(script))
    line.hear("set", patience=patience)


def _values(line: Line, patience: float) -> Values:
    """What a side found in a round that is over."""
    line.tell("report")
    values = line.hear("values", patience=patience)["values"]
    return {str(name): float(value) for name, value in values.items()}


def _seconds(script: Script, pace: Pace, workload: Workload) -> float:
    """About what a side's turns of a round take."""
    return pace.ttft * script.requests + script.decodes * pace.gap * workload.output_tokens


def _patience(seconds: float) -> float:
    """How long to wait for any answer within a round that should take so long."""
    return PATIENCE_S + 20 * seconds


def pairs_of(rounds: Sequence[PairedRound], metrics: Sequence[str]) -> dict[str, Pair]:
    """By metric, what a pair of processes comes to."""
    return {name: pair_of(found) for name in metrics if (found := differences(rounds, name))}
