"""How noisy is this machine? Pairs of processes that run the same code, and so differ by noise alone."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from pytest_llmperf.baselines.noise import noise
from pytest_llmperf.baselines.schema import Calibration, Pairs
from pytest_llmperf.duet.pairs import TIMED, Arm, PairTrace, take_pair
from pytest_llmperf.duet.process import Job
from pytest_llmperf.verdict.comparison import (
    FLOOR,
    HARMLESS,
    MOST_PAIRS,
    PRIORS,
    Estimate,
    Level,
    Noise,
    Pair,
    alpha,
    pairs_estimate,
    stored_estimate,
)


def take_pairs(
    job: Job,
    count: int,
    *,
    rounds: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda stage: None,
) -> list[PairTrace]:
    """A/A pairs of one job, which of the two is launched first changing from pair to pair.

    Raises:
        LlmperfError: the target cannot be loaded or served.
    """
    draw = random.Random(seed)
    prior = dict.fromkeys(TIMED, PRIORS["cuda"])  # the quieter one: a machine unknown gets the more rounds
    taken = []
    for number in range(count):

        def tell(stage: str, which: str = f"pair {number + 1} of {count}") -> None:
            progress(f"{which}: {stage}")

        first: Arm = "head" if number % 2 else "base"
        taken.append(take_pair(job, job, first=first, draw=draw, noise=prior, rounds=rounds, progress=tell))
    return taken


def calibration(traces: Sequence[PairTrace], job: Job, recorded: str) -> Calibration:
    """What these pairs tell of the machine's noise, as it is stored."""
    return Calibration(
        recorded=recorded,
        target=job.reference.id,
        threads=traces[0].environment.threads,
        metrics={name: _pairs(traces, name) for name in TIMED if all(trace.differences(name) for trace in traces)},
    )


def _pairs(traces: Sequence[PairTrace], metric: str) -> Pairs:
    pairs = [pair for trace in traces if (pair := trace.pair(metric))]
    processes = [[math.log(v) for v in trace.values(metric, arm)] for trace in traces for arm in ("base", "head")]
    middles = [statistics.median(logs) for logs in processes]
    within = statistics.fmean(statistics.pvariance(logs) for logs in processes)
    return Pairs(
        differences=[_short(pair.difference) for pair in pairs],
        errors=[_short(pair.error) for pair in pairs],
        levels=[_short((base + head) / 2) for base, head in zip(middles[::2], middles[1::2], strict=True)],
        rounds=_short(math.sqrt(within)),
    )


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def raw(traces: Sequence[PairTrace], job: Job, recorded: str) -> dict[str, Any]:
    """Every round of every pair, in plain data."""
    environment = traces[0].environment
    return {
        "hardware": environment.hardware,
        "target": job.reference.id,
        "threads": environment.threads,
        "workload": dataclasses.asdict(job.workload),
        "versions": dict(environment.versions),
        "recorded": recorded,
        "pairs": [
            {
                "first": trace.first,
                "rounds": [
                    {"first": taken.first, "base": _figures(taken.base), "head": _figures(taken.head)}
                    for taken in trace.rounds
                ],
            }
            for trace in traces
        ],
    }


def _figures(values: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.5g}") for name, value in values.items()}


# What can be seen through such noise


def visible_stored(noise: Noise, sessions: int, tolerance: float = 0.05) -> float:
    """The smallest slowdown that is REGRESSED against so many stored sessions, as a share, were it measured exactly."""
    estimate = stored_estimate([Level(0.0)] * sessions, [Level(0.0, noise.fewest)], noise)
    return _visible(estimate, tolerance, alpha(1))


def visible_by_duet(noise: Noise, device_type: str, tolerance: float = 0.05) -> float:
    """The same for a duet of as many pairs as it may take."""
    most = MOST_PAIRS.get(device_type, MOST_PAIRS["cpu"])
    error = max(math.sqrt(2) * noise.process, 0.004)
    return _visible(pairs_estimate([Pair(0.0, error)] * most, noise), tolerance, alpha(1) / (most - 1))


def _visible(estimate: Estimate, tolerance: float, alpha: float) -> float:
    from scipy.special import stdtrit

    surely = math.log1p(HARMLESS * tolerance) - float(stdtrit(estimate.df, alpha)) * estimate.error
    return math.expm1(max(surely, math.log1p(FLOOR * tolerance)))


def noise_levels(calibrations: Sequence[Calibration], metric: str, device_type: str) -> Noise:
    """The noise of a metric as these calibrations tell it."""
    return noise(calibrations, metric, PRIORS.get(device_type, PRIORS["cpu"]))
