"""Is head slower than base? The rule for timed metrics, over numbers alone.

Everything is in ln(value), turned so that a positive change is a worse one. The unit of replication is the
process (in a duet the pair of processes), or for stored baselines the session: rounds of one process are not
independent. Variances are moderated by what is known of the machine beforehand (Smyth 2004, section 3).

A tolerance τ splits changes in three: what is below 0.4·τ never fails, what reaches τ is never OK, and
what lies between may come to either, or to neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from pytest_llmperf.results import Verdict

HARMLESS = 0.4
"""A share of the tolerance: a change that may be smaller than this never fails."""
FLOOR = 0.8
"""A share of the tolerance: an estimate below this never fails, however precise."""
BETA = 0.01
"""Chance, per comparison, of calling a change of the whole tolerance OK."""


def alpha(comparisons: int) -> float:
    """Chance, per comparison, of calling a harmless change REGRESSED: divided among all that a run makes."""
    return min(0.002, 0.02 / max(1, comparisons))


@dataclass(frozen=True)
class Noise:
    """How far measurements of the same code lie apart, as standard deviations of ln(value).

    Args:
        process: between processes started one after the other.
        session: between sessions, at other times, on the same machine.
        df: degrees of freedom that `process` is worth.
        session_df: degrees of freedom that `session` is worth.
        calibrated: whether they were measured on this machine.
        bimodal: whether processes fall into two groups, so that two of them are no proof.
    """

    process: float
    session: float
    df: float = 4.0
    session_df: float = 4.0
    calibrated: bool = False
    bimodal: bool = False

    @property
    def fewest(self) -> int:
        """Processes, or pairs, before anything is REGRESSED: memory layout and clocks stay put within one."""
        return 3 if self.bimodal else 2


PRIORS: Mapping[str, Noise] = MappingProxyType({"cpu": Noise(0.02, 0.05), "cuda": Noise(0.01, 0.015)})
"""By device type, until `llmperf calibrate` has measured it; other device types are taken as cpu."""
MOST_PAIRS: Mapping[str, int] = MappingProxyType({"cpu": 8, "cuda": 4})


def most_pairs(device_type: str) -> int:
    """Pairs after which a duet ends; other device types are taken as cpu."""
    return MOST_PAIRS.get(device_type, MOST_PAIRS["cpu"])


@dataclass(frozen=True)
class Estimate:
    """ln(head/base) where positive is worse, its standard error, and the degrees of freedom of that error."""

    change: float
    error: float
    df: float

    def surely_below(self, bound: float) -> float:
        """The chance of an estimate this low if the true change were `bound`."""
        return _student(self.df, (self.change - bound) / self.error)

    def surely_above(self, bound: float) -> float:
        """The chance of an estimate this high if the true change were `bound`."""
        return _student(self.df, (bound - self.change) / self.error)

    @property
    def spread(self) -> float:
        """Half the 95 % interval."""
        from scipy.special import stdtrit

        return float(-stdtrit(self.df, 0.025)) * self.error


def decide(estimate: Estimate, tolerance: float, *, alpha: float, beta: float = BETA) -> Verdict:
    """OK is asked first, then REGRESSED, by its two conditions; INCONCLUSIVE is what is neither.

    Args:
        tolerance: τ as a fraction.
        alpha: error to spend on REGRESSED in this look; 0 leaves it out.
        beta: error to spend on OK in this look; 0 leaves it out.
    """
    harmless = math.log1p(HARMLESS * tolerance)
    if estimate.surely_below(math.log1p(tolerance)) < beta:
        improved = estimate.surely_below(-harmless) < beta
        return Verdict.IMPROVED if improved else Verdict.OK
    if estimate.change >= math.log1p(FLOOR * tolerance) and estimate.surely_above(harmless) < alpha:
        return Verdict.REGRESSED
    return Verdict.INCONCLUSIVE


# Stored baselines: sessions apart in time


MOST_ERROR = 1e3
"""Of a median, relative to it: a larger one, which only a damaged file can hold, could not be squared."""


@dataclass(frozen=True)
class Level:
    """ln of a metric in one session: the mean over its processes, and the standard error of one of them."""

    mean: float
    processes: int = 1
    error: float = 0.0

    @classmethod
    def of(cls, medians: Sequence[float], errors: Sequence[float]) -> Level:
        """From each process's median and its standard error, both in the metric's unit and above 0."""
        if len(medians) == 1:  # by far the most frequent, and there are thousands
            return cls(math.log(medians[0]), 1, min(errors[0] / medians[0], MOST_ERROR))
        relative = [min(error / median, MOST_ERROR) for median, error in zip(medians, errors, strict=True)]
        return cls(
            _mean([math.log(median) for median in medians]),
            len(medians),
            math.sqrt(_mean([error**2 for error in relative])),
        )


@dataclass(frozen=True)
class Spread:
    """What earlier sessions taught: the standard deviation of ln(value) of one process in one session."""

    deviation: float
    df: float


MOST_LEARNED = 19.0
"""Degrees of freedom that a learned spread may be worth: as many as a baseline's own sessions can be."""


def stored_estimate(
    base: Sequence[Level], head: Sequence[Level], noise: Noise, learned: Spread | None = None, worse: int = 1
) -> Estimate:
    """Head's sessions, most often one of J processes, against K stored ones.

    For one of head SE² = σ_s²(1 + 1/K) + σ_p²(1/K + 1/J), with σ_s² + σ_p² moderated by the spread of the
    sessions; head's own session noise does not average out.

    Args:
        worse: 1 where higher is worse, −1 where lower is.
    """
    squares, df = _observed([base, head], noise, learned)
    prior = noise.session**2 + noise.process**2
    variance = (noise.session_df * prior + squares) / (noise.session_df + df)
    squared = sum(variance * _unit(arm, noise) / len(arm) + _within(arm) for arm in (base, head))
    change = _mean([level.mean for level in head]) - _mean([level.mean for level in base])
    return Estimate(worse * change, math.sqrt(squared), noise.session_df + df)


def learn(sessions: Sequence[Level], noise: Noise, learned: Spread | None = None) -> Spread | None:
    """The spread of these sessions, pooled with what was learned before; None where there is nothing to learn from."""
    squares, df = _observed([sessions], noise, learned)
    return Spread(math.sqrt(squares / df), min(df, MOST_LEARNED)) if df else None


def _observed(arms: Sequence[Sequence[Level]], noise: Noise, learned: Spread | None) -> tuple[float, float]:
    """Sum of squares and degrees of freedom that were seen, scaled to one process in one session.

    What the sessions' own errors explain is taken off, since the estimate adds it again.
    """
    squares, df = (learned.deviation**2 * learned.df, learned.df) if learned else (0.0, 0.0)
    for arm in arms:
        if len(arm) > 1:
            between = _variance([level.mean for level in arm]) - _within(arm) * len(arm)
            squares += max(0.0, between) / _unit(arm, noise) * (len(arm) - 1)
            df += len(arm) - 1
    return squares, df


def _unit(sessions: Sequence[Level], noise: Noise) -> float:
    """Variance of such sessions, relative to one of a single process: only the processes' share averages out."""
    processes = len(sessions) / math.fsum(1 / session.processes for session in sessions)  # their harmonic mean
    share = noise.process**2 / (noise.session**2 + noise.process**2)
    return 1 - share * (1 - 1 / processes)


def _within(sessions: Sequence[Level]) -> float:
    """Variance of the sessions' mean that comes from their own errors."""
    return sum(session.error**2 / session.processes for session in sessions) / len(sessions) ** 2


# Duet: pairs of processes measured in alternation


@dataclass(frozen=True)
class Pair:
    """One base process and one head process: the difference of ln(value), positive where head is worse.

    Args:
        difference: Hodges–Lehmann estimate over the paired rounds.
        error: its standard error within the pair.
    """

    difference: float
    error: float


def pair_of(differences: Sequence[float]) -> Pair:
    """From the paired rounds' ln(head) − ln(base): the median of their Walsh averages, and its standard error.

    The error comes from the distribution-free 95 % interval of the signed-rank statistic (Hollander & Wolfe,
    section 3.3), as if it were a normal one. Fewer than 6 rounds have no such interval, and get Student's.
    """
    import numpy as np

    values = np.asarray(differences, dtype=float)
    n = len(values)
    first, second = np.triu_indices(n)
    walsh = np.sort((values[first] + values[second]) / 2)
    if n < _FEWEST_RANKED:
        return Pair(float(np.median(walsh)), _students_error(differences))
    k = max(0, math.floor(n * (n + 1) / 4 - 1.96 * math.sqrt(n * (n + 1) * (2 * n + 1) / 24)))
    return Pair(float(np.median(walsh)), float(walsh[len(walsh) - k - 1] - walsh[k]) / (2 * 1.96))


_FEWEST_RANKED = 6


def _students_error(values: Sequence[float]) -> float:
    """Half of Student's 95 % interval of the mean, over 1.96; infinite for one value."""
    if len(values) < 2:
        return math.inf
    from scipy.special import stdtrit

    return float(-stdtrit(len(values) - 1, 0.025)) / 1.96 * math.sqrt(_variance(values) / len(values))


PAIRED_ROUNDS = (8, 12, 18, 27, 40)
"""Rounds of a pair after which its precision is looked at."""


def precise(pair: Pair, noise: Noise) -> bool:
    """Whether more rounds of this pair would tell little: what is left lies between processes.

    The effect itself is not looked at, so that stopping adds no bias.
    """
    return pair.error <= precise_enough(noise)


def precise_enough(noise: Noise) -> float:
    """The standard error of a pair below which rounds end."""
    return max(math.sqrt(2) * noise.process, 0.004)


def pairs_estimate(pairs: Sequence[Pair], noise: Noise) -> Estimate:
    """The change over K pairs: V = [ν₀(2σ_p² + mean s²) + (K − 1)·S²]/(ν₀ + K − 1), SE = √(V/K)."""
    count = len(pairs)
    differences = [pair.difference for pair in pairs]
    prior = 2 * noise.process**2 + _mean([pair.error**2 for pair in pairs])
    observed = _variance(differences) if count > 1 else 0.0
    df = noise.df + count - 1
    variance = (noise.df * prior + (count - 1) * observed) / df
    return Estimate(_mean(differences), math.sqrt(variance / count), df)


def pairs_verdict(pairs: Sequence[Pair], noise: Noise, tolerance: float, *, alpha: float, most: int) -> Verdict:
    """The verdict after these pairs, INCONCLUSIVE asking for one more; the errors are spent over `most` looks.

    With one pair nothing is REGRESSED; and nothing is OK either, unless the machine is calibrated, or while its
    processes are bimodal.
    """
    enough = len(pairs) >= noise.fewest
    return decide(
        pairs_estimate(pairs, noise),
        tolerance,
        alpha=alpha / max(1, most - 1) if enough else 0.0,
        beta=BETA / most if enough or (noise.calibrated and not noise.bimodal) else 0.0,
    )


FUTILE = 0.1
"""Chance, per look, of giving up a change that would be REGRESSED."""


def worth_more(estimate: Estimate, tolerance: float) -> bool:
    """Whether more pairs are likely to find it REGRESSED: it looks harmful, and as large as that has to be."""
    return (
        estimate.change > math.log1p(HARMLESS * tolerance)
        and estimate.surely_below(math.log1p(FLOOR * tolerance)) >= FUTILE
    )


def _mean(values: Sequence[float]) -> float:
    """As `statistics.fmean`, whose care for other types takes most of the time that a thousand tests need."""
    return math.fsum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    centre = _mean(values)
    return math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1)


def _student(df: float, t: float) -> float:
    from scipy.special import stdtr

    return float(stdtr(df, t))
