"""Conversions at the edge: seconds and bytes inside, the catalogue's units outside.

1 MiB = 2^20 bytes.
"""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Mapping
from datetime import datetime, timezone

MIB = 2**20

_PREFIXES = {"P": 1e15, "T": 1e12, "G": 1e9}
_PERCENT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*%\s*")


def milliseconds(seconds: float) -> float:
    return seconds * 1e3


def mebibytes(count: float) -> float:
    return count / MIB


def fraction(value: object) -> float:
    """A tolerance: `0.05` or `"5%"` as 0.05.

    Raises ValueError unless it lies in (0, 1): `5` is far more often a forgotten `%` than 500 %.
    """
    if isinstance(value, str):
        match = _PERCENT.fullmatch(value)
        if match is None:
            raise ValueError(f"{value!r} is not a percentage: write '5%', or 0.05 as a number")
        number = float(match[1]) / 100
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
    else:
        raise ValueError(f"{value!r} is not a tolerance: write '5%' or 0.05")
    if not 0 < number < 1:
        raise ValueError(f"{value!r} is not between 0 and 1: write '5%' or 0.05 for five percent")
    return number


def short_number(value: float) -> str:
    """At least three significant digits, thousands grouped; from a billion on with a prefix: `7.21 T`."""
    return _prefixed(value, _PREFIXES) or _without_prefix(value)


def brief_number(value: float) -> str:
    """As `short_number`, with a prefix from a million on: `18.4 M`."""
    return _prefixed(value, {**_PREFIXES, "M": 1e6}) or _without_prefix(value)


def _prefixed(value: float, prefixes: Mapping[str, float]) -> str:
    for prefix, size in prefixes.items():
        if abs(value) >= size:
            return f"{value / size:,.{decimals(value / size)}f}".removesuffix(".00") + f" {prefix}"
    return ""


def _without_prefix(value: float) -> str:
    if value == int(value):
        return f"{int(value):,}"
    if abs(value) < 1e-3:
        return f"{value:.3g}"
    return f"{value:,.{decimals(value)}f}"


def percent(share: float, *, signed: bool = False, exact: bool = False) -> str:
    """`5 %`, `0.9 %`, `+10.0 %` with a sign: one decimal below a hundred where it says something.

    Args:
        exact: what is not 0 is not shown as 0.
    """
    if exact and 0 < abs(share) < 0.0005:
        return f"{100 * share:{'+' * signed}.1g} %".replace("-", "−")
    shown = f"{100 * share:{'+' * signed},.{0 if abs(share) >= 0.995 else 1}f}"
    if not signed:
        shown = shown.removesuffix(".0")
    return f"{shown} %".replace("-", "−")


def plus_minus(value: float, spread: float) -> str:
    """`8.12 ± 0.05`, both to the decimals of the value; the spread is left out where it rounds to nothing."""
    shown = f"{spread:,.{decimals(value)}f}"
    if not float(shown.replace(",", "")):
        return short_number(value)
    return f"{value:,.{decimals(value)}f} ± {shown}"


def decimals(value: float) -> int:
    """Decimals that give a number three significant digits; none from a thousand on, one below it."""
    if value == 0:
        return 0
    digits = 2 - math.floor(math.log10(abs(value)))
    return 0 if digits < 0 else max(digits, 1)


def short_bytes(count: float) -> str:
    """`512 KiB`, `1.9 GiB`: for messages, never for metrics, whose unit is fixed."""
    for unit in ("bytes", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def short_duration(seconds: float) -> str:
    """`20 s`, `3 min`: for what is about to be waited for."""
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"


def now() -> str:
    """The moment, in UTC, as what is recorded names it: `2026-01-31T12:00:00+00:00`."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def how_ended(status: int) -> str:
    """`with status 1`, `by SIGTERM`: how a process ended, of whose status `subprocess` tells."""
    if status >= 0:
        return f"with status {status}"
    name = signal.Signals(-status).name
    return f"by {name}{' (memory may have run out)' * (name == 'SIGKILL')}"


def without_halves(text: str) -> str:
    """Text that can be written: half a character, as a test may say, becomes marks of unknown ones."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
