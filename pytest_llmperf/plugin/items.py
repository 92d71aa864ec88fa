"""Which tests measure. Light: asked of every test of every run."""

from __future__ import annotations

import pytest

FIXTURES = frozenset({"llm", "llmperf"})


def measures(item: pytest.Item) -> bool:
    """Whether a test carries the mark itself or requests the fixture."""
    return any(mark.name == "llm_perf" for mark in item.own_markers) or not FIXTURES.isdisjoint(
        getattr(item, "fixturenames", ())
    )
