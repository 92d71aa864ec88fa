"""The noise of one machine, as its calibrations tell it."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from pytest_llmperf.baselines.schema import Calibration, NoiseFile, Pairs
from pytest_llmperf.model import Environment
from pytest_llmperf.verdict.comparison import PRIORS, Noise

LEAST = 0.002
"""No level of noise is taken to be smaller: a machine seen quiet for minutes may be louder for hours."""
_FEWEST_SITTINGS = 3
"""Calibrations at different times, before what lies between sessions is taken from them alone."""
_TWO_GROUPS = 0.65
"""Of Sarle's coefficient of |h|: 0.51 for processes of one kind, 1 where they fall into two."""


def noise_of(file: NoiseFile | None, environment: Environment) -> Mapping[str, Noise]:
    """Noise by metric, from the calibrations made with this many threads; empty where there are none."""
    known = [c for c in file.calibrations if c.threads == environment.threads] if file else []
    prior = PRIORS.get(environment.device_type, PRIORS["cpu"])
    names = dict.fromkeys(name for calibration in known for name in calibration.metrics)
    return {name: noise(known, name, prior) for name in names}


def noise(calibrations: Sequence[Calibration], metric: str, prior: Noise) -> Noise:
    """The noise levels of one metric over all targets that were calibrated: the loudest of them.

    Between processes: var h = 2σ_p² + mean s², the pairs' own error taken off. Between sessions: the spread of
    levels over calibrations of one target at three times or more, else at least the prior.
    """
    by_target: dict[str, list[Pairs]] = {}
    for calibration in calibrations:
        if metric in calibration.metrics:
            by_target.setdefault(calibration.target, []).append(calibration.metrics[metric])
    found = [_of_target(sittings, prior) for sittings in by_target.values()]
    loudest = max(found, key=lambda noise: noise.process)
    return dataclasses.replace(loudest, session=max(noise.session for noise in found))


def _of_target(sittings: Sequence[Pairs], prior: Noise) -> Noise:
    differences = [difference for pairs in sittings for difference in pairs.differences]
    errors = [error for pairs in sittings for error in pairs.errors]
    process = process_deviation(differences, errors)
    levels = [statistics.fmean(pairs.levels) for pairs in sittings]
    drift = statistics.stdev(levels) if len(levels) > 1 else 0.0
    within = statistics.fmean(statistics.pstdev(pairs.levels) for pairs in sittings)
    enough = len(levels) >= _FEWEST_SITTINGS
    session = drift if enough else max(prior.session, drift, within)
    return Noise(
        max(process, LEAST),
        max(session, process, LEAST),
        df=len(differences),
        session_df=len(levels) - 1 if enough else prior.session_df,
        calibrated=True,
        bimodal=is_bimodal(differences),
    )


def process_deviation(differences: Sequence[float], errors: Sequence[float]) -> float:
    """σ_p of A/A pairs: their differences have mean 0 and variance 2σ_p² + s²."""
    seen = statistics.fmean(difference**2 for difference in differences)
    own = statistics.fmean(error**2 for error in errors)
    return math.sqrt(max(0.0, seen - own) / 2)


def is_bimodal(differences: Sequence[float]) -> bool:
    """Whether processes fall into two groups: then |h| is either near 0 or near the groups' distance.

    Sarle's coefficient (skewness² + 1)/(kurtosis, corrected for the sample's size); with fewer than eight
    pairs it cannot tell.
    """
    n = len(differences)
    if n < 8:
        return False
    from scipy.stats import kurtosis, skew

    distances = [abs(difference) for difference in differences]
    if statistics.pstdev(distances) == 0:
        return False
    corrected = kurtosis(distances, bias=False) + 3 * (n - 1) ** 2 / ((n - 2) * (n - 3))
    return bool((skew(distances, bias=False) ** 2 + 1) / corrected > _TWO_GROUPS)
