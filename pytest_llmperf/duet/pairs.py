"""Pairs: one base process and one head process, round against round."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_llmperf import metrics
from pytest_llmperf.duet.process import Job, serving
from pytest_llmperf.model import Environment, Measurement, Round, Sample
from pytest_llmperf.verdict.comparison import PAIRED_ROUNDS, Noise, Pair, pair_of, precise

Arm = Literal["base", "head"]
TIMED = ("ttft_ms", "tpot_ms")
"""What is compared of each round: the timed metrics that gate by default."""


@dataclass(frozen=True)
class PairedRound:
    """A round of each, one right after the other: metric → value; what is unknown is not there."""

    first: Arm
    base: dict[str, float]
    head: dict[str, float]


@dataclass(frozen=True)
class PairTrace:
    """All rounds of one pair of processes.

    Args:
        first: which of the two was launched first.
    """

    first: Arm
    rounds: tuple[PairedRound, ...]
    environment: Environment = Environment()

    def values(self, metric: str, arm: Arm) -> list[float]:
        """One arm's values of a metric, by round."""
        return [getattr(taken, arm)[metric] for taken in self.rounds if metric in taken.base and metric in taken.head]

    def differences(self, metric: str) -> list[float]:
        """ln(head) − ln(base), by round."""
        both = zip(self.values(metric, "base"), self.values(metric, "head"), strict=True)
        return [math.log(head / base) for base, head in both]

    def pair(self, metric: str) -> Pair | None:
        """What the pair says of a metric; None where it is unknown."""
        differences = self.differences(metric)
        return pair_of(differences) if differences else None


def take_pair(
    base: Job,
    head: Job,
    *,
    first: Arm = "base",
    draw: random.Random,
    noise: dict[str, Noise],
    rounds: int | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> PairTrace:
    """Two fresh processes that take turns, round by round, in an order drawn anew for each; one works at a time.

    Args:
        first: which of the two is launched first.
        noise: by metric; rounds go on until what they could still tell is less than lies between processes.
        rounds: exactly so many, instead.

    Raises:
        LlmperfError: one of the two could not be loaded, or ended.
    """
    jobs = {"base": base, "head": head}
    second: Arm = "head" if first == "base" else "base"
    progress("starting two processes")
    with serving(jobs[first]) as one, serving(jobs[second]) as other:
        processes = {first: one, second: other}
        environments = {arm: process.environment() for arm, process in processes.items()}
        taken: list[PairedRound] = []
        while not _enough(taken, noise, rounds):
            progress(f"round {len(taken) + 1} of {rounds or PAIRED_ROUNDS[-1]}")
            order: list[Arm] = ["base", "head"]
            draw.shuffle(order)
            values = {arm: _values(processes[arm].round()) for arm in order}
            taken.append(PairedRound(order[0], values["base"], values["head"]))
        return PairTrace(first, tuple(taken), environments["head"])


def _enough(taken: Sequence[PairedRound], noise: dict[str, Noise], rounds: int | None) -> bool:
    if rounds is not None:
        return len(taken) >= rounds
    if len(taken) not in PAIRED_ROUNDS:
        return len(taken) > PAIRED_ROUNDS[-1]
    pairs = [(name, PairTrace("base", tuple(taken)).pair(name)) for name in TIMED]
    settled = all(pair is None or precise(pair, noise[name]) for name, pair in pairs)
    return settled or len(taken) >= PAIRED_ROUNDS[-1]


def _values(taken: Round) -> dict[str, float]:
    """The timed metrics of one round."""
    summary = metrics.summarize(Measurement(target="", workload=Job.workload, rounds=(taken,)))
    known = {name: summary.samples[name] for name in TIMED}
    return {name: float(value) for name, value in known.items() if isinstance(value, Sample) and value > 0}
