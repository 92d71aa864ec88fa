"""The form of stored baselines, and how a file of it is read and written.

    {"schema": 1, "tests": {TEST: {"workload": …, "sessions": [{"commit": …, "metrics": {METRIC: {…}}}, …]}}}

A session is one process of one run. Processes of one sitting bear the same `recorded`, because they share what
was particular about the machine at that time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pytest_llmperf.collector import collector_quiet
from pytest_llmperf.errors import BaselineError

MOST_SESSIONS = 20
MOST_SAMPLES = 20


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a finite number")
    if not (value is None or isinstance(value, (str, int, float))):
        raise ValueError("a text, a number, true, false or null")
    return value


Plain = Annotated[str | int | float | bool | None, BeforeValidator(_plain)]
"""Of a workload or an option."""
Logarithm = Annotated[float, Field(ge=-1e3, le=1e3)]
"""ln of what a clock can show, or of a ratio of it."""

LEAST, MOST = 1e-9, 1e24
"""In size, of a figure that is not 0: no metric that was ever measured lies outside, and ratios stay finite."""
_DIFFERENCES = frozenset({"activations_mib", "kv_bytes_per_token", "leak_mib"})
"""What is less than 0 where there was less in the end."""


def _sensible(value: float) -> float:
    if value and not LEAST <= abs(value) <= MOST:
        raise ValueError(f"0, or a number of {LEAST:g} to {MOST:g} in size")
    return value


def _possible(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1e12:
        raise ValueError("a number of 0 to 1e+12")
    return value


Phase = Annotated[str, Field(pattern="^(prefill|decode)$")]
Milliseconds = Annotated[float, Field(ge=0, le=1e12)]
Calls = Annotated[Annotated[int, Field(ge=0, le=10**12)] | Milliseconds, BeforeValidator(_possible)]
"""Whole where they are; checked before it is asked which, so that a fault has one place."""
Flops = Annotated[int, Field(ge=0, le=10**24)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Reading(_Part):
    """One metric in one process, in the metric's unit."""

    median: Annotated[float, AfterValidator(_sensible)]
    error: float = Field(default=0.0, ge=0)
    """Standard error of the median over rounds."""
    samples: list[float] = Field(default=[], max_length=MOST_SAMPLES)
    """Evenly chosen among the ordered samples."""


class Session(_Part):
    """What one process measured of one test."""

    recorded: str
    """When its sitting began, in UTC."""
    commit: str = ""
    dirty: bool = False
    """Whether tracked files differed from that commit."""
    target: str
    options: dict[str, Plain] = {}
    """How it was loaded and run: dtype, threads, keywords of `load=`."""
    versions: dict[str, str] = {}
    machine: dict[str, str] = {}
    metrics: dict[str, Reading]
    calls: dict[str, dict[Phase, Calls]] = {}
    """Of operators, by phase, per step: what no hardware changes."""
    times: dict[str, dict[Phase, Annotated[list[Milliseconds], Field(min_length=1, max_length=2)]]] = {}
    """Of operators, by phase, in ms per step: on the host, and on the device. Only the latest session has them."""
    decode_flops: list[Flops] = Field(default=[], max_length=2)
    """Of the first step of decode and of the last."""

    @field_validator("metrics")
    @classmethod
    def _none_below_zero(cls, metrics: dict[str, Reading]) -> dict[str, Reading]:
        for name, reading in metrics.items():
            if reading.median < 0 and name not in _DIFFERENCES:
                raise PydanticCustomError("below", "at least 0", {"place": (name, "median"), "value": reading.median})
        return metrics


class Learned(_Part):
    """How far sessions of before the last update lay apart: the standard deviation of ln(value)."""

    deviation: float = Field(ge=0, le=1e4)
    df: float = Field(ge=1, le=1e3)


class Entry(_Part):
    """One test, on one kind of hardware."""

    workload: dict[str, Plain]
    learned: dict[str, Learned] = {}
    sessions: list[Session] = Field(min_length=1, max_length=MOST_SESSIONS)


class Recording(_Part):
    """What a run measured of one test, before it is stored."""

    key: str
    hardware: str
    device_type: str
    workload: dict[str, Plain]
    sessions: list[Session] = Field(min_length=1)


class File(_Part):
    """One test module."""

    schema_: int = Field(alias="schema", default=1, exclude=True)
    tests: dict[str, Entry]


class Pairs(_Part):
    """One metric of one calibration: for each A/A pair of processes the differences and levels of ln(value)."""

    differences: list[Logarithm] = Field(min_length=1)
    errors: list[Annotated[float, Field(ge=0, le=1e3)]] = Field(min_length=1)
    levels: list[Logarithm] = Field(min_length=1)
    """Of each process."""
    rounds: float = Field(ge=0)
    """Standard deviation of ln(value) between the rounds of one process."""

    @model_validator(mode="after")
    def _of_the_same_pairs(self) -> Pairs:
        if len(self.errors) != len(self.differences):
            raise ValueError("as many errors as differences")
        return self


class Calibration(_Part):
    """One run of `llmperf calibrate`."""

    recorded: str
    """When it began, in UTC."""
    target: str
    workload: dict[str, Plain] = {}
    dtype: str = ""
    threads: int | None = Field(ge=1)
    metrics: dict[str, Pairs] = Field(min_length=1)

    @property
    def of(self) -> tuple[object, ...]:
        """Equal for calibrations that are of the same work, so that their levels can be compared."""
        return self.target, self.dtype, self.threads, tuple(sorted(self.workload.items()))

    @field_validator("recorded")
    @classmethod
    def _a_time(cls, text: str) -> str:
        try:
            datetime.fromisoformat(text)
        except ValueError:
            raise ValueError("a time like 2026-01-31T12:00:00+00:00") from None
        return text


class NoiseFile(_Part):
    """What was learned of one machine's noise."""

    schema_: int = Field(alias="schema", default=1, exclude=True)
    calibrations: list[Calibration] = Field(min_length=1)

    @field_validator("calibrations")
    @classmethod
    def _each_once(cls, calibrations: list[Calibration]) -> list[Calibration]:
        seen: dict[tuple[object, ...], Calibration] = {}
        for each in calibrations:
            if seen.setdefault((each.recorded, *each.of), each) is not each:
                raise ValueError(f"each calibration once, and that of {each.target} at {each.recorded} is there twice")
        return calibrations


Form = TypeVar("Form", File, NoiseFile)
Migration = Callable[[dict[str, Any]], dict[str, Any]]
MIGRATIONS: Mapping[type[BaseModel], tuple[Migration, ...]] = {File: (), NoiseFile: ()}
"""From schema 1 to 2, from 2 to 3, and so on. What a default means is part of a schema too: it is left out of files."""
_ANEW = {File: "--llmperf-update", NoiseFile: "llmperf calibrate"}


def schema_of(form: type[BaseModel]) -> int:
    """The schema that is written today."""
    return len(MIGRATIONS[form]) + 1


def read(text: str, form: type[Form], name: str) -> Form:
    """A file's content.

    Raises:
        BaselineError: naming the file, the place in it, what was expected, and what to do.
    """
    fix = f"restore the file (git checkout), or delete it and record it anew with {_ANEW[form]}"
    try:
        with collector_quiet():  # it takes most of the time while so many objects are made and none is dropped
            return form.model_validate(_migrated(parsed(text), form))
    except ValidationError as error:
        fault = invalid(error)
    except json.JSONDecodeError as error:
        fault, conflict = _torn(text, error), _conflict(text)
        if conflict:
            fault = f"line {conflict}: a merge conflict"
            fix = (
                "take one side whole (git checkout --ours or --theirs), "
                f"or delete the file and record it anew with {_ANEW[form]}"
            )
    except RecursionError:
        fault = "nested too deeply"
    except _NewerError as error:
        fault, fix = str(error), "upgrade it (pip install --upgrade pytest-llmperf)"
    except ValueError as error:
        fault = str(error)
    raise _error(f"{name}: {fault}; {fix}")


class _NewerError(Exception):
    """A file of a later version than this one."""


def _error(message: str) -> BaselineError:
    """An error that every terminal can show, whatever a file holds."""
    return BaselineError(message.encode("utf-8", "backslashreplace").decode())


def parsed(text: str) -> Any:
    """JSON without what Python alone takes for it: names that stand twice, NaN, half characters.

    Raises:
        ValueError: saying what is wrong; also `json.JSONDecodeError`.
    """
    content = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    if _SURROGATE.search(text):
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{_quoted(error.object[error.start])} is half a character") from None
    return content


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""Two of them are a character; one is read, and could not be written."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{_quoted(twice)} stands there twice, as after an automatic merge")
    return content


def _no_number(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


def _conflict(text: str) -> int | None:
    """The line of the first mark that git leaves; no line of JSON can begin with it."""
    lines = enumerate(text.split("\n"), 1)
    return next((number for number, line in lines if line.startswith(("<<<<<<<", ">>>>>>>"))), None)


def _torn(text: str, error: json.JSONDecodeError) -> str:
    ends = not text[error.pos :].strip() or error.msg.startswith("Unterminated string")
    fault = "the file ends too early" if ends else error.msg
    return f"line {error.lineno}, column {error.colno}: {fault}"


def _migrated(content: Any, form: type[Form]) -> Any:
    """The content in today's schema."""
    newest = schema_of(form)
    if not isinstance(content, dict):
        raise ValueError(f"expected an object with schema and so on, not {_shown(content)}")
    version = content.get("schema")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"schema: expected a whole number from 1 to {newest}, not {_shown(version)}")
    if version > newest:
        raise _NewerError(f"schema {_shown(version)} is of a newer pytest-llmperf, and this one reads up to {newest}")
    for step, migration in enumerate(MIGRATIONS[form][version - 1 :], version):
        try:
            content = {**migration(content), "schema": step + 1}
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not what schema {step} was ({type(error).__name__}: {error})") from None
    return content


_KINDS = {
    "float_type": "a number",
    "int_type": "a whole number",
    "string_type": "a text",
    "bool_type": "true or false",
    "dict_type": "an object",
    "model_type": "an object",
    "too_long": "at most {max_length} of them",
    "too_short": "at least {min_length} of them",
    "string_pattern_mismatch": "prefill or decode",
}
_LISTS = {"sessions": "a list of sessions", "calibrations": "a list of calibrations"}


def invalid(error: ValidationError) -> str:
    """The first fault: its place, what was expected there, and what stands there."""
    first = error.errors(include_url=False)[0]
    context: dict[str, Any] = first.get("ctx", {})
    location, kind = (*first["loc"], *context.get("place", ())), first["type"]
    place = _place(location)
    if kind == "missing":
        return f"{place} is missing"
    if kind == "extra_forbidden":
        return f"{place} is nothing that belongs there"
    if kind == "list_type":
        expected = _LISTS.get(str(location[-1]), "a list of numbers")
    elif kind in _KINDS:
        expected = _KINDS[kind].format(**context)
    else:
        expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{place}: expected {expected}, not {_shown(context.get('value', first['input']))}"


def _place(location: tuple[int | str, ...]) -> str:
    """`tests."test_chat_turn".sessions.0.metrics.tpot_ms.median`."""
    test = 1 if location[:1] == ("tests",) else None
    parts = [part for part in location if part != "[key]"]
    return ".".join(
        _quoted(str(part)) if index == test or not re.fullmatch(r"[\w.-]+", str(part)) else str(part)
        for index, part in enumerate(parts)
    )


def _shown(value: object) -> str:
    if isinstance(value, (list, dict)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    return _quoted(value)


def _quoted(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"


def written(content: File | NoiseFile) -> str:
    """The file's text: keys sorted, and what holds only numbers and words on one line."""
    plain = content.model_dump(by_alias=True, exclude_defaults=True)
    return _indented({**plain, "schema": schema_of(type(content))}, "") + "\n"


def _indented(value: Any, indent: str) -> str:
    if not isinstance(value, (dict, list)) or not _deep(value):
        return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)
    inner = indent + " "
    if isinstance(value, list):
        parts = [inner + _indented(item, inner) for item in value]
        return "[\n" + ",\n".join(parts) + f"\n{indent}]"
    parts = [
        f"{inner}{json.dumps(key, ensure_ascii=False)}: {_indented(item, inner)}" for key, item in sorted(value.items())
    ]
    return "{\n" + ",\n".join(parts) + f"\n{indent}}}"


def _deep(value: Any) -> bool:
    """Whether a value holds objects, or lists of objects, and so stands on lines of its own."""
    items = value.values() if isinstance(value, dict) else value
    return any(isinstance(item, dict) or (isinstance(item, list) and _deep(item)) for item in items)


def json_schema(form: type[File | NoiseFile]) -> str:
    """The JSON Schema that is published under `docs/`."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **form.model_json_schema()}
    schema["properties"]["schema"] = {"const": schema_of(form)}
    schema["required"] = ["schema", *schema["required"]]
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def load(path: Path, form: type[Form], name: str) -> Form | None:
    """The content of a file, None where there is none.

    Raises:
        BaselineError: it cannot be read, or holds something else.
    """
    try:
        if path.exists() and not path.is_file():
            raise _error(f"{name} is no file: move what stands there out of the folder of baselines")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        text = error.object[: error.start].decode("utf-8")
        line = text.count("\n") + 1
        raise _error(f"{name}: line {line}: not UTF-8; restore the file (git checkout) or save it as UTF-8") from None
    except OSError as error:
        raise _error(
            f"{name}: {error.strerror or error}; make it readable, or name another folder by --llmperf-baselines"
        ) from None
    return read(text, form, name)
