"""The two ends of a duet: base does what it is told, head says what and takes part itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pytest_llmperf.duet.channel import Message
from pytest_llmperf.duet.pairs import PairedRound, differences, take
from pytest_llmperf.duet.script import Pace, Script, Side, scripts
from pytest_llmperf.duet.turns import Player, Values
from pytest_llmperf.measure import Serving
from pytest_llmperf.measure.rounds import Need
from pytest_llmperf.model import Round
from pytest_llmperf.verdict.comparison import Pair, pair_of

PATIENCE_S = 60.0
"""For any answer within a round, beside twenty times what it should take."""


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
            served = player.play(lambda: line.tell("go"), lambda: line.hear("go"))
            if served.whole:
                rounds.append(Round((served.whole,)))
            line.hear("report")
            line.tell("values", values=served.values)

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
        player.prepare(script)
        pace, tokens = self.pace, serving.workload.output_tokens
        patience = PATIENCE_S + 20 * (pace.ttft * (script.prefills + 1) + pace.gap * tokens)
        self.base.tell("round", script=dataclasses.asdict(script))
        self.base.hear("set", patience=patience)
        served = player.play(lambda: self.base.tell("go"), lambda: self.base.hear("go", patience=patience))
        if served.whole:
            self.own.append(Round((served.whole,)))
        self.base.tell("report")
        values = self.base.hear("values", patience=patience)["values"]
        return PairedRound(_numbers(values), served.values)

    def _enough(self, rounds: Sequence[PairedRound], metrics: Sequence[str]) -> bool:
        found = pairs_of(rounds, metrics)
        return all(self.precise(name, found[name]) for name in found)


def pairs_of(rounds: Sequence[PairedRound], metrics: Sequence[str]) -> dict[str, Pair]:
    """By metric, what a pair of processes comes to."""
    return {name: pair_of(found) for name in metrics if (found := differences(rounds, name))}


def _numbers(values: Mapping[str, Any]) -> Values:
    return {str(name): float(value) for name, value in values.items()}
