"""Baselines that another run recorded: what is taken over, and what is refused."""

from __future__ import annotations

import os

import pytest

from pytest_llmperf.baselines.store import Store
from pytest_llmperf.cli import main
from tests.stored import CPU, KEY, calibration, day, record, recording, session

OTHER = "tests/test_chat.py::test_other"


@pytest.fixture
def recorded(tmp_path):
    """What the other run has left: a test that has changed, and one that is new."""
    return record(tmp_path / "recorded", recording(KEY, session(day(2), weights=60.0)), recording(OTHER))


@pytest.fixture
def into(tmp_path):
    return record(tmp_path / "baselines", recording(), recording("tests/test_more.py::test_more"))


def accept(folder, into) -> int:
    return main(["accept", str(folder), "--into", str(into)])


def test_tests_take_the_place_of_those_of_the_same_name(recorded, into, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert accept(recorded, into) == 0
    stored = Store(into).contents().entries["exact-cpu"]
    assert sorted(stored) == [OTHER, KEY, "tests/test_more.py::test_more"]
    assert [each.metrics["weights_mib"].median for each in stored[KEY].sessions] == [60.0]
    out = capsys.readouterr().out
    assert ["tests/test_chat.py::test_turn", "weights_mib", "50", "60", "+20.0", "%"] in map(
        str.split, out.splitlines()
    )
    assert out.endswith("baselines: 1 updated, 1 new, 0 unchanged\n")


def test_what_is_taken_over_is_written_as_we_write_it(recorded, into, capsys):
    for path in recorded.rglob("*.json"):
        path.write_text(path.read_text().replace("\n", "\n\n   "))
    assert accept(recorded, into) == 0
    assert "\n\n" not in (into / "exact-cpu" / "tests" / "test_chat.json").read_text()


def test_nothing_changes_twice(recorded, into, capsys):
    accept(recorded, into)
    before = {path: path.stat().st_mtime_ns for path in into.rglob("*.json")}
    capsys.readouterr()
    assert accept(recorded, into) == 0
    assert capsys.readouterr().out == "baselines: 0 updated, 0 new, 2 unchanged\n"
    assert {path: path.stat().st_mtime_ns for path in into.rglob("*.json")} == before


def test_noise_is_left_to_calibrate(recorded, into, capsys):
    Store(recorded).add_noise(CPU, calibration())
    assert accept(recorded, into) == 0
    assert Store(into).noise(CPU) is None


def refused(folder, into, capsys) -> str:
    """What is said; nothing has changed."""
    before = {path: path.read_bytes() for path in into.rglob("*") if path.is_file()}
    assert accept(folder, into) == 1
    assert {path: path.read_bytes() for path in into.rglob("*") if path.is_file()} == before
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("exact-cpu/run.sh", "is no baseline"),
        ("more.json", "is no baseline"),
        ("workflows/x.json", "is no hardware's folder"),
        ("exact-cpu/.gitattributes", "is no baseline"),
        ("exact-cpu/a\nb.json", "has a name that nobody can read"),
    ],
)
def test_other_files_are_refused(recorded, into, capsys, name, told):
    path = recorded / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    assert f"{told}: nothing was taken over" in refused(recorded, into, capsys)


@pytest.mark.parametrize("to", ["/etc/passwd", "test_chat.json", "/etc", "nowhere"])
def test_links_are_refused_wherever_they_lead(recorded, into, capsys, to):
    (recorded / "exact-cpu" / "tests" / "link.json").symlink_to(to)
    assert "link.json' is a link: nothing was taken over" in refused(recorded, into, capsys)


def test_what_is_no_file_is_refused_and_not_read(recorded, into, capsys):
    os.mkfifo(recorded / "exact-cpu" / "pipe.json")
    assert "pipe.json' is no file" in refused(recorded, into, capsys)


def test_a_file_that_is_too_large_is_refused(recorded, into, capsys):
    os.truncate(recorded / "exact-cpu" / "tests" / "test_chat.json", 17 * 1024 * 1024)
    assert "is too large" in refused(recorded, into, capsys)


def test_what_the_schema_does_not_know_is_refused(recorded, into, capsys):
    path = recorded / "exact-cpu" / "tests" / "test_chat.json"
    path.write_text(path.read_text().replace('"sessions"', '"run": "rm -rf /", "sessions"', 1))
    assert "is nothing that belongs there" in refused(recorded, into, capsys)


def test_a_name_that_no_test_has_is_refused(recorded, into, capsys):
    path = recorded / "exact-cpu" / "tests" / "test_chat.json"
    path.write_text(path.read_text().replace("test_turn", r"test\n\nFixes: all"))
    assert "is no name of a test" in refused(recorded, into, capsys)


def test_a_folder_that_is_a_link_is_neither_read_nor_written(recorded, into, tmp_path, capsys):
    link = tmp_path / "link"
    link.symlink_to(recorded)
    assert accept(link, into) == 4
    link.unlink()
    link.symlink_to(into)
    assert accept(recorded, link) == 4
    assert accept(tmp_path / "nowhere", into) == 4
    assert "is no folder" in capsys.readouterr().err


def test_no_link_in_the_folder_leads_the_writing_out_of_it(recorded, tmp_path, capsys):
    outside = tmp_path / "outside"
    outside.mkdir()
    into = tmp_path / "mine"
    into.mkdir()
    (into / "exact-cpu").symlink_to(outside)
    assert accept(recorded, into) == 1
    assert list(outside.rglob("*")) == []
