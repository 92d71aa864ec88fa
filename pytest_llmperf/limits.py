"""Limits: bounds that a test sets on metrics, as expressions or as the same in text.

    limit     = metric [ "." statistic ] ( "<" | "<=" | ">" | ">=" ) number [ unit ]
    tolerance = metric "." "within" "(" percentage ")"

`ttft_ms < 50` and `"ttft_ms < 50"` are the same limit, on the median. Another statistic is named
after a dot: `itl_ms.p99 <= 12`. The unit, where given in text, must be the metric's own: `"ttft_ms < 50 ms"`.
`tpot_ms.within("3%")` is no limit but a tolerance against the baseline, and makes the metric gate.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from numbers import Real
from typing import NoReturn

from pytest_llmperf.errors import UsageError, did_you_mean
from pytest_llmperf.metrics import CATALOGUE, Kind, Metric
from pytest_llmperf.model import STATISTICS, Limit, Tolerance
from pytest_llmperf.units import fraction

_FORM = "a limit is METRIC[.STATISTIC] < NUMBER, like 'ttft_ms < 50' or 'itl_ms.p99 <= 12'"
_TEXT = re.compile(
    r"\s*(?P<name>[A-Za-z_]\w*)\s*(?:\.\s*(?P<attribute>\w+)\s*(?P<arguments>\([^)]*\))?)?\s*(?P<rest>.*?)\s*"
)
_BOUND = re.compile(r"(?P<operator><=|>=|<|>)\s*(?P<number>[^\s<>=]+)\s*(?P<unit>[^\d\s<>=][^<>=]*)?")


class Expression:
    """A metric, or one of its statistics, to be compared with a number."""

    def __init__(self, metric: Metric, statistic: str = "median") -> None:
        self._metric = metric
        self._statistic = statistic

    def __repr__(self) -> str:
        return self._metric.name if self._statistic == "median" else f"{self._metric.name}.{self._statistic}"

    def __getattr__(self, name: str) -> Expression:
        if name in STATISTICS and self._statistic == "median":
            return Expression(self._metric, name)
        raise AttributeError(
            f"{self!r} has no statistic {name!r}{did_you_mean(name, STATISTICS)} (known: {', '.join(STATISTICS)})"
        )

    def within(self, tolerance: str | float) -> Tolerance:
        """`tpot_ms.within("3%")`: the tolerance of this metric against its baseline, which makes it gate.

        Raises:
            UsageError: on a statistic other than the median, on a metric that is never compared or only
                exactly, and on a tolerance outside (0, 1).
        """
        metric = self._metric
        if self._statistic != "median":
            raise UsageError(f"{self!r}.within(): baselines compare medians only; write {metric.name}.within()")
        if metric.kind is Kind.REPORT:
            raise UsageError(f"{self!r}.within(): {metric.name} is reported, never compared; set a limit instead")
        if metric.kind is Kind.COUNTED:
            raise UsageError(f"{self!r}.within(): {metric.name} is counted, and compared exactly without being asked")
        try:
            return Tolerance(metric.name, fraction(tolerance))
        except ValueError as error:
            raise UsageError(f"{self!r}.within(): {error}") from None

    def __lt__(self, bound: object) -> Limit:
        return self._limit("<", bound)

    def __le__(self, bound: object) -> Limit:
        return self._limit("<=", bound)

    def __gt__(self, bound: object) -> Limit:
        return self._limit(">", bound)

    def __ge__(self, bound: object) -> Limit:
        return self._limit(">=", bound)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Expression):
            return repr(self) == repr(other)
        raise TypeError(f"{self!r} == {other!r}: a measured value is never equal to a bound; use <= or >=")

    __hash__ = None  # type: ignore[assignment]  # not a key: == raises

    def __bool__(self) -> NoReturn:
        raise TypeError(f"{self!r} alone is no limit; compare it with a number, like {self!r} < 50")

    def _limit(self, symbol: str, bound: object) -> Limit:
        shown = f"{self!r} {symbol} {bound!r}"
        if isinstance(bound, Expression):
            raise TypeError(f"{shown}: a limit compares a metric with a number, not with another metric")
        if isinstance(bound, bool) or not isinstance(bound, Real):
            unit = self._metric.unit
            raise TypeError(f"{shown}: expected a plain number of {unit}, not {type(bound).__name__}")
        if not math.isfinite(bound):
            raise ValueError(f"{shown}: a limit must be a finite number of {self._metric.unit}")
        return Limit(self._metric.name, self._statistic, symbol, float(bound))


EXPRESSIONS: Mapping[str, Expression] = {name: Expression(metric) for name, metric in CATALOGUE.items()}


def expression(name: str) -> Expression:
    """The expression of a metric by its name."""
    if name not in EXPRESSIONS:
        raise UsageError(f"no metric {name!r}{did_you_mean(name, CATALOGUE)} (`llmperf metrics` lists them)")
    return EXPRESSIONS[name]


def parse(text: str) -> Limit | Tolerance:
    """A limit or tolerance from its text.

    Raises:
        UsageError: naming the text and what in it is wrong.
    """
    match = _TEXT.fullmatch(text)
    if match is None or re.match(r"\s*[-+.\d]", text):
        raise UsageError(f"{text!r}: {_FORM}")
    try:
        return _parse(text, match)
    except (UsageError, AttributeError, TypeError, ValueError) as error:
        message = str(error)
        raise UsageError(message if repr(text) in message else f"{text!r}: {message}") from None


def _parse(text: str, match: re.Match[str]) -> Limit | Tolerance:
    subject = expression(match["name"])
    if match["attribute"] == "within":
        if not match["arguments"] or match["rest"]:
            raise UsageError("write the tolerance as tpot_ms.within(3%)")
        return subject.within(match["arguments"][1:-1].strip().strip("'\""))
    if match["arguments"]:
        raise UsageError(f"{match['attribute']} is not called; {_FORM}")
    if match["attribute"]:
        subject = getattr(subject, match["attribute"])
    bound = _BOUND.fullmatch(match["rest"])
    if bound is None:
        chained = len(re.findall(r"[<>]=?", text)) > 1
        raise UsageError("a chained comparison; write two limits" if chained else _FORM)
    _check_unit(match["name"], bound["unit"])
    number = _number(bound["number"], CATALOGUE[match["name"]].unit)
    return subject._limit(bound["operator"], number)


def _number(text: str, unit: str) -> float:
    split = re.fullmatch(r"([-+.\deE_]+)([A-Za-z/%]+)", text)  # "50ms" has no space before its unit
    if split and split[2] != unit:
        raise UsageError(f"{text!r} is not in {unit}; write the number in {unit}")
    digits = split[1] if split else text
    try:
        return float(digits)
    except ValueError:
        raise UsageError(f"{text!r} is not a number; {_FORM}") from None


def _check_unit(name: str, unit: str | None) -> None:
    expected = CATALOGUE[name].unit
    if unit is not None and unit.strip() != expected:
        raise UsageError(f"{name} is in {expected}, not {unit.strip()!r}; write the number in {expected}")
