"""What a limit and a comparison come to, given the numbers. No I/O, and no knowledge of where a number came from."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from pytest_llmperf.metrics import CATALOGUE, Better, Kind, Metric
from pytest_llmperf.model import Failure, Limit, Measurement, Sample, Unknown
from pytest_llmperf.results import Comparison, Row, Verdict
from pytest_llmperf.units import percent, short_number
from pytest_llmperf.verdict.comparison import Estimate, decide
from pytest_llmperf.verdict.statistics import interval, samples_needed, supported


def judge_limit(limit: Limit, measurement: Measurement, *, judged: bool = True) -> Row:
    """The row of one limit.

    BROKEN where the estimate is beyond the bound, and where there is no estimate at all: a metric that was
    not measured has not held its limit. INCONCLUSIVE where the sample is too small for the percentile.

    Args:
        judged: False leaves the verdict out (smoke runs).
    """
    sample = measurement.samples[limit.metric]
    row = _row(limit.metric, limit.statistic, sample, measurement)
    verdict, note = _verdict(limit, sample)
    note = "; ".join(filter(None, [note, row.note]))
    return dataclasses.replace(row, limit=limit.comparison, verdict=verdict if judged else None, note=note)


def _verdict(limit: Limit, sample: Sample | Unknown) -> tuple[Verdict, str]:
    if isinstance(sample, Unknown):
        return Verdict.BROKEN, f"not measured: {sample.reason}"
    if not supported(sample.samples, limit.statistic):
        have, need = len(sample.samples), samples_needed(limit.statistic)
        return Verdict.INCONCLUSIVE, f"{have} samples, {limit.statistic} needs {need}; give it --llmperf-max-time"
    better = CATALOGUE[limit.metric].better
    unusual = (limit.operator in ("<", "<=")) is not (better is Better.LOWER)
    notes = [f"a limit in the unusual direction: {better.value} is better"] * unusual
    spread = interval(sample, limit.statistic)
    if spread is not None and straddles(limit, spread):
        notes.insert(0, "close: within noise")
    return (Verdict.OK if limit.holds(sample.statistic(limit.statistic)) else Verdict.BROKEN), "; ".join(notes)


def straddles(limit: Limit, spread: tuple[float, float]) -> bool:
    """Whether the bound lies inside the interval, so that more rounds could turn the verdict."""
    return limit.holds(spread[0]) != limit.holds(spread[1])


def reading(metric: str, measurement: Measurement) -> Row | None:
    """The row of a metric that no limit is set on; None where it is unknown."""
    sample = measurement.samples[metric]
    if not isinstance(sample, Sample):
        return None
    return _row(metric, "median", sample, measurement)


def _row(metric: str, statistic: str, sample: Sample | Unknown, measurement: Measurement) -> Row:
    unit = CATALOGUE[metric].unit
    if isinstance(sample, Unknown):
        return Row(metric, statistic, unit, None)
    low, high = interval(sample, statistic) or (None, None)
    note = _NOTES[metric](measurement) if metric in _NOTES else ""
    return Row(metric, statistic, unit, sample.statistic(statistic), low, high, note=note, values=sample.samples)


def _chunks(measurement: Measurement) -> str:
    """Gaps of several tokens are no longer those between tokens, and are named so."""
    arrivals = sum(len(trace.arrivals) for trace in measurement.traces)
    tokens = sum(trace.output_tokens for trace in measurement.traces)
    return f"gaps between chunks of {short_number(tokens / arrivals)} tokens" if tokens > arrivals else ""


_NOTES: Mapping[str, Callable[[Measurement], str]] = {
    "itl_ms": _chunks,
    "failed_share": lambda measurement: Failure.counted(measurement.failures),
}


def worse(metric: Metric) -> int:
    """1 where higher is worse, −1 where lower is."""
    return 1 if metric.better is Better.LOWER else -1


def judge_timed(base: float, estimate: Estimate, metric: Metric, tolerance: float, alpha: float) -> Comparison:
    """A timed metric against its baseline; `base` is what is shown of it."""
    return told_timed(base, estimate, metric, tolerance, decide(estimate, tolerance, alpha=alpha))


def told_timed(base: float, estimate: Estimate, metric: Metric, tolerance: float, verdict: Verdict) -> Comparison:
    """The comparison that an estimate and its verdict come to."""
    ratio = math.exp(worse(metric) * estimate.change)
    change, spread = ratio - 1, ratio * math.sinh(min(estimate.spread, _MOST_SPREAD))
    quiet = verdict is Verdict.INCONCLUSIVE and abs(estimate.change) < math.log1p(tolerance)
    if quiet:
        note = f"no change seen (± {f'{100 * spread:.0f} %' if spread < 1 else 'over 100 %'})"
    elif verdict is Verdict.INCONCLUSIVE and abs(estimate.change) > estimate.spread:
        told = Verdict.REGRESSED if estimate.change > 0 else Verdict.IMPROVED
        note = f"not sure enough to be {told.value}"
    elif verdict is Verdict.INCONCLUSIVE:
        note = "within this machine's noise"
    else:
        note = f"tolerance {percent(tolerance)}"
    return Comparison(verdict, base, change, spread, note, quiet=quiet)


_MOST_SPREAD = 100.0
"""Of ln(value): beyond it e^x is no number."""


EXACT = "exact"


def judge_counted(base: Sequence[float], head: Sequence[float], metric: Metric, versions: str = "") -> Comparison:
    """A counted metric: equal or not. Readings of one code that differ are unstable, and prove nothing.

    Args:
        versions: what the baseline was counted with, if that is not what runs now; then nothing is REGRESSED.
    """
    change = _change(base[-1], head[0])
    for readings, whose in ((base, "in the baseline"), (head, "now")):
        if len(set(readings)) > 1:
            seen = " and ".join(map(short_number, sorted(set(readings))))
            return Comparison(Verdict.INCONCLUSIVE, base[-1], change, None, f"unstable: {seen} {whose}")
    if head[0] == base[0]:
        return Comparison(Verdict.OK, base[0], 0.0, None, EXACT)
    if versions:
        return Comparison(Verdict.INCONCLUSIVE, base[0], change, None, f"counted with {versions}", cause="versions")
    is_worse = worse(metric) * (head[0] - base[0]) > 0
    return Comparison(Verdict.REGRESSED if is_worse else Verdict.IMPROVED, base[0], change, None, EXACT)


def judge_memory(
    base: Sequence[float], head: Sequence[float], metric: Metric, tolerance: float, floor: float
) -> Comparison:
    """A memory metric: beyond its tolerance or not; readings that disagree about it are INCONCLUSIVE.

    Args:
        tolerance: share of the baseline's reading.
        floor: the least that it is taken to be, in the metric's unit.
    """
    stored = statistics.median(base)
    allowed = max(tolerance * abs(stored), floor)
    change = _change(stored, head[0])
    shown = f"tolerance {percent(tolerance)}" if allowed > floor else f"tolerance {short_number(floor)} {metric.unit}"
    if max(base) - min(base) > allowed:
        return Comparison(Verdict.INCONCLUSIVE, stored, change, None, f"the baseline's readings differ, {shown}")
    grown = [worse(metric) * (value - stored) for value in head]
    if all(growth > allowed for growth in grown):
        verdict = Verdict.REGRESSED
    elif any(growth > allowed for growth in grown):
        seen = " and ".join(map(short_number, head))
        return Comparison(Verdict.INCONCLUSIVE, stored, change, None, f"two readings disagree: {seen}, {shown}")
    else:
        verdict = Verdict.IMPROVED if all(growth < -allowed for growth in grown) else Verdict.OK
    return Comparison(verdict, stored, change, None, shown)


def no_longer_measured(metric: Metric, base: float, missing: Unknown, versions: str = "") -> Comparison:
    """A metric that the baseline has and this measurement has not; `versions` as for what is counted."""
    note = f"no longer measured: {missing.reason}"
    if versions:
        return Comparison(Verdict.INCONCLUSIVE, base, None, None, f"{note}; counted with {versions}", cause="versions")
    certain = metric.kind is not Kind.TIMED and not missing.by_chance
    return Comparison(Verdict.REGRESSED if certain else Verdict.INCONCLUSIVE, base, None, None, note)


def _change(base: float, head: float) -> float | None:
    """The change as a share of the base, None where there is nothing to share."""
    return head / base - 1 if base else None
