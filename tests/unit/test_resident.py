"""High-water marks of several processes: reset, read in kibibytes, added up."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_llmperf import resident
from pytest_llmperf.model import Unknown
from pytest_llmperf.resident import ResidentSet


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two processes, as the kernel shows them."""
    for pid, peak in ((7, 1234), (8, 66)):
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "status").write_text(f"VmPeak:\t  999 kB\nVmHWM:\t    {peak} kB\nVmRSS:\t 1000 kB\n")
        (folder / "clear_refs").touch()
    monkeypatch.setattr(resident, "_PROC", tmp_path)
    return tmp_path


def watched(*pids: int) -> ResidentSet:
    return ResidentSet(lambda: pids, 60)


def test_marks_are_reset_and_added_up(proc: Path) -> None:
    seen = watched(7, 8)
    assert [(proc / pid / "clear_refs").read_text() for pid in "78"] == ["5", "5"]
    assert seen.peak() == 1300 * 1024


def test_a_process_that_is_gone_is_none_to_be_sampled_for(proc: Path) -> None:
    seen = watched(7, 9)
    assert seen._sampler is None
    assert seen.peak() == 1234 * 1024


def test_one_mark_that_cannot_be_reset_has_all_sampled(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (proc / "8" / "clear_refs").unlink()
    (proc / "8" / "clear_refs").mkdir()  # which nobody can write
    monkeypatch.setattr(resident, "_resident", lambda pid: pid * 100)
    seen = watched(7, 8)
    assert seen._sampler is not None
    assert seen.peak() == 1500
    seen.close()
    assert not seen._sampler.is_alive()


def test_a_status_without_a_high_water_mark_leaves_it_unknown(proc: Path) -> None:
    (proc / "7" / "status").write_text("Name:\tpython\nVmRSS:\t100 kB\n")
    assert watched(7).peak() == Unknown(f"{proc}/7/status shows no VmHWM")


def test_a_process_that_has_ended_and_is_not_waited_for_holds_nothing(proc: Path) -> None:
    (proc / "7" / "status").write_text("Name:\tpython\nState:\tZ (zombie)\n")
    assert watched(7, 8).peak() == 66 * 1024
