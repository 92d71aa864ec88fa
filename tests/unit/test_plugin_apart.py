"""Base in a process that runs by itself: the code and the targets are base's, as they are in turns."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pytest_llmperf.plugin.apart import FreshBase
from pytest_llmperf.targets import Pretrained


@pytest.fixture
def base(tmp_path: Path) -> FreshBase:
    """With something measured."""
    head, root = tmp_path / "head", tmp_path / "base"
    for folder in (head, root):
        folder.mkdir()
    places = {"head": str(head), "root": str(root), "roots": [str(root)]}
    made = FreshBase({"commit": "abc", "answer": str(tmp_path / "answer.json"), **places})
    report: Any = SimpleNamespace(llmperf=[{"key": "test_chat.py::test_turn"}])
    made.pytest_runtest_logreport(report)
    return made


def test_what_base_measured_is_told_where_all_code_was_its_own(base: FreshBase, tmp_path: Path) -> None:
    base.pytest_sessionfinish()
    assert (tmp_path / "answer.json").exists()


def test_nothing_is_told_of_heads_code(base: FreshBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ModuleType("engine")
    engine.__file__ = str(tmp_path / "head" / "engine.py")
    monkeypatch.setitem(sys.modules, "engine", engine)
    with pytest.raises(pytest.exit.Exception, match="base would not run base's code: engine is head's"):
        base.pytest_sessionfinish()
    assert not (tmp_path / "answer.json").exists()


def test_a_folder_that_git_ignores_is_heads(base: FreshBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path / "base")
    (tmp_path / "head" / "weights").mkdir()
    assert base.locate(Pretrained("weights")) == Pretrained(str(tmp_path / "head" / "weights"))
