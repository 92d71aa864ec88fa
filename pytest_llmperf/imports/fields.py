"""Values out of another tool's file: each is checked, and what is wrong is told with its place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_llmperf.errors import ForeignError


@dataclass(frozen=True)
class Fields:
    """An object of a file.

    Args:
        place: where it stands, the file first.
    """

    values: Mapping[str, Any]
    place: str

    def has(self, name: str) -> bool:
        """Whether there is anything of that name."""
        return self.values.get(name) is not None

    def number(self, name: str) -> float:
        """A time: finite, and not negative."""
        return self._number(name, self._value(name))

    def numbers(self, name: str) -> list[float]:
        return [self._number(f"{name}.{place}", value) for place, value in enumerate(self.items(name))]

    def rate(self, name: str) -> float:
        """So many in a second, and not none."""
        value = self.number(name)
        if not value:
            raise self.fault(name, "expected a number above 0, not 0")
        return value

    def count(self, name: str, least: int = 1) -> int:
        value = self._value(name)
        if not _is_number(value) or value != int(value) or value < least:
            raise self.fault(name, f"expected a whole number of at least {least}, not {_shown(value)}")
        return int(value)

    def text(self, name: str) -> str:
        """Empty where there is none."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise self.fault(name, f"expected a text, not {_shown(value)}")
        return value or ""

    def within(self, *names: str) -> Fields:
        """An object in this one, or in an object of it; empty where there is none."""
        found = self
        for name in names:
            value = found.values.get(name)
            if value is not None and not isinstance(value, dict):
                raise found.fault(name, f"expected an object, not {_shown(value)}")
            found = Fields(value or {}, f"{found.place}.{name}")
        return found

    def each(self, name: str) -> list[Fields]:
        """A list of objects."""
        rows = []
        for place, value in enumerate(self.items(name)):
            if not isinstance(value, dict):
                raise self.fault(f"{name}.{place}", f"expected an object, not {_shown(value)}")
            rows.append(Fields(value, f"{self.place}.{name}.{place}"))
        return rows

    def items(self, name: str) -> Sequence[Any]:
        """A list of anything."""
        value = self._value(name)
        if not isinstance(value, list):
            raise self.fault(name, f"expected a list, not {_shown(value)}")
        return value

    def fault(self, name: str, what: str) -> ForeignError:
        return ForeignError(f"{self.place}.{name}: {what}")

    def _value(self, name: str) -> Any:
        if not self.has(name):
            raise self.fault(name, "is missing")
        return self.values[name]

    def _number(self, name: str, value: Any) -> float:
        if not _is_number(value) or value < 0:
            raise self.fault(name, f"expected a number of at least 0, not {_shown(value)}")
        return float(value)


def objects(path: Path) -> list[Fields]:
    """The JSON objects of a file, one after the other: one of all of it, or one of each line.

    Raises:
        ForeignError: it cannot be read, or holds anything else.
    """
    try:
        found = _values(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError:
        raise ForeignError(f"{path} is no text in UTF-8, and so no file of results") from None
    except OSError as error:
        raise ForeignError(f"{path}: {error.strerror or error}") from None
    if not found:
        raise ForeignError(f"{path} is empty")
    if not all(isinstance(one, dict) for one in found):
        raise ForeignError(f"{path} holds other than JSON objects, and so no results of a load generator")
    places = [f"{path}: record {number}" for number, _ in enumerate(found)] if len(found) > 1 else [str(path)]
    return [Fields(one, place) for one, place in zip(found, places, strict=True)]


def _values(text: str, place: str) -> list[Any]:
    found = []
    decoder = json.JSONDecoder()
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            cut = not text[error.pos :].strip() or error.msg.startswith("Unterminated string")
            why = "the file ends too early" if cut else error.msg
            raise ForeignError(f"{place}: line {error.lineno}: {why}; it is not whole, or no JSON") from None
        except (RecursionError, ValueError) as error:  # nested too deeply; a number of thousands of digits
            raise ForeignError(f"{place}: no file of results: {error}") from None
        found.append(value)
    return found


def _is_number(value: object) -> bool:
    """Whether it is one that can be reckoned with."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _MOST


_MOST = 1e19
"""Nanoseconds since 1970 are fewer, and sums of such numbers are still finite."""


def _shown(value: object) -> str:
    if isinstance(value, (list, dict)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:80]}…"
