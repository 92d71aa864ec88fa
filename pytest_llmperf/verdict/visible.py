"""The smallest change that the rule can see in given noise, found by asking the rule itself.

Seen is a slowdown that is REGRESSED in four of five simulated comparisons; the noise is taken to be as estimated.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from collections.abc import Callable, Sequence

from pytest_llmperf.results import Verdict
from pytest_llmperf.verdict.comparison import (
    Estimate,
    Level,
    Noise,
    Pair,
    alpha,
    decide,
    pairs_verdict,
    stored_estimate,
)

POWER = 0.8
_TRIALS = 200
_SMALLEST, _LARGEST = 0.005, math.log(16)
_STEPS = 9
"""Of a bisection of their ratio: to 1.2 % of the result."""


def visible_stored(noise: Noise, sessions: int, tolerance: float, error: float = 0.0) -> float | None:
    """By a stored baseline of so many sessions, as a fraction; None where no change is large enough.

    Args:
        error: standard error of a process's median.
    """
    draw = random.Random(0)

    def session(processes: int) -> Level:
        spread = math.hypot(noise.session, math.hypot(noise.process, error) / math.sqrt(processes))
        return Level(draw.gauss(0, spread), processes, error)

    estimates = [
        stored_estimate([session(1) for _ in range(sessions)], [session(noise.fewest)], noise) for _ in range(_TRIALS)
    ]
    spent = alpha(1)

    def caught(change: float) -> int:
        moved = (_moved(estimate, change) for estimate in estimates)
        return sum(decide(each, tolerance, alpha=spent) is Verdict.REGRESSED for each in moved)

    return _smallest(caught)


def visible_duet(noise: Noise, error: float, tolerance: float, most: int) -> float | None:
    """By a duet of at most so many pairs, as a fraction; None where no change is large enough.

    Args:
        error: standard error of one pair's difference.
    """
    draw = random.Random(0)
    spread = math.hypot(math.sqrt(2) * noise.process, error)
    trials = [[draw.gauss(0, spread) for _ in range(most)] for _ in range(_TRIALS)]

    def caught(change: float) -> int:
        return sum(_duet([Pair(change + at, error) for at in trial], noise, tolerance) for trial in trials)

    return _smallest(caught)


def _duet(pairs: Sequence[Pair], noise: Noise, tolerance: float) -> bool:
    """Whether these pairs, taken one after the other until there is a verdict, end in REGRESSED."""
    judge = functools.partial(pairs_verdict, noise=noise, tolerance=tolerance, alpha=alpha(1), most=len(pairs))
    verdicts = (judge(pairs[:count]) for count in range(1, len(pairs) + 1))
    return next((verdict for verdict in verdicts if verdict is not Verdict.INCONCLUSIVE), None) is Verdict.REGRESSED


def _smallest(caught: Callable[[float], int]) -> float | None:
    """By bisection: more of a larger change is caught."""
    low, high = _SMALLEST, _LARGEST
    if caught(high) < POWER * _TRIALS:
        return None
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if caught(middle) >= POWER * _TRIALS else (middle, high)
    return math.expm1(high)


def _moved(estimate: Estimate, change: float) -> Estimate:
    return dataclasses.replace(estimate, change=estimate.change + change)
