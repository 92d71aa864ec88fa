"""The noise of one machine, as its calibrations tell it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from pytest_llmperf.baselines.schema import Calibration, NoiseFile, Pairs
from pytest_llmperf.model import Environment
from pytest_llmperf.verdict.comparison import PRIORS, Noise

LEAST = 0.002
"""No level of noise is taken to be smaller: a machine seen quiet for minutes may be louder for hours."""
FEWEST_DAYS = 3
"""On which one work was calibrated, before what lies between sessions is taken from there; those of one day are one."""
_FEWEST_PAIRS = 8
"""That can show two kinds of processes."""
_FEWEST_OF_A_KIND = 3
_BEYOND_ERROR = 3.0
"""Standard errors of a pair, root mean square: what is nearer than that may be a matter of the rounds."""
_ITERATIONS = 30
"""Scoring of the likelihood comes to rest in fewer."""


def noise_of(file: NoiseFile | None, environment: Environment, target: str = "") -> Mapping[str, Noise]:
    """Noise by metric, from the calibrations made with this many threads; empty where there are none.

    Those of the target itself count alone, where there are some: a model of 1 ms per token knows another noise
    than one of 20 ms.
    """
    known = [c for c in file.calibrations if c.threads == environment.threads] if file else []
    own = own_of(file, environment, target)
    prior = PRIORS.get(environment.device_type, PRIORS["cpu"])
    names = dict.fromkeys(name for calibration in known for name in calibration.metrics)
    return {name: noise(_with(name, own) or _with(name, known), name, prior) for name in names}


def own_of(file: NoiseFile | None, environment: Environment, target: str) -> list[Calibration]:
    """The calibrations of a target itself, as it runs in this environment."""
    as_here = environment.threads, environment.dtype, target
    return [c for c in file.calibrations if (c.threads, c.dtype, c.target) == as_here] if file else []


def _with(metric: str, calibrations: Sequence[Calibration]) -> list[Calibration]:
    return [calibration for calibration in calibrations if metric in calibration.metrics]


def noise(calibrations: Sequence[Calibration], metric: str, prior: Noise) -> Noise:
    """The noise levels of one metric over all works that were calibrated: the loudest of them.

    What lies between sessions is the spread of a work's levels over days, where there are enough, else at least
    the prior.
    """
    works: dict[tuple[object, ...], list[Calibration]] = {}
    for calibration in _with(metric, calibrations):
        works.setdefault(calibration.of, []).append(calibration)
    found = [_between_processes([c.metrics[metric] for c in work]) for work in works.values()]
    levels = [_levels_by_day(work, metric) for work in works.values()]
    measured = [(statistics.stdev(days), len(days) - 1.0) for days in levels if len(days) >= FEWEST_DAYS]
    if not measured:
        spreads = [*levels, *(c.metrics[metric].levels for work in works.values() for c in work)]
        seen = [statistics.stdev(spread) for spread in spreads if len(spread) > 1]
        measured = [(max(prior.session, *seen), prior.session_df)]
    session, session_df = max(measured)
    process, df = _with_prior(*max(found)[:2], prior)
    bimodal = any(two_kinds for _, _, two_kinds in found)
    return Noise(process, max(session, process), df, session_df, calibrated=True, bimodal=bimodal)


def days_of(calibrations: Sequence[Calibration], metric: str) -> int:
    """On how many days the work that is known best was calibrated."""
    days: dict[tuple[object, ...], set[str]] = {}
    for calibration in _with(metric, calibrations):
        days.setdefault(calibration.of, set()).add(_day(calibration))
    return max(map(len, days.values()), default=0)


def _levels_by_day(calibrations: Sequence[Calibration], metric: str) -> list[float]:
    """The mean level of ln(value) on each day."""
    days: dict[str, list[float]] = {}
    for calibration in calibrations:
        days.setdefault(_day(calibration), []).extend(calibration.metrics[metric].levels)
    return [statistics.fmean(levels) for levels in days.values()]


def _day(calibration: Calibration) -> str:
    return calibration.recorded[:10]


def process_noise(differences: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """σ_p of A/A pairs, and the degrees of freedom it is worth.

    Their differences have mean 0 and variance 2σ_p² + s². Of that each pair's own s² is taken off, but not its
    uncertainty: what is left is worth the sum of (2σ_p²/(2σ_p² + s²))² (Satterthwaite 1946). In simulation, a
    machine calibrated under load (s three times σ_p) and quiet afterwards calls a harmless 2 % REGRESSED in
    1–4 % of runs if every pair counts whole, and in 0.1 % or less so. Precise pairs weigh more, as in maximum
    likelihood; otherwise the loudest would drown the rest.
    """
    squares = [difference**2 for difference in differences]
    own = [error**2 for error in errors]
    least = 2 * LEAST**2
    variance = max(least, statistics.fmean(squares) - statistics.fmean(own))
    for _ in range(_ITERATIONS):
        weights = [(variance + square) ** -2 for square in own]
        left = (weight * (seen - square) for weight, seen, square in zip(weights, squares, own, strict=True))
        variance = max(least, sum(left) / sum(weights))
    worth = sum((variance / (variance + square)) ** 2 for square in own)
    return math.sqrt(variance / 2), max(1.0, worth)


def _with_prior(process: float, df: float, prior: Noise) -> tuple[float, float]:
    """σ_p and what it is worth, as far as the calibration is worth less than the prior filled up with that.

    Pairs whose own errors hide what lies between processes would otherwise leave one degree of freedom, and an
    interval of ± 35 % after them, where no calibration at all leaves four.
    """
    missing = max(0.0, prior.df - df)
    variance = (df * process**2 + missing * prior.process**2) / (df + missing)
    return math.sqrt(variance), df + missing


def is_bimodal(differences: Sequence[float], errors: Sequence[float]) -> bool:
    """Whether processes fall into two groups: then |h| is either near 0 or near the distance of the groups.

    Split in two where the parts are narrowest, with at least three in each: do they explain more of the variance
    of |h| than 0.70 + 0.62/√n, and lie farther apart than the pairs' own errors reach? By simulation that is a
    false alarm in at most 5 % of calibrations of 8, 10 or 20 pairs where processes vary normally or with the
    tails of t(3). Groups of equal size, or of 1:4, that lie 8 σ_p apart are seen in 30–40 % of calibrations of
    8 pairs, 50–60 % of 10 and 95 % of 20; at 5 σ_p in 10 %, 15 % and 30 %; nearer than 4 σ_p hardly ever, and then
    σ_p holds them. Sarle's coefficient of |h| sees next to none of these.
    """
    n = len(differences)
    distances = sorted(map(abs, differences))
    whole = _squares(distances)
    if n < _FEWEST_PAIRS or whole == 0:
        return False
    halves = ((distances[:at], distances[at:]) for at in range(_FEWEST_OF_A_KIND, n - _FEWEST_OF_A_KIND + 1))
    near, far = min(halves, key=lambda parts: sum(map(_squares, parts)))
    if statistics.fmean(far) - statistics.fmean(near) <= _BEYOND_ERROR * math.hypot(*errors) / math.sqrt(n):
        return False
    return 1 - (_squares(near) + _squares(far)) / whole > 0.70 + 0.62 / math.sqrt(n)


def _squares(values: Sequence[float]) -> float:
    return statistics.pvariance(values) * len(values)


def _between_processes(sittings: Sequence[Pairs]) -> tuple[float, float, bool]:
    """σ_p, what it is worth, and whether there are two kinds of processes."""
    differences = [difference for pairs in sittings for difference in pairs.differences]
    errors = [error for pairs in sittings for error in pairs.errors]
    return *process_noise(differences, errors), is_bimodal(differences, errors)
