"""Base's own loop: it does as it is told, and is not confused by what head said too late."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_llmperf.duet.channel import ClosedError
from pytest_llmperf.plugin.base import Base


class Head:
    """Says this, then closes."""

    def __init__(self, *says: str) -> None:
        self._says = iter(says)
        self.heard: list[str] = []

    def tell(self, say: str, **content: Any) -> None:
        self.heard.append(say)

    def hear(self, *expected: str, patience: float | None = None) -> Any:
        said = next(self._says, None)
        if said not in expected:
            raise ClosedError("has closed" if said is None else f"said {said!r}")
        return {"say": said, "id": "tests/test_chat.py::test_turn", "upcoming": []}


@pytest.mark.parametrize("late", [("go",), ("report",), ("round", "go"), ("end",), ("alone",)])
def test_what_was_said_to_a_test_that_has_failed_meanwhile_is_passed_over(tmp_path: Path, late: tuple[str]) -> None:
    head: Any = Head(*late, "test")
    base = Base({"commit": "abc", "head": str(tmp_path / "a"), "root": str(tmp_path / "b"), "roots": []}, head)
    session: Any = SimpleNamespace(items=[], config=None)
    with pytest.raises(ClosedError, match="has closed"):
        base.pytest_runtestloop(session)
    assert head.heard == ["collected", "done"]
