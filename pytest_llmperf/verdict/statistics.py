"""Intervals for the statistics of one measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_llmperf.model import TAILS, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES = 400
CONFIDENCE = 0.95
_MOST_VALUES_AT_ONCE = 2_000_000
"""Bounds the memory that resampling takes to 16 MB."""
_QUANTILES = {"median": 0.5, "p50": 0.5, "p90": 0.90, "p95": 0.95, "p99": 0.99}


def interval(sample: Sample, statistic: str) -> tuple[float, float] | None:
    """The 95 % confidence interval of a statistic, None where only one round was taken.

    Bootstraps whole rounds, not single values: those of one round are not independent (Field & Welsh 2007).
    The percentile interval is too narrow for few rounds, and is stretched about the estimate by Student's
    factor √(n/(n − 1))·t_(n−1)/z (after Hesterberg 2015, section 5.2): 2.7 for three rounds, 1.06 for thirty.
    """
    import numpy as np
    from scipy.special import ndtri, stdtrit

    count = len(sample.by_round)
    if count < 2:
        return None
    length = min(len(values) for values in sample.by_round)  # so that rounds can be drawn as rows
    rounds = np.array([values[:length] for values in sample.by_round])
    draws = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    at_once = max(1, _MOST_VALUES_AT_ONCE // rounds.size)
    estimates = np.concatenate(
        [_estimates(rounds[draws[first : first + at_once]], statistic) for first in range(0, RESAMPLES, at_once)]
    )
    tail = (1 - CONFIDENCE) / 2
    centre = sample.statistic(statistic)
    stretch = math.sqrt(count / (count - 1)) * stdtrit(count - 1, tail) / ndtri(tail)
    below, above = np.quantile(estimates, [tail, 1 - tail]) - centre
    return float(centre + stretch * min(below, 0)), float(centre + stretch * max(above, 0))


def _estimates(resampled: NDArray[np.float64], statistic: str) -> NDArray[np.float64]:
    """One estimate for each resample of (rounds, values)."""
    import numpy as np

    flat = resampled.reshape(len(resampled), -1)
    if statistic in _QUANTILES:
        return np.asarray(np.quantile(flat, _QUANTILES[statistic], axis=1))
    return np.asarray(getattr(np, statistic)(flat, axis=1))  # mean, min, max


def supported(values: Sequence[float], statistic: str) -> bool:
    """Whether a percentile exists in the sample: at least one value beyond it, n·(1 − q) ≥ 1.

    The p95 of nine samples is their maximum (and gated as one, 19 % flaky in a peer's suite).
    """
    return len(values) >= samples_needed(statistic)


def samples_needed(statistic: str) -> int:
    """How many samples a percentile needs to exist: 100 for p99."""
    if statistic not in TAILS:
        return 1
    return round(1 / (1 - _QUANTILES[statistic]))
