"""Reports are written whatever is in them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pytest_llmperf.plugin.reports import write
from pytest_llmperf.reports import document
from pytest_llmperf.reports.run import Run
from tests.unit.test_reports_history import run

HALF = Run(
    "2026", failures={"test_\udcff.py::test_a": "AssertionError: a \ud800"}, places={"test_\udcff.py::test_a": ""}
)


def test_half_a_character_costs_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = tmp_path / "summary"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    files = {name: tmp_path / name for name in ("json", "markdown")}
    assert write(files, HALF) == ([*files.values()], "")
    read = document.read(files["json"])
    assert [*read.failures] == [*read.places]
    assert list(read.failures.values()) == ["AssertionError: a \ufffd\ufffd\ufffd"]
    assert "AssertionError: a \ufffd" in summary.read_text(encoding="utf-8")


def test_a_link_stays_one(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("real.json")
    for _ in range(2):
        assert write({"json": link}, HALF) == ([link], "")
        assert link.is_symlink()
    assert document.read(tmp_path / "real.json").began == "2026"
    assert len([*tmp_path.iterdir()]) == 2


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    """And so a device: run by root, a report to /dev/null must not become that file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text(encoding="utf-8")), daemon=True)
    reader.start()
    assert write({"markdown": pipe}, HALF) == ([pipe], "")
    assert pipe.is_fifo()
    reader.join(10)
    assert read[0].startswith("### ")


def test_a_history_is_no_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    told = f"--llmperf-history {pipe}: this is no file: nothing was added; name one"
    assert write({"history": pipe}, run()) == ([], told)


def test_what_was_not_written_is_told_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that was there before and could not be replaced too, and of the step's summary."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "none" / "summary"))
    file = tmp_path / "file"
    file.write_text("")
    files = {"json": file / "r.json", "custom_json_bigger": tmp_path / ("x" * 300), "markdown": file}
    assert write(files, HALF) == (
        [],
        f"--llmperf-json {file / 'r.json'}: File exists; "
        f"--llmperf-custom-json {tmp_path / ('x' * 300)}: File name too long; "
        f"--llmperf-markdown GITHUB_STEP_SUMMARY={tmp_path / 'none' / 'summary'}: No such file or directory",
    )
