"""Requests of different lengths, as services get them, in a text form that a mark, a call and a command line share.

    uniform:32-512,16-128            prompt tokens and output tokens, each drawn evenly
    lognormal:512~0.6<4096,128~0.4   by median and spread of the logarithm, at most so many
    replay:chat.jsonl                those of a file, one JSON object a line, sent when they were

A single number stands for a length that is always the same. A line of a replay has `prompt_tokens`, `output_tokens`
and, if it is to be sent at its own time, `arrival` in seconds; Mooncake's `input_length`, `output_length` and
`timestamp`, in milliseconds, are read as well.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_llmperf.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Shape:
    """The lengths of one request, in tokens.

    Args:
        due: seconds at which it is to be sent, counted from wherever its file counts.
    """

    prompt_tokens: int
    output_tokens: int
    due: float | None = None


@dataclass(frozen=True)
class Drawn:
    """Lengths that are drawn, independently of each other."""

    prompt: Length
    output: Length
    timed: int | None = None

    def shape(self, seed: int) -> Shape:
        draw = random.Random(f"lengths {seed}")
        return Shape(self.prompt(draw), self.output(draw))


@dataclass(frozen=True)
class Replay:
    """Lengths that were recorded, over and over."""

    shapes: tuple[Shape, ...]

    @property
    def timed(self) -> int | None:
        """How many requests say when they are due; None where none does."""
        return len(self.shapes) if self.shapes[0].due is not None else None

    def shape(self, seed: int) -> Shape:
        return self.shapes[(seed - 1) % len(self.shapes)]


MOST_TOKENS = 10_000_000
"""In a prompt or an answer; more is a mistake."""
_WIDEST = 3.0
"""Spread of a logarithm: one length in twenty is 400 times the median."""
_LATEST = 1e15
"""In a replay, in whatever unit: milliseconds since 1970 are far below."""
_SHOWN = 80
"""Characters of what is wrong."""
_NUMBER = "([0-9]{1,18})"

Mix = Drawn | Replay
Length = Callable[[random.Random], int]


def mix_of(text: str) -> Mix:
    """The mix that a text names.

    Raises:
        UsageError: it names none, or its file cannot be read.
    """
    kind, _, rest = text.partition(":")
    if kind not in _KINDS:
        raise UsageError(
            f"mix={_brief(text)}: {kind!r} is no mix{did_you_mean(kind, _KINDS)} (known: {', '.join(_KINDS)})"
        )
    return _KINDS[kind](text, rest)


def identity(text: str) -> str:
    """What a mix is known by: of a file its content, and not where it lies."""
    kind, _, rest = text.partition(":")
    if kind != "replay":
        return text
    return f"replay:sha256:{hashlib.sha256(_content(text, rest)).hexdigest()[:16]}"


def _drawn(length: Callable[[str, str], Length], text: str, rest: str) -> Drawn:
    parts = rest.split(",")
    if len(parts) != 2:
        raise UsageError(
            f"mix={_brief(text)}: expected the lengths of prompts and of answers, as in uniform:32-512,16-128"
        )
    return Drawn(length(text, parts[0].strip()), length(text, parts[1].strip()))


def _uniform(text: str, part: str) -> Length:
    match = re.fullmatch(rf"{_NUMBER}(?:-{_NUMBER})?", part)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high <= MOST_TOKENS:
        raise UsageError(
            f"mix={_brief(text)}: {_brief(part)} is no length; expected tokens such as 128, or a range such as 32-512, "
            f"up to {MOST_TOKENS:,}"
        )
    return lambda draw: draw.randint(low, high)


def _lognormal(text: str, part: str) -> Length:
    match = re.fullmatch(rf"{_NUMBER}(?:~([0-9]+(?:\.[0-9]+)?))?(?:<{_NUMBER})?", part)
    median, most = (int(match[1]), int(match[3] or MOST_TOKENS)) if match else (0, 0)
    if match is None or not 1 <= median <= most <= MOST_TOKENS:
        raise UsageError(
            f"mix={_brief(text)}: {_brief(part)} is no length; expected the median and the spread of the logarithm, "
            f"such as 512~0.6, and at most how many, such as 512~0.6<4096, up to {MOST_TOKENS:,}"
        )
    spread = float(match[2] or 0)
    if spread > _WIDEST:
        raise UsageError(
            f"mix={_brief(text)}: {_brief(part)}: the spread is that of the logarithm, at most {_WIDEST:g}, such as "
            f"{median}~0.6, and not in tokens"
        )
    return lambda draw: min(most, max(1, round(math.exp(draw.gauss(math.log(median), spread)))))


def _brief(value: object) -> str:
    whole = repr(value)
    return whole if len(whole) <= _SHOWN else f"{whole[:_SHOWN]}…"


def _replay(text: str, rest: str) -> Replay:
    content = _content(text, rest)
    return _replayed(text, content)


@functools.lru_cache(maxsize=8)
def _replayed(text: str, content: bytes) -> Replay:
    lines = [(number, line) for number, line in enumerate(content.splitlines(), 1) if line.strip()]
    shapes = [_shape(f"mix={_brief(text)}: line {number}", line) for number, line in lines]
    if not shapes:
        raise UsageError(f"mix={_brief(text)}: the file holds no request; expected one JSON object a line")
    timed = [shape.due is not None for shape in shapes]
    if any(timed) and not all(timed):
        number = lines[timed.index(not timed[0])][0]
        raise UsageError(f"mix={_brief(text)}: line {number}: either every line has an arrival, or none has")
    if all(timed):
        shapes.sort(key=lambda shape: shape.due or 0.0)
    return Replay(tuple(shapes))


def _content(text: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"mix={_brief(text)}: {Path(path).absolute()} cannot be read: {error.strerror}") from None
    except ValueError as error:  # a name that no file can have
        raise UsageError(f"mix={_brief(text)} cannot be read: {error}") from None


def _shape(place: str, line: bytes) -> Shape:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{place}: no JSON: {error}") from None
    except RecursionError:
        raise UsageError(f"{place}: no request: it is nested too deeply") from None
    if not isinstance(record, dict):
        raise UsageError(f"{place}: expected an object with prompt_tokens and output_tokens, not {_brief(record)}")
    prompt, output = (_length(place, record, names) for names in _FIELDS)
    return Shape(prompt, output, _due(place, record))


def _length(place: str, record: dict[str, Any], names: Sequence[str]) -> int:
    name = next((name for name in names if name in record), None)
    if name is None:
        raise UsageError(f"{place}: {names[0]} is missing (it has: {', '.join(record) or 'nothing'})")
    value = record[name]
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_TOKENS:
        raise UsageError(f"{place}: {name}={_brief(value)}: expected a whole number from 1 to {MOST_TOKENS:,}")
    return value


def _due(place: str, record: dict[str, Any]) -> float | None:
    for name, unit in (("arrival", 1.0), ("timestamp", 1e-3)):
        if (value := record.get(name)) is None:
            continue
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= _LATEST:
            raise UsageError(f"{place}: {name}={_brief(value)}: expected a time from 0 to {_LATEST:g}")
        return value * unit
    return None


_FIELDS = (("prompt_tokens", "input_length"), ("output_tokens", "output_length"))
_KINDS: dict[str, Callable[[str, str], Mix]] = {
    "uniform": functools.partial(_drawn, _uniform),
    "lognormal": functools.partial(_drawn, _lognormal),
    "replay": _replay,
}
