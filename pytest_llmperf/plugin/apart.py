"""Base's part of a pair whose processes run one after the other: a fresh process on base's code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.duet.origin import strangers
from pytest_llmperf.plugin.base import located, worktree_of
from pytest_llmperf.plugin.fresh import Fresh
from pytest_llmperf.targets import Reference


class FreshBase(Fresh):
    """The plugin that makes a pytest run such a process."""

    def __init__(self, request: dict[str, Any]) -> None:
        super().__init__(request)
        self._worktree = worktree_of(request)

    def locate(self, reference: Reference) -> Reference:
        return located(reference, self._worktree)

    def pytest_sessionfinish(self) -> None:
        """As of any fresh process, provided that it ran base's code."""
        if found := strangers(self._worktree, [Path(root) for root in self.request["roots"]]):
            pytest.exit(f"\nbase would not run base's code: {found[0]}")  # its last line is told as the reason
        super().pytest_sessionfinish()


def main() -> int:
    """Run as base by itself; the command line names the request."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return int(pytest.main(request["arguments"], plugins=[FreshBase(request)]))
