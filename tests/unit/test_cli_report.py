"""`llmperf report`: what it shows, writes and recomputes, and its exit status."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf import tpot_ms
from pytest_llmperf.judge import basis_of, judge
from pytest_llmperf.model import Workload
from pytest_llmperf.reports import document
from pytest_llmperf.reports.run import Run
from pytest_llmperf.results import Result, Row, Verdict
from tests.stored import KEY, record, recording, session
from tests.unit.test_rejudge import BASE, gate, limited
from tests.unit.test_settle import evidence, taken


@pytest.fixture
def run(llmperf_command: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Exit status, standard output and standard error of `llmperf report`, or of another command."""
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *arguments, command="report": llmperf_command(command, *arguments)


def write(file: Path, evidence_: Any, by: Any, **fields: Any) -> Run:
    known = Run(
        "2026-11-22T10:00:00+00:00",
        results=(judge(evidence_, by),),
        bases={evidence_.key: basis_of(evidence_, by)},
        places={evidence_.key: "a.py:1"},
        **fields,
    )
    file.write_text(document.written(known), encoding="utf-8")
    return known


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    write(tmp_path / "kept.json", limited(tpot_ms < 10), gate(tmp_path / "none"))
    return tmp_path / "kept.json"


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    found = limited(tpot_ms < 5, label="long")
    write(tmp_path / "broken.json", found, gate(tmp_path / "none"), failures={"b.py::test_b": "OSError: gone"})
    return tmp_path / "broken.json"


def test_the_tables_are_shown_again(run: Any, kept: Path) -> None:
    status, out, err = run(kept)
    assert (status, err) == (0, "")
    assert "test_turn" in out
    assert "1 measured: 1 new" in out
    assert "ttft_ms " in run(kept, "-v")[1]


def test_what_failed_fails_it(run: Any, broken: Path) -> None:
    status, out, _ = run(broken)
    assert status == 1
    assert out.startswith("BROKEN tpot_ms ")
    assert "(limit < 5)\n" in out
    assert out.index(f"\n{KEY}::long\n") < out.index("1 measured: 1 broken")
    assert out.endswith("failed, and not by a verdict: b.py::test_b: OSError: gone\n")


def test_a_fault_is_shown(run: Any, tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text(document.written(Run("2026", fault="nothing was measured")))
    assert run("f.json") == (1, "0 measured\nnothing was measured\n", "")


def test_several_are_shown_and_written_as_one(run: Any, kept: Path, broken: Path, tmp_path: Path) -> None:
    files = ("--json", "all.json", "--markdown", "all.md", "--custom-json", "c.json")
    status, out, _ = run(kept, broken, *files)
    assert status == 1
    assert "2 measured: 1 broken, 1 new" in out
    both = document.read(tmp_path / "all.json")
    assert [result.key for result in both.results] == [KEY, f"{KEY}::long"]
    assert both.bases.keys() == {KEY, f"{KEY}::long"}
    assert (tmp_path / "all.md").read_text().startswith("### ❌ llmperf: 2 measured: 1 broken, 1 new\n")
    assert json.loads((tmp_path / "c.json").read_text()) == []
    assert json.loads((tmp_path / "c.bigger.json").read_text()) == []


@pytest.mark.parametrize("flag", ["--json", "--markdown", "--custom-json"])
def test_one_can_go_to_standard_output_alone(run: Any, kept: Path, flag: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    status, out, _ = run(kept, flag, "-")
    assert status == 0
    assert out.startswith({"--json": '{"schema": 1, ', "--markdown": "### ✅ llmperf: ", "--custom-json": "["}[flag])
    assert sorted(tmp_path.iterdir()) == before


def test_beside_what_goes_to_standard_output_the_others_are_whole(run: Any, kept: Path, tmp_path: Path) -> None:
    assert run(kept, "--json", "-", "--custom-json", "c.json")[0] == 0
    assert {"c.json", "c.bigger.json"} <= {file.name for file in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("--json", "-", "--markdown", "-"), 4, "only one report can go to standard output"),
        (("--markdown", "no/such/r.md"), 4, "--markdown no/such/r.md: there is no folder no/such"),
        (("--custom-json", "."), 4, "--custom-json .: this is a folder, expected a file"),
        (("gone.json",), 1, "gone.json: No such file or directory; expected a report of pytest --llmperf-json"),
    ],
)
def test_what_cannot_be_is_told(run: Any, kept: Path, arguments: tuple[str, ...], status: int, told: str) -> None:
    assert run(kept, *arguments) == (status, "", f"llmperf: {told}\n")


def test_every_verdict_is_recomputed(run: Any, kept: Path, broken: Path) -> None:
    assert run(kept, broken, "--recompute") == (0, "2 recomputed: every verdict is as reported\n", "")


def test_a_verdict_that_does_not_follow_is_told(run: Any, broken: Path) -> None:
    broken.write_text(broken.read_text().replace('"verdict": "BROKEN"', '"verdict": "OK"'))
    status, out, _ = run(broken, "--recompute")
    assert status == 1
    assert f"{KEY}::long: tpot_ms < 5: reported OK, recomputed BROKEN fails\n" in out
    assert out.endswith("1 recomputed: 2 differ\n")


def test_recomputing_writes_no_reports(run: Any, tmp_path: Path) -> None:
    write(tmp_path / "r.json", evidence(8.0), gate(tmp_path / "none"))
    status, _, err = run("r.json", "--recompute", "--markdown", "m.md")
    assert status == 4
    assert "--recompute tells where verdicts differ, and writes nothing" in err
    assert not (tmp_path / "m.md").exists()


# `llmperf compare` and `show` of the same files


def test_reports_of_runs_are_compared(run: Any, tmp_path: Path) -> None:
    by = gate(tmp_path / "none")
    for name, tpot in (("before.json", 8.0), ("after.json", 80.0), ("same.json", 8.0)):
        write(tmp_path / name, evidence(tpot), by)
    assert run("before.json", "same.json", command="compare")[0] == 0
    out = run("before.json", "after.json", command="compare")[1]
    assert re.search(r"tpot_ms +8\.00 +80\.0 +ms +\+900", out)
    assert run("before.json", command="show")[1].startswith("tests/test_chat.py\n")
    record(tmp_path / "baselines", recording(KEY, session()))
    assert "tpot_ms" in run("baselines", "after.json", command="compare")[1]


def test_a_duet_keeps_nothing_to_compare(run: Any, tmp_path: Path) -> None:
    write(tmp_path / "duet.json", evidence(9.6, BASE, pairs=[taken(0.2)] * 2), gate(tmp_path / "none"))
    status, _, err = run("duet.json", "duet.json", command="compare")
    assert status == 1
    assert err.startswith(
        "llmperf: duet.json: no result holds a recording: it is the report of a duet or of a smoke run"
    )


def test_a_run_that_measured_nothing_holds_no_baselines(run: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text(document.written(Run("2026")))
    status, _, err = run("empty.json", "empty.json", command="compare")
    assert (status, err[:49]) == (1, "llmperf: empty.json holds no baselines: expected ")


def test_what_was_expected_to_fail_fails_nothing(run: Any, tmp_path: Path) -> None:
    row = Row("ttft_ms", "median", "ms", 61.2, limit="< 50", verdict=Verdict.BROKEN)
    result = Result(KEY, "gpt2", Workload(), "cpu", 3, (row,), expected_to_fail=True)
    (tmp_path / "x.json").write_text(document.written(Run("2026", results=(result,))))
    assert run("x.json")[0] == 0
