"""What a page of HTML needs beyond what is always there."""

from __future__ import annotations

import importlib.util

from pytest_llmperf.errors import UsageError

NEEDED = ("jinja2", "plotly", "ruptures")


def check_html(asked: str) -> None:
    """That a page can be written, before any time goes into what is to stand in it.

    Raises:
        UsageError: naming what is missing, and how to have it.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise UsageError(f"{asked} needs {' and '.join(missing)}: pip install 'pytest-llmperf[html]'")
