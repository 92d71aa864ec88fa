"""Which reports of a run there are as text, and what writes each: for the run itself, and for `llmperf report`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_llmperf.reports.history import History
    from pytest_llmperf.reports.run import Run

_WRITERS: Mapping[str, str] = {
    "json": "document:written",
    "markdown": "markdown:written",
    "custom_json": "custom:smaller",
    "custom_json_bigger": "custom:bigger",
    "html": "html:written",
}
"""Option, or what is written beside one → what makes its text of a run, imported when it is needed."""
_BESIDE = {"custom_json": "custom_json_bigger"}
"""Option → the second file that it writes."""
NAMES = tuple(name for name in _WRITERS if name not in _BESIDE.values())


def text_of(name: str, run: Run, history: History | None = None) -> str:
    """One report.

    Args:
        history: of earlier runs, which the page shows.
    """
    module, _, function = _WRITERS[name].partition(":")
    writer: Callable[..., str] = getattr(importlib.import_module(f"pytest_llmperf.reports.{module}"), function)
    return writer(run, history) if name == "html" and history is not None else writer(run)


def all_files(asked: Mapping[str, Path]) -> dict[str, Path]:
    """The files that are asked for, and those that are written beside them: `c.json`, `c.bigger.json`."""
    beside = {
        second: asked[first].with_name(f"{asked[first].stem}.bigger{asked[first].suffix}")
        for first, second in _BESIDE.items()
        if first in asked
    }
    return {**asked, **beside}


def option_of(name: str) -> str:
    """The option in whose name a file is written, without dashes in front: `custom-json` of both its files."""
    first = next((first for first, second in _BESIDE.items() if second == name), name)
    return first.replace("_", "-")
