"""pytest in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_llmperf.plugin.child import as_argument


@pytest.mark.parametrize("name", ["test_chat[http://host/v1/]", "test_chat[a/../b]", "TestChat::test[a::b//c]"])
def test_a_parameter_that_looks_like_a_path_stays_as_it_is(name: str) -> None:
    root = Path("work") / "repository"
    assert as_argument(root, f"tests/test_chat.py::{name}") == f"{root / 'tests' / 'test_chat.py'}::{name}"
