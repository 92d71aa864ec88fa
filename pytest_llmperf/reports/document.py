"""A run as JSON, with all that it takes to show it again and to recompute every verdict. Its schema is published."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pytest_llmperf.baselines.schema import invalid, parsed
from pytest_llmperf.errors import LlmperfError, ReportError
from pytest_llmperf.reports.recorded import together
from pytest_llmperf.reports.run import Run

SCHEMA = 1
"""Raised by whatever makes an older reader wrong: a name that goes or means something else. Names that are added, each
with a default, leave it as it is."""


@functools.cache
def _adapter() -> TypeAdapter[Run]:
    return TypeAdapter(Run)


def written(run: Run) -> str:
    """The run as text of one line."""
    return json.dumps({"schema": SCHEMA, **_adapter().dump_python(run, mode="json")}, ensure_ascii=False) + "\n"


def read(file: Path) -> Run:
    """The run that a file holds.

    Raises:
        ReportError: naming the file, the place in it, and what was expected there.
    """
    try:
        return run_of(file.read_text(encoding="utf-8"))
    except OSError as error:
        fault = error.strerror or str(error)
    except UnicodeDecodeError:
        fault = "this is no text"
    except ValueError as error:
        fault = str(error)
    raise ReportError(f"{file}: {fault}; expected a report of pytest --llmperf-json")


def run_of(text: str) -> Run:
    """The run that a text holds.

    Raises:
        ValueError: saying what is wrong with it, and where.
    """
    try:
        content = parsed(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not is_document(content):
        raise ValueError("this is no report")
    version = content.pop("schema")
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= SCHEMA:
        raise ValueError(f"schema: expected a whole number from 1 to {SCHEMA}, not {json.dumps(version)}")
    try:
        return _adapter().validate_python(content)
    except ValidationError as error:
        raise ValueError(invalid(error)) from None
    except LlmperfError as error:  # a workload that contradicts itself
        raise ValueError(str(error)) from None


def is_document(content: Any) -> bool:
    """Whether JSON looks like one, whatever its version."""
    return isinstance(content, dict) and {"schema", "began", "results"} <= set(content)


def merged(runs: list[Run]) -> Run:
    """Runs of parts of a suite as one; of a test that several have run, the last."""
    first, *others = runs
    for run in others:
        earlier = [result for result in first.results if result.test not in run.places]
        failures = {test: why for test, why in first.failures.items() if test not in run.places}
        results = (*earlier, *run.results)
        bases = {**first.bases, **run.bases}
        first = replace(
            first,
            results=results,
            bases={result.key: bases[result.key] for result in results if result.key in bases},
            places={**first.places, **run.places},
            failures={**failures, **run.failures},
            recorded=together(first.recorded, run.recorded),
            fault="; ".join(dict.fromkeys(filter(None, [first.fault, run.fault]))),
        )
    return first


def json_schema() -> str:
    """The JSON Schema that is published under `docs/`."""
    schema = _adapter().json_schema(mode="serialization")
    schema["properties"] = {"schema": {"type": "integer", "minimum": 1, "maximum": SCHEMA}, **schema["properties"]}
    schema["required"] = ["schema", *schema.get("required", [])]
    header = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Report of pytest-llmperf"}
    return json.dumps({**schema, **header}, indent=2) + "\n"
