"""The noise of this machine, from pairs of processes of which both run the same code."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_llmperf.baselines.schema import Calibration, Pairs
from pytest_llmperf.duet.alternation import SIDES, PairedRound, Side, differences, pair, take
from pytest_llmperf.duet.worker import Job, Ready
from pytest_llmperf.errors import MeasurementError
from pytest_llmperf.model import plain
from pytest_llmperf.verdict.comparison import PAIRED_ROUNDS, Noise, pair_of, precise

_FINEST = Noise(process=0.0, session=0.0)
"""Rounds go on as if processes were all alike: what is to be found out must not be hidden by the pair's own error."""


@dataclass(frozen=True)
class TakenPair:
    """What a pair of processes measured; `first` is the side that was started first."""

    first: Side
    rounds: Sequence[PairedRound]


def take_pairs(
    job: Job,
    count: int,
    rounds: int | None = None,
    *,
    begun: Callable[[Ready, float], None] = lambda ready, most: None,
    progress: Callable[[str], None] = lambda stage: None,
) -> tuple[Ready, list[TakenPair]]:
    """Measure `count` pairs of fresh processes, each side started first in every other.

    Args:
        rounds: paired rounds of each; None takes as many as its precision needs.
        begun: told, once the first round is over, what a process says of itself and the most seconds all will take.

    Raises:
        LlmperfError: a process could not be started, or ended.
    """
    most = rounds or PAIRED_ROUNDS[-1]
    taken: list[TakenPair] = []
    for number, first in zip(range(1, count + 1), itertools.cycle(SIDES), strict=False):
        began = time.monotonic()
        progress(f"pair {number} of {count}: starting two processes")
        with pair(job, job, first=first, seed=number) as running:
            started = time.monotonic()
            served = [running.round()]
            ready = running.ready(first)
            if not taken:
                begun(ready, count * (started - began + most * (time.monotonic() - started)))
            progress(f"pair {number} of {count}: {f'{rounds} rounds' if rounds else f'up to {most} rounds'}")
            taken.append(TakenPair(first, take(running.round, _precise, rounds, served)))
    return ready, taken


def _precise(rounds: Sequence[PairedRound]) -> bool:
    return all(precise(pair_of(differences(rounds, metric)), _FINEST) for metric in metrics_of(rounds))


def metrics_of(rounds: Sequence[PairedRound]) -> list[str]:
    """The metrics that every round has."""
    return [name for name in rounds[0].base if all(name in each.base and name in each.head for each in rounds)]


def calibration(ready: Ready, taken: Sequence[TakenPair], recorded: str) -> Calibration:
    """What is stored of the pairs.

    Raises:
        MeasurementError: there is nothing in them that is timed.
    """
    names = metrics_of([each for pair_ in taken for each in pair_.rounds])
    if not names:
        raise MeasurementError(f"{ready.target} shows no time that could be compared")
    return Calibration(
        recorded=recorded,
        target=ready.target,
        workload=workload_of(ready),
        dtype=ready.environment.dtype,
        threads=ready.environment.threads,
        metrics={name: _pairs(taken, name) for name in names},
    )


def workload_of(ready: Ready) -> dict[str, Any]:
    return {name: value for name, value in plain(ready.workload).items() if value is not None}


def _pairs(taken: Sequence[TakenPair], metric: str) -> Pairs:
    estimates = [pair_of(differences(each.rounds, metric)) for each in taken]
    processes = [[math.log(side[metric]) for side in sides] for each in taken for sides in _sides(each.rounds)]
    between_rounds = [statistics.variance(logs) for logs in processes if len(logs) > 1]
    return Pairs(
        differences=[short(estimate.difference) for estimate in estimates],
        errors=[short(estimate.error) for estimate in estimates],
        levels=[short(statistics.median(logs)) for logs in processes],
        rounds=short(math.sqrt(statistics.fmean(between_rounds))) if between_rounds else 0.0,
    )


def _sides(rounds: Sequence[PairedRound]) -> tuple[list[Any], list[Any]]:
    return [each.base for each in rounds], [each.head for each in rounds]


def short(value: float) -> float:
    """With as many digits as a time is worth."""
    return float(f"{value:.5g}")


def write_traces(path: Path, ready: Ready, taken: Sequence[TakenPair], recorded: str) -> None:
    """Every value of every round, as JSON; compressed where the name ends in `.gz`."""
    content = {
        "hardware": ready.environment.hardware,
        "target": ready.target,
        "threads": ready.environment.threads,
        "workload": workload_of(ready),
        "versions": dict(ready.environment.versions),
        "recorded": recorded,
        "pairs": [{"first": each.first, "rounds": [_traced(round_) for round_ in each.rounds]} for each in taken],
    }
    text = json.dumps(content, separators=(",", ":")).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text + b"\n")


def _traced(taken: PairedRound) -> dict[str, Any]:
    sides = {"base": taken.base, "head": taken.head}
    return {
        "first": taken.first,
        **{side: {metric: short(value) for metric, value in served.items()} for side, served in sides.items()},
    }
