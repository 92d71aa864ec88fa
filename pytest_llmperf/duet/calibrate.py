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

from pytest_llmperf.baselines.entries import stored_workload
from pytest_llmperf.baselines.schema import Calibration, Pairs
from pytest_llmperf.duet.pairs import PairedRound, differences, metrics_of, take
from pytest_llmperf.duet.script import SIDES, Side
from pytest_llmperf.duet.sides import Conductor, pairs_of
from pytest_llmperf.duet.turns import Values
from pytest_llmperf.duet.worker import Job, Ready, pair
from pytest_llmperf.errors import MeasurementError
from pytest_llmperf.metrics import CATALOGUE
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
        begun: told, once the first pair is ready, what a process says of itself and the most seconds all will take.

    Raises:
        LlmperfError: a process could not be started, or ended.
    """
    most = rounds or PAIRED_ROUNDS[-1]
    taken: list[TakenPair] = []
    for number, first in zip(range(1, count + 1), itertools.cycle(SIDES), strict=False):
        began = time.monotonic()
        progress(f"pair {number} of {count}: starting two processes")
        with pair(job, first) as workers:
            ready = workers[first].ready
            conductor = Conductor(workers, {side: worker.ready.pace for side, worker in workers.items()}, job.workload)
            drawn = conductor.scripts(seed=number)
            if not taken:
                begun(ready, count * (time.monotonic() - began + most * conductor.seconds(next(drawn.whole))))
            progress(f"pair {number} of {count}: {f'{rounds} rounds' if rounds else f'up to {most} rounds'}")
            served = take(conductor.round, drawn, _precise, rounds=rounds, most=most)
            taken.append(TakenPair(first, [PairedRound(_gating(each.base), _gating(each.head)) for each in served]))
    return ready, taken


def _gating(values: Values) -> Values:
    """Without what is compared by default with nothing."""
    return {name: value for name, value in values.items() if CATALOGUE[name].gates}


def _precise(rounds: Sequence[PairedRound], metrics: Sequence[str]) -> bool:
    found = pairs_of(rounds, [name for name in metrics if CATALOGUE[name].gates])
    return all(precise(each, _FINEST) for each in found.values())


def calibration(ready: Ready, taken: Sequence[TakenPair], recorded: str) -> Calibration:
    """What is stored of the pairs.

    Raises:
        MeasurementError: there is nothing in them that is timed.
    """
    found = [metrics_of(each.rounds) for each in taken]
    names = [name for name in found[0] if all(name in names for names in found)]
    if not names:
        raise MeasurementError(f"{ready.target} shows no time that could be compared")
    return Calibration(
        recorded=recorded,
        target=ready.target,
        workload=stored_workload(ready.workload),
        dtype=ready.environment.dtype,
        threads=ready.environment.threads,
        metrics={name: _pairs(taken, name) for name in names},
    )


def _pairs(taken: Sequence[TakenPair], metric: str) -> Pairs:
    estimates = [pair_of(differences(each.rounds, metric)) for each in taken]
    processes = [
        [math.log(values[metric]) for values in side if metric in values]
        for each in taken
        for side in _sides(each.rounds)
    ]
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
        "workload": stored_workload(ready.workload),
        "versions": dict(ready.environment.versions),
        "recorded": recorded,
        "pairs": [{"first": each.first, "rounds": [_traced(round_) for round_ in each.rounds]} for each in taken],
    }
    text = json.dumps(content, separators=(",", ":")).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text + b"\n")


def _traced(taken: PairedRound) -> dict[str, Any]:
    sides = {"base": taken.base, "head": taken.head}
    return {side: {metric: short(value) for metric, value in values.items()} for side, values in sides.items()}
