"""How a metric went from run to run, and where in that it became another."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pytest_llmperf.metrics import CATALOGUE
from pytest_llmperf.reports.history import Entry, History
from pytest_llmperf.verdict.rule import worse


@dataclass(frozen=True)
class Series:
    """One metric of one measurement on one hardware, through the runs."""

    key: str
    metric: str
    hardware: str
    runs: Sequence[Entry]
    values: Sequence[float]


@dataclass(frozen=True)
class Shift:
    """A change point.

    Args:
        index: of the first run after it.
        before: the median since the change point before.
        after: the median until the next.
    """

    series: Series
    index: int
    before: float
    after: float

    @property
    def change(self) -> float:
        """After/before − 1; what grows from nothing grows without end."""
        return self.after / self.before - 1 if self.before else math.copysign(math.inf, self.after)

    @property
    def is_worse(self) -> bool:
        return worse(CATALOGUE[self.series.metric]) * (self.after - self.before) > 0


def series_of(history: History, key: str, hardware: str) -> list[Series]:
    """By metric, all that is known of one measurement from two runs on."""
    runs = [entry for entry in history.entries if entry.hardware == hardware and key in entry.results]
    found = []
    for metric in dict.fromkeys(name for run in runs for name in run.results[key].medians):
        known = [run for run in runs if metric in run.results[key].medians and metric in CATALOGUE]
        if len(known) > 1:
            values = [run.results[key].medians[metric] for run in known]
            found.append(Series(key, metric, hardware, known, values))
    return found


_FEWEST = 3
"""Runs on each side of a change point: of fewer none is to be told from a bad day."""
FEWEST_RUNS = 2 * _FEWEST
"""In which a change point can be seen."""
_PENALTY = 5.0
"""Of a change point, in log(n) squares of the noise. Simulated, of series of 20 to 200 runs without one at most 3 in
100 have any (normal, or Student's with 3 degrees of freedom); of steps of 5 standard deviations 99 in 100 are found."""
_LEAST_NOISE = 0.005
"""A share of the values: smaller steps are not worth a mark."""


def shifts(series: Series) -> list[Shift]:
    """The change points, by ruptures: least squares between them, at a price for each.

    What one run alone has measured counts for nothing, and the noise is that from run to run, which no step adds to.
    """
    if len(series.values) < FEWEST_RUNS:
        return []
    import numpy
    import ruptures
    from scipy.ndimage import median_filter

    values = numpy.asarray(series.values, dtype=float)
    noise = 1.4826 * float(numpy.median(numpy.abs(numpy.diff(values)))) / math.sqrt(2)
    scale = max(noise, _LEAST_NOISE * float(numpy.median(numpy.abs(values)))) or 1.0
    signal = median_filter(values, 3) / scale
    signal[[0, -1]] = numpy.median(values[:3]) / scale, numpy.median(values[-3:]) / scale  # they have one neighbour
    search = ruptures.KernelCPD(kernel="linear", min_size=_FEWEST).fit(signal.reshape(-1, 1))
    ends = [0, *map(int, search.predict(pen=_PENALTY * math.log(len(values))))]
    levels = [statistics.median(series.values[start:end]) for start, end in pairwise(ends)]
    steps = zip(ends[1:-1], pairwise(levels), strict=True)
    return [Shift(series, end, before, after) for end, (before, after) in steps if before != after]
