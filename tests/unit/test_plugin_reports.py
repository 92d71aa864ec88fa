"""Reports are written whatever is in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_llmperf.plugin.reports import write
from pytest_llmperf.reports import document
from pytest_llmperf.reports.run import Run

HALF = Run(
    "2026", failures={"test_\udcff.py::test_a": "AssertionError: a \ud800"}, places={"test_\udcff.py::test_a": ""}
)


def test_half_a_character_costs_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = tmp_path / "summary"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    files = {name: tmp_path / name for name in ("json", "markdown")}
    assert write(files, HALF) == ""
    read = document.read(files["json"])
    assert [*read.failures] == [*read.places]
    assert list(read.failures.values()) == ["AssertionError: a \ufffd\ufffd\ufffd"]
    assert "AssertionError: a \ufffd" in summary.read_text(encoding="utf-8")
