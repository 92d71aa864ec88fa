"""What a limit comes to, given a sample: the estimate decides, the interval only says how surely."""

from __future__ import annotations

import dataclasses

from pytest_llmperf.metrics import CATALOGUE, Better
from pytest_llmperf.model import Limit, Measurement, Row, Sample, Unknown, Verdict
from pytest_llmperf.verdict.statistics import interval, samples_needed, supported


def judge_limit(limit: Limit, measurement: Measurement, *, judged: bool = True) -> Row:
    """The row of one limit.

    BROKEN where the estimate is beyond the bound, and where there is no estimate at all: a metric that was
    not measured has not held its limit. INCONCLUSIVE where the sample is too small for the percentile.

    Args:
        judged: False leaves the verdict out (smoke runs).
    """
    sample = measurement.samples[limit.metric]
    row = _row(limit.metric, limit.statistic, sample)
    verdict, note = _verdict(limit, sample)
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
    return _row(metric, "median", sample)


def _row(metric: str, statistic: str, sample: Sample | Unknown) -> Row:
    unit = CATALOGUE[metric].unit
    if isinstance(sample, Unknown):
        return Row(metric, statistic, unit, None)
    low, high = interval(sample, statistic) or (None, None)
    return Row(metric, statistic, unit, sample.statistic(statistic), low, high, values=sample.samples)
