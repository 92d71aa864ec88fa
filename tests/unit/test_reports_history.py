"""A history loses nothing, whoever writes it and whatever is in it."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from pytest_llmperf.baselines.basis import Basis
from pytest_llmperf.baselines.compare import Rules
from pytest_llmperf.errors import ReportError
from pytest_llmperf.model import Environment, Measurement, Workload
from pytest_llmperf.reports import history
from pytest_llmperf.reports.history import History, append, earlier, read
from pytest_llmperf.reports.run import Run
from pytest_llmperf.results import Result, Row, Verdict

KEY = "test_chat.py::test_turn"


JUDGED = Rules()


def run(began: str = "2026-01-01T00:00:00+00:00", *hardware: str, rules: Rules | None = JUDGED) -> Run:
    """A measurement on each hardware."""
    results, bases = [], {}
    for place, name in enumerate(hardware or ("cpu-here",)):
        key = KEY + "x" * place
        rows = (
            Row("ttft_ms", "median", "ms", 12.3456789, verdict=Verdict.OK),
            Row("ttft_ms", "p99", "ms", 99.0),
            Row("load_s", "median", "s", 3.0),
            Row("tpot_ms", "median", "ms", None),
        )
        results.append(Result(key, "gpt2", Workload(), "cpu", 3, rows))
        measurement = Measurement("gpt2", Workload(), (), environment=Environment(hardware=name))
        bases[key] = Basis(key, measurement, rules=rules)
    return Run(began, tool="1", commit="abc", dirty=True, results=tuple(results), bases=bases)


def days(place: Path) -> list[str]:
    return [entry.began for entry in read(place, {"cpu-here"}).entries]


def test_a_run_is_one_line_with_its_medians_and_verdicts(tmp_path: Path) -> None:
    append(run(), tmp_path / "history.jsonl")
    (line,) = (tmp_path / "history.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "schema": 1,
        "began": "2026-01-01T00:00:00+00:00",
        "tool": "1",
        "commit": "abc",
        "dirty": True,
        "hardware": "cpu-here",
        "results": {KEY: {"verdict": "OK", "medians": {"ttft_ms": 12.3457}}},
    }


def test_what_was_not_judged_is_not_kept(tmp_path: Path) -> None:
    append(run(rules=None), tmp_path / "history.jsonl")
    assert not (tmp_path / "history.jsonl").exists()


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_has_a_file_for_each_hardware(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "history.of.us" if exists else tmp_path / "history"
    if exists:
        folder.mkdir()
    append(run("2026", "cpu-here", "cuda-there"), folder)
    assert {file.name for file in folder.glob("*.jsonl")} == {"cpu-here.jsonl", "cuda-there.jsonl"}
    assert [entry.hardware for entry in earlier(run("2027", "cuda-there"), folder).entries] == ["cuda-there"]
    assert read(folder, {"elsewhere"}) == History()


def test_runs_are_read_in_the_order_of_time(tmp_path: Path) -> None:
    for day in ("2026-01-02", "2026-01-01"):
        append(run(day), tmp_path / "h.jsonl")
    assert days(tmp_path / "h.jsonl") == ["2026-01-01", "2026-01-02"]


def test_a_torn_line_stays_and_the_next_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "h.jsonl"
    append(run("2026-01-01"), file)
    torn = file.read_text()[:40]
    with file.open("a") as opened:
        opened.write(torn)
    append(run("2026-01-02"), file)
    assert days(file) == ["2026-01-01", "2026-01-02"]
    assert file.read_text().splitlines()[1] == torn
    assert read(file, {"cpu-here"}).unread == 1


def test_lines_of_a_newer_version_are_kept_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "h.jsonl"
    append(run("2026-01-01"), file)
    newer = file.read_text().replace('"schema":1', '"schema":2')
    file.write_text(file.read_text() + newer)
    append(run("2026-01-02"), file)
    assert newer in file.read_text()
    assert days(file) == ["2026-01-01", "2026-01-02"]
    assert read(file, {"cpu-here"}).unread == 1


@pytest.mark.parametrize("content", [b"# Readme\n", b'{"began": "2026"}\n', b"\xff\xfe\x00"])
def test_a_file_that_is_no_history_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "README.md"
    file.write_bytes(content)
    with pytest.raises(ReportError, match=r"README\.md: this is no history of llmperf: nothing was added; name anoth"):
        append(run(), file)
    assert file.read_bytes() == content


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match=r"file.*: nothing was added"):
        append(run(), tmp_path / "file" / "h.jsonl")


@pytest.mark.parametrize("name", ["h.jsonl", "h"])
def test_a_history_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ReportError, match=f"{name}: there is no such history"):
        read(tmp_path / name, {"cpu-here"})


def test_a_full_file_loses_its_oldest_line_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST", 3)
    real, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(real)
    for day in "12345":
        append(run(day), link)
    assert days(link) == ["3", "4", "5"]
    assert link.is_symlink()
    assert {file.name for file in tmp_path.iterdir()} == {"real.jsonl", "link.jsonl", ".link.jsonl.lock"}


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST", 25)  # so that the last ones rewrite the file
    file = tmp_path / "h.jsonl"
    for day in range(10):
        append(run(f"2025-{day:02}"), file)
    writers = [threading.Thread(target=append, args=(run(f"2026-{day:02}"), file)) for day in range(20)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert days(file)[-20:] == [f"2026-{day:02}" for day in range(20)]
    assert len(days(file)) == 25


@pytest.mark.parametrize("length", [1, 5, 30])
def test_of_a_first_run_that_was_killed_while_it_wrote_the_next_makes_a_history(tmp_path: Path, length: int) -> None:
    file = tmp_path / "h.jsonl"
    append(run("2026-01-01"), file)
    file.write_bytes(file.read_bytes()[:length])
    append(run("2026-01-02"), file)
    assert days(file) == ["2026-01-02"]
