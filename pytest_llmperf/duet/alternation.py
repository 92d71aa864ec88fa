"""A pair: one base process and one head process, which take turns by whole rounds. While one works the other waits."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from pytest_llmperf.duet.worker import Job, Ready, Worker
from pytest_llmperf.metrics import CATALOGUE, Kind, summarize
from pytest_llmperf.model import Measurement, Round, Sample, Workload
from pytest_llmperf.verdict.comparison import PAIRED_ROUNDS

Side = Literal["base", "head"]
SIDES: tuple[Side, Side] = ("base", "head")
Values = Mapping[str, float]
"""Of one round, by metric: its median."""


def other(side: Side) -> Side:
    return "head" if side == "base" else "base"


@dataclass(frozen=True)
class PairedRound:
    """One round of each side, right after one another."""

    first: Side
    base: Values
    head: Values


class Pair:
    """Two processes at work; see `pair`."""

    def __init__(self, workers: Mapping[Side, Worker], seed: int) -> None:
        self._workers = workers
        self._draw = random.Random(seed)

    def ready(self, side: Side) -> Ready:
        return self._workers[side].ready

    def round(self) -> PairedRound:
        """One round of each, in an order drawn anew."""
        first: Side = self._draw.choice(SIDES)
        taken = {side: values(self._workers[side].round()) for side in (first, other(first))}
        return PairedRound(first, taken["base"], taken["head"])


@contextmanager
def pair(base: Job, head: Job, *, first: Side = "base", seed: int = 0) -> Iterator[Pair]:
    """Two fresh processes, loaded and warmed up one after the other; both end with the block.

    Args:
        first: the side whose process is started first.
        seed: of the order of turns.

    Raises:
        LlmperfError: one of them could not be made ready.
    """
    jobs: dict[Side, Job] = {"base": base, "head": head}
    workers: dict[Side, Worker] = {}
    try:
        for side in (first, other(first)):
            workers[side] = Worker(jobs[side], side)
            workers[side].start()
        yield Pair(workers, seed)
    finally:
        for worker in workers.values():
            worker.close()


def take(
    serve: Callable[[], PairedRound],
    enough: Callable[[Sequence[PairedRound]], bool],
    rounds: int | None = None,
    served: Sequence[PairedRound] = (),
) -> list[PairedRound]:
    """Paired rounds until a look finds them enough, at most as many as the last look; or exactly `rounds`.

    Args:
        served: those that there are already.
    """
    taken = list(served)
    while len(taken) < (rounds or PAIRED_ROUNDS[-1]):
        taken.append(serve())
        if rounds is None and len(taken) in PAIRED_ROUNDS and enough(taken):
            break
    return taken


def values(served: Round) -> Values:
    """The gating timed metrics of one round, in their units; those that it has."""
    samples = summarize(Measurement(target="", workload=Workload(), rounds=(served,))).samples
    return {
        metric.name: sample.median
        for metric in CATALOGUE.values()
        if metric.gates and metric.kind is Kind.TIMED
        if isinstance(sample := samples[metric.name], Sample) and sample.median > 0
    }


def differences(rounds: Sequence[PairedRound], metric: str) -> list[float]:
    """ln(head) − ln(base) of each paired round."""
    return [math.log(each.head[metric] / each.base[metric]) for each in rounds]
