"""When to stop warming up, and when enough rounds have been taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from pytest_llmperf.measure.conditions import Unwatched
from pytest_llmperf.model import Round

MIN_ROUNDS = 3
MOST_ROUNDS = 10_000
"""More would tell nothing new, and their traces have to be kept."""
MOST_WARM_UPS = 10
STEADY = 0.95
"""A warm-up round this close to the fastest before it, or slower, has nothing left to gain."""
PATIENCE_FOR_TAILS_S = 60.0
"""How long rounds go on for a percentile that the sample cannot support yet."""
SPENT_AGAIN = 0.5
"""The share of the time that may go into rounds which do not count, because something disturbed the machine."""


class Need(Enum):
    """What a look at the rounds so far asks for."""

    NOTHING = auto()
    PRECISION = auto()
    """An interval is too wide, or straddles a limit."""
    SAMPLES = auto()
    """A percentile has too few samples to exist."""


@dataclass(frozen=True)
class Effort:
    """How much work a measurement may be.

    Args:
        rounds: exactly so many timed rounds; None takes as many as are needed.
        max_time: seconds for the timed rounds; warm-up and memory together take at most as much again.
        threads: CPU threads of torch while measuring; None leaves them.
        smoke: one round, and nothing else.
    """

    rounds: int | None = None
    max_time: float = 10.0
    threads: int | None = 1
    smoke: bool = False


def warm_up(serve: Callable[[], Round], effort: Effort, clock: Callable[[], float]) -> list[Round]:
    """Full rounds until the last is no faster than those before, at most ten or half the time budget."""
    started = clock()
    rounds = [serve()]
    while len(rounds) < MOST_WARM_UPS and clock() - started < effort.max_time / 2:
        rounds.append(serve())
        if rounds[-1].wall >= STEADY * min(earlier.wall for earlier in rounds[:-1]):
            break
    return rounds


def take(
    serve: Callable[[], Round],
    effort: Effort,
    look: Callable[[Sequence[Round]], Need],
    clock: Callable[[], float],
    watch: Unwatched,
) -> list[Round]:
    """Rounds until a look needs nothing more or time is up; looks come at 3, 5, 8, 12, 18 … rounds.

    Those during which the watch saw something disturb the machine are taken again, without a look at their times.
    """
    started = looked = clock()
    rounds: list[Round] = []
    unseen = 0
    spent = 0.0
    next_look = MIN_ROUNDS
    while effort.rounds is None or len(rounds) < effort.rounds:
        rounds.append(serve())
        now = clock()
        elapsed = now - started
        unseen += 1
        disturbance = watch.look()
        if disturbance is not None:
            seen, unseen = unseen, 0
            lasted, looked = now - looked, now
            if disturbance and spent + lasted <= SPENT_AGAIN * effort.max_time:
                spent += lasted
                watch.forget(seen)
                del rounds[-seen:]
                continue
        enough = len(rounds) >= MOST_ROUNDS
        late = elapsed >= effort.max_time and len(rounds) >= MIN_ROUNDS
        if effort.rounds is not None or not (late or enough or len(rounds) >= next_look):
            continue
        next_look = math.ceil(len(rounds) * 1.5)
        need = look(rounds)
        patience = max(effort.max_time, PATIENCE_FOR_TAILS_S) if need is Need.SAMPLES else effort.max_time
        if need is Need.NOTHING or elapsed >= patience or enough:
            break
    return rounds
