"""What GitHub Actions shows beside the line of a test that fails."""

from __future__ import annotations

import pytest

from pytest_llmperf.cli import main
from pytest_llmperf.model import Workload
from pytest_llmperf.reports import document
from pytest_llmperf.reports.annotations import MOST, command, written
from pytest_llmperf.reports.run import Run
from pytest_llmperf.results import Explanation, Result, Row, Verdict

BROKEN = Row("tpot_ms", "median", "ms", 8.931, 8.9, 9.0, "< 8", Verdict.BROKEN)
REGRESSED = Row("ttft_ms", "median", "ms", 61.0, verdict=Verdict.REGRESSED, limit="< 60")
OK = Row("ttft_ms", "median", "ms", 12.14, 12.0, 12.3, "< 50", Verdict.OK)


def result(name: str, *rows: Row, **fields) -> Result:
    return Result(f"tests/test_chat.py::{name}", "gpt2", Workload(512, 128), "cpu", 3, rows, **fields)


def run(*results: Result, **fields) -> Run:
    places = {each.test: f"tests/test_chat.py:{line}" for line, each in enumerate(results, 1)}
    return Run("2026-11-22T10:00:00+00:00", results=results, **{"places": places, **fields})


def test_a_failing_test_is_told_at_its_line_with_what_is_known() -> None:
    told = Explanation(hints=("the cache is not used",))
    text = written(run(result("test_good", OK), result("test_turn", BROKEN, explanation=told)))
    assert text == (
        "::error file=tests/test_chat.py,line=2,title=BROKEN test_turn::"
        "BROKEN tpot_ms 8.93 ms (limit < 8)%0Ahint: the cache is not used\n"
    )


def test_nothing_is_told_of_what_passes_or_is_expected_to_fail() -> None:
    assert written(run(result("test_good", OK), result("test_slow", BROKEN, expected_to_fail=True))) == ""


def test_a_label_belongs_to_the_title_and_its_place_is_that_of_the_test() -> None:
    labelled = result("test_turn::short", BROKEN, label="short")
    assert written(run(labelled)).startswith(
        "::error file=tests/test_chat.py,line=1,title=BROKEN test_turn%3A%3Ashort::BROKEN"
    )


def test_what_fails_otherwise_is_told_too() -> None:
    failed = {"tests/test_chat.py::test_turn": "ValueError: no", "tests/test_x.py": "SyntaxError"}
    text = written(
        run(failures=failed, places={"tests/test_chat.py::test_turn": "tests/test_chat.py:7"}, fault="interrupted")
    )
    assert text.splitlines() == [
        "::error title=llmperf::interrupted",
        "::error file=tests/test_chat.py,line=7,title=failed%3A test_turn::ValueError: no",
        "::error title=failed%3A tests/test_x.py::SyntaxError",
    ]


def test_a_long_title_is_cut_to_what_github_takes() -> None:
    text = written(run(result(f"test_turn[{'%' * 1000}]", BROKEN)))
    title = text.partition("title=")[2].partition("::")[0]
    assert title == f"BROKEN test_turn[{'%25' * (255 - len('BROKEN test_turn['))}"


@pytest.mark.parametrize("failing", [MOST - 1, MOST, MOST + 1, 3 * MOST])
def test_there_are_no_more_than_github_shows_worst_first(failing: int) -> None:
    results = [result(f"test_{number}", REGRESSED) for number in range(failing - 1)]
    lines = written(run(*results, result("test_worst", BROKEN))).splitlines()
    assert len(lines) == min(failing, MOST)
    assert "title=BROKEN test_worst" in lines[0]
    more = [line for line in lines if "more fail" in line]
    left = failing - MOST + 1
    assert more == (
        [f"::error title=llmperf::{left} more fail: the summary of this step has them all"] if failing > MOST else []
    )


def test_no_text_ends_a_command_or_begins_another() -> None:
    told = command("50 %\r\n::stop-commands::x", "a, b: c\n::error::", "tests/a,b.py:3", kind="warning")
    assert told == (
        "::warning file=tests/a%2Cb.py,line=3,title=a%2C b%3A c%0A%3A%3Aerror%3A%3A::50 %25%0D%0A::stop-commands::x"
    )


def test_a_long_text_is_cut_where_github_would() -> None:
    assert len(command("x" * 10_000, "title")) < 4_096


def test_the_command_report_prints_them(tmp_path, capsys) -> None:
    file = tmp_path / "report.json"
    file.write_text(document.written(run(result("test_turn", BROKEN))))
    assert main(["report", str(file), "--annotations"]) == 1
    assert capsys.readouterr().out == (
        "::error file=tests/test_chat.py,line=1,title=BROKEN test_turn::BROKEN tpot_ms 8.93 ms (limit < 8)\n"
    )
