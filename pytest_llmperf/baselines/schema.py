"""The form of stored baselines, and how a file of it is read and written.

    {"schema": 1, "tests": {TEST: {"workload": …, "sessions": [{"commit": …, "metrics": {METRIC: {…}}}, …]}}}

A session is one process of one run. Processes of one sitting bear the same `recorded`, because they share what
was particular about the machine at that time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pytest_llmperf.errors import BaselineError

SCHEMA = 1
MOST_SESSIONS = 20
MOST_SAMPLES = 20

Plain = Any
"""What JSON holds."""
Migration = Callable[[dict[str, Any]], dict[str, Any]]
MIGRATIONS: dict[int, Migration] = {}
"""From each older schema to the one after it."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Reading(_Part):
    """One metric in one process, in the metric's unit."""

    median: float
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


class Learned(_Part):
    """How far sessions of before the last update lay apart: the standard deviation of ln(value)."""

    deviation: float = Field(ge=0)
    df: float = Field(gt=0)


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

    schema_: int = Field(alias="schema", default=SCHEMA)
    tests: dict[str, Entry]


class Pairs(_Part):
    """One metric of one calibration: for each A/A pair of processes the differences and levels of ln(value)."""

    differences: list[float] = Field(min_length=1)
    errors: list[Annotated[float, Field(ge=0)]]
    levels: list[float] = Field(min_length=1)
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

    schema_: int = Field(alias="schema", default=SCHEMA)
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


def read(text: str, form: type[Form], name: str) -> Form:
    """A file's content.

    Raises:
        BaselineError: naming the file, the place in it, what was expected, and what to do.
    """
    content = _parsed(text, name)
    try:
        return form.model_validate(_migrated(content, name))
    except ValidationError as error:
        first = error.errors()[0]
        place = _place(first["loc"])
        expected = (
            first["msg"]
            .removeprefix("Input should be ")
            .removeprefix("Value error, ")
            .replace("Field required", "is missing")
        )
        shown = f"{name}: {place}: expected {expected}" if place else f"{name}: expected {expected}"
        raise BaselineError(f"{shown.replace('expected is', 'is')}; {_RESTORE}") from None


_RESTORE = "restore the file (git checkout), or delete it and record it anew with --llmperf-update"


def _parsed(text: str, name: str) -> Plain:
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(("<<<<<<< ", ">>>>>>> ")):
            raise BaselineError(
                f"{name}: line {number}: a merge conflict; take one side whole (git checkout --ours or --theirs), "
                f"or record it anew with --llmperf-update after deleting the file"
            )
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        ends = not text[error.pos :].strip()
        fault = "the file ends too early" if ends else error.msg
        raise BaselineError(f"{name}: line {error.lineno}, column {error.colno}: {fault}; {_RESTORE}") from None
    except (ValueError, RecursionError) as error:
        raise BaselineError(f"{name}: {error or 'nested too deeply'}; {_RESTORE}") from None


def _once(pairs: list[tuple[str, Plain]]) -> dict[str, Plain]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise ValueError(f"{twice!r} stands there twice, as after an automatic merge")
    return content


def _no_number(constant: str) -> Plain:
    raise ValueError(f"{constant} is no number")


def _migrated(content: Plain, name: str) -> Plain:
    """The content in today's schema."""
    if not isinstance(content, dict):
        raise BaselineError(f"{name}: expected an object with schema and tests; {_RESTORE}")
    version = content.get("schema")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise BaselineError(f"{name}: schema: expected a whole number from 1 to {SCHEMA}, not {version!r}; {_RESTORE}")
    if version > SCHEMA:
        raise BaselineError(
            f"{name}: schema {version} is of a newer pytest-llmperf, and this one reads up to {SCHEMA}; upgrade it"
        )
    while version < SCHEMA:
        content = {**MIGRATIONS[version](content), "schema": version + 1}
        version += 1
    return content


def _place(location: tuple[int | str, ...]) -> str:
    """`tests."test_chat_turn".sessions.0.metrics.tpot_ms.median`."""
    return ".".join(
        f'"{part}"' if location[index - 1 : index] == ("tests",) else str(part) for index, part in enumerate(location)
    )


def written(content: File | NoiseFile) -> str:
    """The file's text: keys sorted, and what holds only numbers and words on one line."""
    plain = content.model_dump(by_alias=True, exclude_defaults=True)
    return _indented({"schema": SCHEMA, **plain}, "") + "\n"


def _indented(value: Plain, indent: str) -> str:
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


def _deep(value: Plain) -> bool:
    """Whether a value holds objects, or lists of objects, and so stands on lines of its own."""
    items = value.values() if isinstance(value, dict) else value
    return any(isinstance(item, dict) or (isinstance(item, list) and _deep(item)) for item in items)


def json_schema(form: type[File | NoiseFile]) -> str:
    """The JSON Schema that is published under `docs/`."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **form.model_json_schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def load(path: Path, form: type[Form], name: str) -> Form | None:
    """The content of a file, None where there is none.

    Raises:
        BaselineError: it cannot be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(f"{name}: {error}; {_RESTORE}") from None
    return read(text, form, name)
