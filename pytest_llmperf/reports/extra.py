"""What a page of HTML needs beyond what is always there."""

from __future__ import annotations

import importlib.util

from pytest_llmperf.errors import UsageError

_NEEDED = ("jinja2", "plotly", "ruptures")
INSTALL = "pip install 'pytest-llmperf[html]'"


def missing_for_html() -> list[str]:
    """The packages that a page needs and that are not installed."""
    return [name for name in _NEEDED if importlib.util.find_spec(name) is None]


def check_html(asked: str) -> None:
    """That a page can be written, before any time goes into what is to stand in it.

    Raises:
        UsageError: naming what is missing, and how to have it.
    """
    if missing := missing_for_html():
        raise UsageError(f"{asked} needs {' and '.join(missing)}: {INSTALL}")
