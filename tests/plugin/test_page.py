"""`--llmperf-html` and `--llmperf-history`: what a run leaves behind for people."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pytest_llmperf import cli
from tests.plugin.suites import HEAD

TESTS = """
@llm_perf(ttft_ms > 0, model=FAST, prompt_tokens=8, output_tokens=4)
@pytest.mark.parametrize("name", ["plain", "<b>"])
def test_turn(llm, name):
    llm.measure()
"""
KEYS = ("test_page.py::test_turn[plain]", "test_page.py::test_turn[&lt;b&gt;]")


@pytest.fixture
def paged(suite: pytest.Pytester) -> pytest.Pytester:
    suite.makepyfile(test_page=HEAD + TESTS)
    return suite


def runs(folder: Path) -> list[str]:
    (file,) = folder.glob("*.jsonl")
    return file.read_text().splitlines()


def test_the_page_shows_the_run_and_those_before_it(paged: pytest.Pytester) -> None:
    asked = ("--llmperf-html=pages/report.html", "--llmperf-history=history")
    for times in (1, 2):
        result = paged.runpytest(*asked)
        result.assert_outcomes(passed=2)
        page = (paged.path / "pages" / "report.html").read_text()
        assert f'<h2 id="history">Through {times} run{"s"[: times - 1]}</h2>' in page
        assert len(runs(paged.path / "history")) == times
    assert all(f"<h3>{key}</h3>" in page for key in KEYS)
    result.stdout.fnmatch_lines(["llmperf: wrote *history, *pages/report.html"])


def test_a_report_makes_the_page_of_its_run(paged: pytest.Pytester) -> None:
    files = {name: paged.path / name for name in ("run.json", "history.jsonl", "run.html", "again.html")}
    options = zip(("json", "history", "html"), files.values(), strict=False)
    paged.runpytest(*(f"--llmperf-{name}={file}" for name, file in options)).assert_outcomes(passed=2)
    again = [str(files["run.json"]), "--html", str(files["again.html"]), "--history", str(files["history.jsonl"])]
    assert cli.main(["report", *again]) == 0
    assert files["again.html"].read_text() == files["run.html"].read_text()


def test_the_ini_file_may_ask_for_both(paged: pytest.Pytester) -> None:
    with (paged.path / "tox.ini").open("a") as ini:
        ini.write("\nllmperf_html = report.html\nllmperf_history = history.jsonl\n")
    paged.runpytest().assert_outcomes(passed=2)
    assert (paged.path / "report.html").exists()
    assert (paged.path / "history.jsonl").exists()


def test_what_is_no_history_stays_as_it_is_and_costs_no_page(paged: pytest.Pytester) -> None:
    (paged.path / "notes.txt").write_text("mine\n")
    result = paged.runpytest("--llmperf-html=report.html", "--llmperf-history=notes.txt")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["llmperf: --llmperf-history *notes.txt: this is no history of llmperf: nothing was*"])
    assert (paged.path / "notes.txt").read_text() == "mine\n"
    assert (paged.path / "report.html").exists()


def test_smoke_runs_leave_no_trace_in_the_history(paged: pytest.Pytester) -> None:
    paged.runpytest("--llmperf=smoke", "--llmperf-history=history", "--llmperf-html=report.html")
    assert not (paged.path / "history").exists()
    assert (paged.path / "report.html").exists()


def test_what_the_page_needs_is_missed_before_anything_is_measured(
    paged: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    result = paged.runpytest("--llmperf-html=report.html")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--llmperf-html=report.html needs plotly: pip install 'pytest-llmperf?html?'"])
    assert cli.main(["report", "run.json", "--html", "report.html"]) == 4
    assert "--html report.html needs plotly: pip install 'pytest-llmperf[html]'" in capsys.readouterr().err


def test_a_history_is_shown_by_a_page_alone(paged: pytest.Pytester, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "run.json", "--history", "history"]) == 4
    assert "--history history: it is shown by --html" in capsys.readouterr().err
