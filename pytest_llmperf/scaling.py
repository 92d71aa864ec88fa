"""How metrics grow with one size of the workload, as something to assert.

s = llm.scaling(prompt_tokens=[128, 512, 2048])
assert s.tpot_ms.growth < 1.2  # a token costs as much after a long prompt
assert s.ttft_ms.exponent <= s.prefill_flops.exponent + 0.1  # prefill takes time as it takes work
"""

from __future__ import annotations

import math
import operator
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from pytest_llmperf.errors import UsageError, did_you_mean
from pytest_llmperf.metrics import CATALOGUE
from pytest_llmperf.model import Measurement, Sample, Unknown, Workload

SIZES = ("prompt_tokens", "output_tokens", "batch_size", "concurrency", "request_rate")


@dataclass(frozen=True)
class Trend:
    """One metric over the sizes, the smallest first: its medians, in its unit."""

    metric: str
    size: str
    by_size: Mapping[float, float]

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(self.by_size.values())

    @property
    def growth(self) -> float:
        """What it is at the largest size, as a multiple of what it is at the smallest."""
        self._check_positive()
        return self.values[-1] / self.values[0]

    @property
    def exponent(self) -> float:
        """k of the power law, size^k, that fits best: the least-squares slope of its logarithm against the size's."""
        self._check_positive()
        sizes, values = map(math.log, self.by_size), map(math.log, self.values)
        return statistics.linear_regression(list(sizes), list(values)).slope

    def _check_positive(self) -> None:
        for size, value in self.by_size.items():
            if value <= 0:
                raise UsageError(
                    f"{self.metric} is {value:g} at {self.size}={size}: nothing can be said of how a zero grows"
                )


@dataclass(frozen=True, repr=False)
class Scaling:
    """Measurements that differ in one size; answers by metric name.

    Args:
        size: the keyword that differs.
        measurements: by size, the smallest first.
    """

    size: str
    measurements: Mapping[float, Measurement]

    def __repr__(self) -> str:  # short: failed assertions show it
        return f"<Scaling over {self.size} {', '.join(map(str, self.measurements))}>"

    def __getattr__(self, name: str) -> Trend:
        if name.startswith("__") or name in ("size", "measurements"):  # not there yet while a copy is being made
            raise AttributeError(name)
        if name not in CATALOGUE:
            raise AttributeError(f"a Scaling has no {name!r}{did_you_mean(name, CATALOGUE)}")
        return self.trend(name)

    def trend(self, metric: str) -> Trend:
        """One metric over the sizes.

        Raises:
            UsageError: no such metric, or it is unknown at a size.
        """
        if metric not in CATALOGUE:
            raise UsageError(f"{metric!r} is no metric{did_you_mean(metric, CATALOGUE)}")
        by_size = {}
        for size, measurement in self.measurements.items():
            sample = measurement.samples.get(metric, _UNSEEN)
            if not isinstance(sample, Sample):
                raise UsageError(f"{metric} is unknown at {self.size}={size}: {sample.reason}")
            by_size[size] = sample.median
        return Trend(metric, self.size, by_size)


_UNSEEN = Unknown("it was not measured")


def sizes_of(keywords: Mapping[str, Any]) -> tuple[str, list[float]]:
    """The one keyword that is a list of sizes, and these.

    Raises:
        UsageError: none is, or several are; a size is not one, or repeats; fewer than two.
    """
    given = {name: value for name, value in keywords.items() if name in SIZES}
    lists = {name: list(map(_whole, value)) for name, value in given.items() if _is_list(value)}
    if len(lists) != 1:
        single = " and ".join(f"{name}={value!r}" for name, value in given.items())
        found = f"{' and '.join(f'{name}=' for name in lists)} are lists" if lists else f"{single or 'none'} was given"
        raise UsageError(
            f"llm.scaling(): expected a list of sizes for exactly one of {', '.join(SIZES)}, as in "
            f"prompt_tokens=[128, 512, 2048]; {found}"
        )
    ((name, values),) = lists.items()
    for value in values:
        Workload(**{name: value})
    if repeated := [value for value in values if values.count(value) > 1]:
        raise UsageError(f"{name}={values}: {repeated[0]} is there more than once")
    if len(values) < 2:
        raise UsageError(f"{name}={values}: growth needs at least two sizes")
    return name, values


def _is_list(value: object) -> bool:
    """Also a range, a set, a generator, an array."""
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


def _whole(value: Any) -> Any:
    """An int of another library's, as an array has them, as one of Python."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        return value
    return operator.index(value)
