"""Where traces go, and that TensorBoard finds them there."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from pytest_llmperf.errors import UsageError
from pytest_llmperf.model import Unknown
from pytest_llmperf.profiling.traces import check_traces, portable, trace_file, untraced

TENSORBOARD = re.compile(r"^(.*?)(\.\d+)?\.pt\.trace\.json(?:\.gz)?$")
"""torch_tb_profiler/consts.py: a worker, and optionally a number."""


def test_a_trace_is_named_as_tensorboard_looks_for_it(tmp_path: Path) -> None:
    file = trace_file(tmp_path / "deep" / "traces", "tests/test_chat.py::test_turn")
    assert file.parent == tmp_path / "deep" / "traces" / "tests-test_chat.py--test_turn"
    assert file.parent.is_dir()
    named = TENSORBOARD.match(file.name)
    assert named is not None
    assert named[1].endswith(f"_{os.getpid()}")
    assert named[2] is not None


def test_two_traces_of_one_test_do_not_overwrite_each_other(tmp_path: Path) -> None:
    assert trace_file(tmp_path, "test_a.py::test") != trace_file(tmp_path, "test_a.py::test")


@pytest.mark.parametrize("key", ["t.py::test[8×512→128]", "t.py::test[a b]", "t.py::test[a:b]", "t.py::" + 300 * "x"])
def test_a_test_id_becomes_a_portable_name_of_its_own(key: str) -> None:
    name = portable(key)
    assert re.fullmatch(r"[A-Za-z0-9._=+-]{1,110}", name)
    assert portable(key + "!") != name


def test_ids_that_differ_only_in_what_is_not_portable_stay_apart() -> None:
    assert len({portable(f"t.py::test[{sign}]") for sign in "×→ :?"}) == 5


def test_a_folder_that_does_not_exist_yet_is_fine(tmp_path: Path) -> None:
    check_traces(tmp_path / "a" / "b", "--llmperf-traces=a/b")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_in_the_way_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UsageError, match=r"^--llmperf-traces=taken: .*is a file, expected a folder$"):
        check_traces(tmp_path / "taken" / below, "--llmperf-traces=taken")


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(UsageError, match=r"^--llmperf-traces=x: this folder cannot be written to$"):
        check_traces(tmp_path, "--llmperf-traces=x")


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (12.0, "it could not be written (is the disk full?)"),
        (Unknown("no operator of torch was seen"), "no operator of torch was seen"),
    ],
)
def test_a_trace_that_was_not_written_is_told_and_leaves_nothing(tmp_path: Path, seen: object, why: str) -> None:
    file = trace_file(tmp_path, "t.py::test")
    file.with_name(f"{file.name}.tmp").write_text("{")
    assert untraced(file, seen) == f"no trace in {file.parent}: {why}"
    assert list(tmp_path.iterdir()) == []


def test_a_trace_that_was_written_stays_and_so_does_an_older_one(tmp_path: Path) -> None:
    written, vain = trace_file(tmp_path, "t.py::test"), trace_file(tmp_path, "t.py::test")
    written.write_text("{}")
    assert untraced(written, 12.0) == ""
    assert untraced(vain, 12.0).startswith("no trace")
    assert list(tmp_path.glob("*/*")) == [written]


def test_a_folder_that_cannot_be_made_after_all_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.py--test").write_text("")
    with pytest.raises(UsageError, match=r"--test, for traces \(--llmperf-traces\), cannot be made: File exists"):
        trace_file(tmp_path, "t.py::test")
