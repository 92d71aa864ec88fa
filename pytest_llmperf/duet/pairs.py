"""A pair: one base process and one head process, measured in alternation round by round."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_llmperf.duet.script import Script, Scripts
from pytest_llmperf.duet.turns import OF_PREFILL, Values
from pytest_llmperf.targets import Clock
from pytest_llmperf.verdict.comparison import PAIRED_ROUNDS

MOST_ROUNDS = 200
FEWEST_ROUNDS = 3
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
    scripts: Scripts,
    enough: Enough,
    *,
    settled: Callable[[], bool] = lambda: True,
    rounds: int | None = None,
    most: int = MOST_ROUNDS,
    seconds: float = math.inf,
    clock: Clock = time.monotonic,
) -> list[PairedRound]:
    """Paired rounds until a look finds them enough, or time is up.

    Once either half of them is known well enough, the other goes on alone. Time ends them at a look; where rounds
    are so long that there is none in three times as long, at once.

    Args:
        settled: whether whole rounds are wanted for no other reason.
        rounds: exactly so many whole rounds, and nothing else.
        most: rounds of both kinds together.
    """
    started = clock()
    taken: list[PairedRound] = []
    kind = scripts.whole
    next_look = PAIRED_ROUNDS[0]
    while len(taken) < (rounds or most):
        taken.append(serve(next(kind)))
        if rounds is not None:
            continue
        if len(taken) >= FEWEST_ROUNDS and clock() - started >= 3 * seconds:
            break
        if len(taken) < next_look:
            continue
        next_look = math.ceil(1.5 * next_look)
        known = metrics_of(taken)
        prefilled = enough(taken, [name for name in known if name in OF_PREFILL])
        decoded = settled() and enough(taken, [name for name in known if name not in OF_PREFILL])
        if clock() - started >= seconds or (prefilled and decoded):
            break
        kind = scripts.decoding if prefilled else scripts.prefills if decoded else scripts.whole
    return taken
