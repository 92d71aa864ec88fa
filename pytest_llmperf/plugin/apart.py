"""Base's part of a pair whose processes run one after the other: a fresh process on base's code."""

from __future__ import annotations

import pytest

from pytest_llmperf.plugin.base import OnBase
from pytest_llmperf.plugin.child import run_as
from pytest_llmperf.plugin.fresh import Fresh


class FreshBase(OnBase, Fresh):
    """The plugin that makes a pytest run such a process."""

    def pytest_sessionfinish(self) -> None:
        """As of any fresh process, provided that it ran base's code."""
        if fault := self.fault():
            pytest.exit(f"\n{fault}")  # its last line is told as the reason
        super().pytest_sessionfinish()


def main() -> int:
    """Run as base by itself."""
    return run_as(FreshBase)
