"""A pair: one base process and one head process, measured in alternation round by round."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pytest_llmperf.duet.script import Script
from pytest_llmperf.duet.turns import OF_PREFILL, Values
from pytest_llmperf.targets import Clock
from pytest_llmperf.verdict.comparison import PAIRED_ROUNDS

MOST_ROUNDS = 200
"""Of a pair. Time ends it before where rounds are long."""


@dataclass(frozen=True)
class PairedRound:
    """One round of each side, in turns."""

    base: Values
    head: Values

    @property
    def metrics(self) -> list[str]:
        """Those that both sides have."""
        return [name for name in self.base if name in self.head]


def metrics_of(rounds: Sequence[PairedRound]) -> list[str]:
    """Those that any round has on both sides."""
    return list(dict.fromkeys(name for each in rounds for name in each.metrics))


def differences(rounds: Sequence[PairedRound], metric: str) -> list[float]:
    """ln(head) − ln(base) of each paired round that has the metric."""
    return [math.log(each.head[metric] / each.base[metric]) for each in rounds if metric in each.metrics]


Enough = Callable[[Sequence[PairedRound], Sequence[str]], bool]
"""Whether the rounds so far are precise enough for these metrics. Must not depend on the difference itself."""


def take(
    serve: Callable[[Script], PairedRound],
    scripts: tuple[Iterator[Script], Iterator[Script]],
    enough: Enough,
    *,
    settled: Callable[[], bool] = lambda: True,
    rounds: int | None = None,
    most: int = MOST_ROUNDS,
    seconds: float = math.inf,
    clock: Clock = time.monotonic,
) -> list[PairedRound]:
    """Paired rounds until a look finds them enough, or time is up; then prefills alone, of which each round has few.

    Args:
        scripts: of whole rounds, and of prefills alone.
        settled: whether whole rounds are wanted for no other reason.
        rounds: exactly so many whole rounds, and nothing else.
        most: rounds of both kinds together.
    """
    whole, alone = scripts
    started = clock()
    taken: list[PairedRound] = []
    next_look = PAIRED_ROUNDS[0]
    while len(taken) < (rounds or most):
        taken.append(serve(next(whole)))
        if rounds is not None or len(taken) < next_look:
            continue
        next_look = math.ceil(1.5 * next_look)
        of_whole = [name for name in metrics_of(taken) if name not in OF_PREFILL]
        if clock() - started >= seconds or (settled() and enough(taken, of_whole)):
            break
    next_look = len(taken)
    while rounds is None and clock() - started < seconds and len(taken) < most:
        if len(taken) >= next_look:
            next_look = math.ceil(1.5 * next_look)
            if enough(taken, [name for name in metrics_of(taken) if name in OF_PREFILL]):
                break
        taken.append(serve(next(alone)))
    return taken
