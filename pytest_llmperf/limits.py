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
from pytest_llmperf.metrics import CATALOGUE, Kind, Metric, Per
from pytest_llmperf.model import STATISTICS, TAILS, Limit, Tolerance, subject
from pytest_llmperf.units import fraction

_FORM = "a limit is METRIC[.STATISTIC] < NUMBER, like 'ttft_ms < 50' or 'itl_ms.p99 <= 12'"
_SUBJECT = r"\s*(?P<subject>[A-Za-z_]\w*(?:\s*\.\s*\w+)*?)\s*"
_LIMIT = re.compile(_SUBJECT + r"(?P<operator><=|>=|<|>)\s*(?P<bound>\S.*)", re.DOTALL)
_TOLERANCE = re.compile(_SUBJECT + r"\.\s*within\s*\((?P<tolerance>[^()]*)\)\s*")


class Expression:
    """A metric, or one of its statistics, to be compared with a number."""

    def __init__(self, metric: Metric, statistic: str = "median") -> None:
        self._metric = metric
        self._statistic = statistic

    def __repr__(self) -> str:
        return subject(self._metric.name, self._statistic)

    def __getattr__(self, name: str) -> Expression:
        if name.startswith("_"):
            raise AttributeError(name)  # asked for by copy and pickle before there is anything to answer with
        if self._statistic != "median":
            raise AttributeError(f"{self!r} is a statistic already; it has no {name!r}")
        if name not in STATISTICS:
            known = f"{did_you_mean(name, STATISTICS)} (known: {', '.join(STATISTICS)})"
            raise AttributeError(f"{self!r} has no statistic {name!r}{known}")
        if name in TAILS and self._metric.per is Per.MEASUREMENT:
            raise AttributeError(f"{self!r} has one value per measurement, and so no {name}; write {self!r} alone")
        return Expression(self._metric, name)

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
        try:
            number = float(bound)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ValueError(f"{shown}: a limit must be a finite number of {self._metric.unit}")
        if self._metric.unit == "share" and not 0 <= number <= 1:
            raise ValueError(f"{shown}: {self._metric.name} is a share, and its limit lies between 0 and 1")
        return Limit(self._metric.name, self._statistic, symbol, number)


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
    try:
        return _parse(text)
    except (UsageError, AttributeError, TypeError, ValueError) as error:
        message = str(error)
        raise UsageError(message if repr(text) in message else f"{text!r}: {message}") from None


def _parse(text: str) -> Limit | Tolerance:
    if len(re.findall(r"[<>]=?", text)) > 1:
        raise UsageError("a chained comparison; write two limits")
    if match := _TOLERANCE.fullmatch(text):
        share = match["tolerance"].strip().strip("'\"")
        return _subject(match["subject"]).within(float(share) if re.fullmatch(r"0?\.\d+", share) else share)
    if called := re.search(r"\.\s*(\w+)\s*\(|\.\s*(within)\b", text):
        name = called[1] or called[2]
        fix = "write the tolerance as tpot_ms.within(3%)" if name == "within" else f"{name} is not called; {_FORM}"
        raise UsageError(fix)
    match = _LIMIT.fullmatch(text)
    if match is None:
        raise UsageError(_FORM)
    bounded = _subject(match["subject"])
    number, unit = _number_and_unit(match["bound"])
    expected = CATALOGUE[match["subject"].partition(".")[0].strip()].unit
    if unit not in ("", expected):
        raise UsageError(f"{bounded!r} is in {expected}, not {unit!r}; write the number in {expected}")
    return bounded._limit(match["operator"], number)


def _subject(path: str) -> Expression:
    name, *statistics = (part.strip() for part in path.split("."))
    named = expression(name)
    for statistic in statistics:
        named = getattr(named, statistic)
    return named


def _number_and_unit(bound: str) -> tuple[float, str]:
    """`50`, `50 ms`, or `50ms` with no space before its unit."""
    number, *units = bound.split()
    glued = re.fullmatch(r"([-+]?[\d_.]+(?:[eE][-+]?\d+)?)([A-Za-z/%]+)", number)
    if glued and not units:
        number, units = glued[1], [glued[2]]
    unit = " ".join(units)
    if re.search(r"\d", unit):
        raise UsageError(_FORM)
    try:
        return float(number), unit
    except ValueError:
        raise UsageError(f"{number!r} is not a number; {_FORM}") from None
